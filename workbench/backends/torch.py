"""PyTorch on CPU, CUDA and Apple's MPS.

>>> get_backend("torch").device({"device": "cpu"})["kind"]
'cpu'

Options: ``device`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``; default: the best one here), ``threads`` (CPU threads).
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Any

from workbench.backends import process_memory
from workbench.backends.base import Availability, Evidence
from workbench.errors import RuntimeMissing, UsageError
from workbench.registry import backend

FIX = "pip install 'parity-workbench[torch]'"
DEVICE_FORMS = "cpu, cuda, cuda:N, mps"

_in_use = {"kind": "cpu"}
"""The kind of device that ``device`` was last asked about; memory and synchronisation are its."""


@backend("torch")
class TorchBackend:
    """The runtime behind ``torch:...`` models."""

    name = "torch"
    distributions = ("torch", "transformers", "safetensors")

    def available(self) -> Availability:
        """Looks at installed packages only; nothing is imported, so a broken installation is not noticed here."""
        return package_availability(("torch", "transformers"), FIX)

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Import torch, set the number of CPU threads, check the device. Returns ``{"threads"?}``; may be called again."""
        torch = import_torch()
        done: dict[str, Any] = {}
        if "threads" in options:
            threads = options["threads"]
            if not threads.isdigit() or int(threads) < 1:
                raise UsageError(f"threads must be a number of CPU threads, not {threads!r}", fix="?threads=4")
            torch.set_num_threads(int(threads))
            done["threads"] = int(threads)
        resolve_device(options)
        return done

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """Name, kind and memory of the device ``options`` lead to."""
        torch = import_torch()
        from workbench.backends import hardware

        chosen = resolve_device(options)
        _in_use["kind"] = chosen.type
        if chosen.type == "cuda":
            properties = torch.cuda.get_device_properties(chosen)
            return {"name": properties.name, "kind": "cuda", "memory_bytes": properties.total_memory}
        if chosen.type == "mps":
            return {"name": hardware.cpu_model(), "kind": "mps", "memory_bytes": hardware.memory_bytes()}
        return {"name": hardware.cpu_model(), "kind": "cpu", "memory_bytes": hardware.memory_bytes()}

    def evidence(self, options: dict[str, str]) -> Evidence:
        """``device`` on CUDA and MPS, ``host`` on the CPU."""
        return "host" if resolve_device(options).type == "cpu" else "device"

    def synchronize(self) -> None:
        torch = import_torch()
        if _in_use["kind"] == "cuda":
            torch.cuda.synchronize()
        elif _in_use["kind"] == "mps":
            torch.mps.synchronize()

    def peak_memory_bytes(self) -> int | None:
        """CUDA: the allocator's peak over all GPUs. MPS: what the driver holds now. CPU: the process's peak."""
        torch = import_torch()
        if _in_use["kind"] == "cuda":
            return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
        if _in_use["kind"] == "mps":
            return torch.mps.driver_allocated_memory()
        return process_memory.peak_bytes()

    def reset_peak_memory(self) -> None:
        torch = import_torch()
        if _in_use["kind"] == "cuda":
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)
        elif _in_use["kind"] == "cpu":
            process_memory.reset()


def package_availability(names: tuple[str, ...], fix: str) -> Availability:
    """Are the distributions ``names`` installed and their modules findable? The first one's version is the reason."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
            present = importlib.util.find_spec(name.replace("-", "_")) is not None
        except metadata.PackageNotFoundError:
            return Availability(False, f"{name} is not installed", fix)
        except (ImportError, ValueError) as error:
            return Availability(False, f"{name} {found.get(name)} cannot be found by import: {error}", fix)
        if not present:
            return Availability(False, f"{name} {found[name]} is listed as installed, but its module is missing", fix)
    return Availability(True, ", ".join(f"{name} {version}" for name, version in found.items()))


def import_torch():
    """The torch module. Raises RuntimeMissing when it is absent or broken."""
    try:
        import torch
    except (ImportError, OSError) as error:
        raise RuntimeMissing("PyTorch cannot be imported", why=str(error).splitlines()[0], fix=FIX) from error
    return torch


def resolve_device(options: dict[str, str]):
    """The ``torch.device`` that ``options`` ask for, else CUDA, MPS or the CPU, whichever is here first.

    Raises UsageError for a form that is not understood and RuntimeMissing for a device that is not here.
    """
    torch = import_torch()
    asked = options.get("device", "auto")
    if options.get("device_map") and asked != "auto":
        raise UsageError(
            "device and device_map were both given", why="device_map places the parts itself", fix="leave one of them out"
        )
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"unknown device {asked!r}", why=f"known: {DEVICE_FORMS}", fix="--device cpu") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {asked!r}", why=f"known: {DEVICE_FORMS}", fix="--device cpu")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        why = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        raise RuntimeMissing(f"device {asked!r} is not here", why=why, fix="--device cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeMissing("device 'mps' is not here", why="it needs a Mac with Apple silicon", fix="--device cpu")
    return chosen
