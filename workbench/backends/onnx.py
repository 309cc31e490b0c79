"""ONNX: ONNX Runtime on the CPU or an accelerator, ONNX's own reference implementation for what it cannot run.

>>> get_backend("onnx").evidence({})
'host'

Options: ``provider`` (``cpu``, ``cuda``, ``coreml``, ``openvino``, ...; default ``cpu``), ``reading`` (``optimised``: as ONNX Runtime runs
a file unless told otherwise; ``pure``: the graph as it is written), ``executor`` (``auto``: the reference where the graph holds bfloat16;
``onnxruntime``; ``reference``), ``threads`` (CPU threads of ONNX Runtime).

``open_reference`` is for what runs elsewhere: TensorRT's graphs are read here before there is an engine, as evidence ``reference``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.backends import process_memory
from workbench.backends.base import Availability, Evidence, TensorProgram
from workbench.backends.onnx_file import FIX, import_onnx, read
from workbench.backends.onnx_session import READINGS, SessionProgram, import_onnxruntime
from workbench.backends.torch import package_availability
from workbench.errors import RuntimeMissing, UsageError
from workbench.registry import backend

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "migraphx": ("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "xnnpack": ("XnnpackExecutionProvider", None),
}
"""Our word -> ONNX Runtime's name (``onnxruntime.get_all_providers()``; a test compares), and the distribution that brings it, if one does."""

DISTRIBUTIONS = tuple(dict.fromkeys(name for _, name in PROVIDERS.values() if name))
"""Builds of ONNX Runtime; one at a time is installed, and all are imported as ``onnxruntime``."""

EXECUTORS = ("auto", "onnxruntime", "reference")


@dataclass(frozen=True)
class Settings:
    """Options that were checked. ``provider`` is ours; ``executor`` one of EXECUTORS."""

    provider: str
    reading: str
    executor: str
    threads: int | None


def settings(options: Mapping[str, str]) -> Settings:
    """Read ``options``; those of other parts (recipes, loading) are left alone. Raises UsageError for what would do nothing."""
    executor = _one_of("executor", options.get("executor") or "auto", EXECUTORS)
    provider = _one_of("provider", options.get("provider") or "cpu", tuple(PROVIDERS))
    reading = _one_of("reading", options.get("reading") or ("pure" if executor == "reference" else "optimised"), READINGS)
    if executor == "reference":
        for name in ("provider", "threads"):
            if options.get(name):
                raise UsageError(
                    f"{name}={options[name]} would do nothing here",
                    why="executor=reference is numpy, on this CPU",
                    fix=f"leave executor out, or {name}",
                )
        if reading != "pure":
            raise UsageError(
                f"reading={reading} would do nothing here",
                why="executor=reference computes the graph as it is written",
                fix="leave executor out, or reading",
            )
    return Settings(provider, reading, executor, _threads(options))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = next((item for item in known if item[:3] == value.lower()[:3]), known[0])
        raise UsageError(f"unknown {name} {value!r} for ONNX Runtime", why=f"known: {', '.join(known)}", fix=f"?{name}={near}")
    return value


def _threads(options: Mapping[str, str]) -> int | None:
    text = options.get("threads")
    if not text:
        return None
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise UsageError(f"threads must be a number of CPU threads, not {text!r}", fix="?threads=4")
    return int(text)


def open_program(
    path: str | Path, options: Mapping[str, str], function: str | None = None, evidence: Evidence | None = None
) -> TensorProgram:
    """As `ONNXBackend.open`."""
    chosen = settings(options)
    if function not in (None, "", "main"):
        raise UsageError(
            f"{Path(path).name} has no function {function!r}", why="an ONNX file is one program", fix="leave function out"
        )
    file = read(path)
    if chosen.executor == "reference" or (chosen.executor == "auto" and "bfloat16" in file.types):
        from workbench.backends.onnx_reference import ReferenceEvaluatorProgram

        return ReferenceEvaluatorProgram(file)
    return SessionProgram(
        file,
        reading=chosen.reading,
        provider=find_provider(chosen.provider),
        threads=chosen.threads,
        evidence=evidence or _evidence(chosen),
    )


def open_reference(path: str | Path, options: Mapping[str, str]) -> TensorProgram:
    """The graph as it is written, on this CPU, as evidence ``reference``. Of ``options`` only ``threads`` counts.

    bfloat16 too runs on ONNX Runtime here, op by op with each result rounded: the same numbers as `onnx.reference` but for the order in
    which sums are added up, ten times faster. Raises as `ONNXBackend.open`.
    """
    threads = {"threads": options["threads"]} if options.get("threads") else {}
    return open_program(path, {**threads, "executor": "onnxruntime", "reading": "pure"}, evidence="reference")


def find_provider(name: str) -> str:
    """ONNX Runtime's name of a provider. Raises RuntimeMissing where the installed build has it not."""
    ort = import_onnxruntime()
    wanted, distribution = PROVIDERS[name]
    here = ort.get_available_providers()
    if wanted in here:
        return wanted
    words = [word for word, (each, _) in PROVIDERS.items() if each in here]
    raise RuntimeMissing(
        f"the provider {name!r} is not in this build of ONNX Runtime",
        why=f"onnxruntime {ort.__version__} brings {', '.join(words)}; {wanted} is not among them",
        fix=_provider_fix(name, distribution),
    )


def _provider_fix(name: str, distribution: str | None) -> str:
    if distribution is None:
        return f"build ONNX Runtime with {name}, or ?provider=cpu"
    if distribution == "onnxruntime":
        return f"run it on a Mac (pip install onnxruntime brings {name} there), or ?provider=cpu"
    return f"pip uninstall -y onnxruntime && pip install {distribution}"


def _evidence(chosen: Settings) -> Evidence:
    if chosen.executor == "reference":
        return "reference"
    return "host" if chosen.provider in ("cpu", "xnnpack") else "device"


@backend("onnx")
class ONNXBackend:
    """The runtime behind ``onnx:...`` models."""

    name = "onnx"
    distributions = ("onnx", *DISTRIBUTIONS, "numpy")

    def available(self) -> Availability:
        """Looks at installed packages only. The notes name the build of ONNX Runtime where it is another than the plain one."""
        found = package_availability(("onnx",), FIX)
        if not found.ok:
            return found
        for name in DISTRIBUTIONS:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            module = package_availability((name,), FIX) if name == "onnxruntime" else Availability(True, f"{name} {version}")
            return Availability(module.ok, f"{module.reason}, {found.reason}", module.fix)
        return Availability(False, f"onnxruntime is not installed ({found.reason})", FIX)

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Check the options, the libraries and the provider. Returns ``{"executor", "reading", "provider"?, "threads"?}``."""
        chosen = settings(options)
        onnx = import_onnx()
        if self._by_reference(options, chosen):
            return {"executor": f"onnx.reference {onnx.__version__}", "reading": "pure"}
        found = find_provider(chosen.provider)
        done: dict[str, Any] = {"executor": "onnxruntime", "reading": chosen.reading, "provider": found}
        if chosen.threads is not None:
            done["threads"] = chosen.threads
        return done

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """Name, kind (``cpu``, ``cuda``, ``reference`` or the provider's own word) and memory."""
        from workbench.backends import hardware

        chosen, name = settings(options), hardware.cpu_model()
        memory = hardware.memory_bytes()
        if self._by_reference(options, chosen):
            return {"name": f"onnx.reference on {name}", "kind": "reference", "memory_bytes": memory}
        if chosen.provider in ("cpu", "xnnpack"):
            return {"name": name, "kind": "cpu", "memory_bytes": memory}
        if chosen.provider in ("cuda", "tensorrt") and hardware.gpus():
            gpu = hardware.gpus()[0]
            return {"name": gpu["name"], "kind": "cuda", "memory_bytes": gpu["memory_bytes"]}
        return {"name": f"{name}, {chosen.provider}", "kind": chosen.provider, "memory_bytes": memory}

    def evidence(self, options: dict[str, str]) -> Evidence:
        """``host`` on the CPU, ``device`` with an accelerator's provider, ``reference`` on ONNX's own implementation.

        A graph of bfloat16 is run by the latter unless told otherwise: ``precision=bf16`` among the options says so before it is open.
        """
        chosen = settings(options)
        return "reference" if self._by_reference(options, chosen) else _evidence(chosen)

    @staticmethod
    def _by_reference(options: Mapping[str, str], chosen: Settings) -> bool:
        return chosen.executor == "reference" or (chosen.executor == "auto" and options.get("precision") == "bf16")

    def synchronize(self) -> None:
        """A run that has come back is done."""

    def peak_memory_bytes(self) -> int | None:
        """The process's peak: what lies on an accelerator ONNX Runtime does not tell."""
        return process_memory.peak_bytes()

    def reset_peak_memory(self) -> None:
        process_memory.reset()

    def open(
        self, path: str | Path, options: Mapping[str, str], function: str | None = None, evidence: Evidence | None = None
    ) -> TensorProgram:
        """Load an ``.onnx`` file. ``evidence``: what the caller says it is evidence of, where that is less than what ran.

        Raises ModelError, UsageError, RuntimeMissing.
        """
        return open_program(path, options, function, evidence)
