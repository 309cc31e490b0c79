"""Core ML: Apple's runtime on a Mac, a reference executor of the same packages anywhere else.

>>> get_backend("coreml").evidence({})          # on Linux
'reference'

Options: ``units`` (``CPU_ONLY``, ``CPU_AND_GPU``, ``CPU_AND_NE``, ``ALL``; on a Mac, default ``ALL``), ``executor`` (``auto``: the
device on a Mac, else the reference; ``reference``), ``reading`` (how the reference executor computes floats: ``native``, ``emulate``,
``fp16-weights``, ``float64``), ``threads`` (CPU threads of the reference executor), ``timeout`` (seconds that the device may take to
load or to answer once).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.backends.base import Availability, Evidence, TensorProgram
from workbench.backends.coreml_package import FIX, import_coremltools
from workbench.backends.coreml_process import TIMEOUT_SECONDS
from workbench.backends.coreml_reference import READINGS, ReferenceProgram
from workbench.backends.torch import package_availability
from workbench.errors import UsageError
from workbench.registry import backend

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
"""Members of ``coremltools.ComputeUnit`` (a test compares). Core ML may use those processors, and chooses among them op by op."""
EXECUTORS = ("auto", "reference")


@dataclass(frozen=True)
class Settings:
    """Options that were checked. ``units`` is None for the reference executor."""

    units: str | None
    reading: str
    threads: int | None
    timeout_seconds: float


def settings(options: Mapping[str, str]) -> Settings:
    """Read ``options``; those of other parts (recipes, loading) are left alone. Raises UsageError for what would do nothing."""
    executor = _one_of("executor", options.get("executor", "auto"), EXECUTORS)
    mac = platform.system() == "Darwin"
    reference = executor == "reference" or not mac
    units = options.get("units")
    if units is not None:
        _one_of("units", units, UNITS)
        if reference:
            raise UsageError(
                f"units={units} would do nothing here",
                why="compute units are Core ML's, on a Mac; "
                + ("with executor=reference" if mac else "on this machine")
                + " programs run on the reference executor",
                fix="leave executor out" if mac else "leave units out, or run this on a Mac",
            )
    for name in ("reading", "threads"):
        if not reference and options.get(name):
            raise UsageError(
                f"{name}={options[name]} would do nothing here",
                why=f"{name} belongs to the reference executor; Core ML decides such things itself",
                fix=f"?executor=reference&{name}={options[name]}",
            )
    reading = _one_of("reading", options.get("reading") or "native", READINGS)
    return Settings(None if reference else units or "ALL", reading, _threads(options), _timeout(options))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = next((item for item in known if item.lower() == value.lower().replace("-", "_")), known[0])
        raise UsageError(f"unknown {name} {value!r} for Core ML", why=f"known: {', '.join(known)}", fix=f"?{name}={near}")
    return value


def _threads(options: Mapping[str, str]) -> int | None:
    text = options.get("threads")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"threads must be a number of CPU threads, not {text!r}", fix="?threads=4")
    return int(text)


def _timeout(options: Mapping[str, str]) -> float:
    text = options.get("timeout")
    if not text:
        return TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"timeout must be a number of seconds above 0, not {text!r}", fix=f"?timeout={TIMEOUT_SECONDS:.0f}")
    return seconds


@backend("coreml")
class CoreMLBackend:
    """The runtime behind ``coreml:...`` models."""

    name = "coreml"
    distributions = ("coremltools", "torch", "numpy")

    def available(self) -> Availability:
        """Looks at installed packages only. Off a Mac the notes say that nothing is timed."""
        found = package_availability(("coremltools", "torch"), FIX)
        if not found.ok or platform.system() == "Darwin":
            return found
        return Availability(found.ok, found.reason, found.fix, ("reference execution: no timing",))

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Check the options and the libraries. Returns ``{"executor", "reading", "threads"?}`` or ``{"units"}``."""
        chosen = settings(options)
        import_coremltools()
        if chosen.units is not None:
            return {"units": chosen.units}
        import torch

        from workbench import __version__

        done: dict[str, Any] = {"executor": f"workbench.mil {__version__} on torch", "reading": chosen.reading}
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
            done["threads"] = chosen.threads
        return done

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """Name, kind (``coreml`` or ``reference``) and memory."""
        from workbench.backends import hardware

        chosen, name = settings(options), hardware.cpu_model()
        if chosen.units is None:
            return {"name": f"reference executor on {name}", "kind": "reference", "memory_bytes": hardware.memory_bytes()}
        return {"name": f"{name}, {chosen.units}", "kind": "coreml", "memory_bytes": hardware.memory_bytes()}

    def evidence(self, options: dict[str, str]) -> Evidence:
        """``host`` for CPU_ONLY on a Mac, ``device`` for the other units, ``reference`` anywhere else."""
        units = settings(options).units
        if units is None:
            return "reference"
        return "host" if units == "CPU_ONLY" else "device"

    def synchronize(self) -> None:
        """A prediction that has come is done."""

    def peak_memory_bytes(self) -> int | None:
        """None: Core ML does not tell what the GPU and the Neural Engine hold, and a reference executor's memory says nothing."""
        return None

    def reset_peak_memory(self) -> None:
        """Nothing is measured."""

    def open(self, path: str | Path, options: Mapping[str, str], function: str | None = None) -> TensorProgram:
        """Load one function of a ``.mlpackage``. Raises ModelError, UsageError, RuntimeMissing."""
        chosen = settings(options)
        if chosen.units is None:
            return ReferenceProgram(path, function, chosen.reading)
        from workbench.backends.coreml_device import DeviceProgram

        return DeviceProgram(path, function, chosen.units, timeout_seconds=chosen.timeout_seconds)
