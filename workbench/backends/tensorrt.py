"""TensorRT: engines on an NVIDIA GPU, and the very graph they are built from, read by reference, anywhere else.

>>> get_backend("tensorrt").evidence({})          # without a GPU
'reference'

Options: ``executor`` (``auto``: an engine where TensorRT and a CUDA GPU are, else the reference; ``engine``; ``reference``). Of the engine:
``device`` (the GPU's number), ``profile`` (sizes it is built for: ``tensorrt_profiles``), ``workspace`` (memory that its kernels may use:
``4GiB``; a bare number is MiB), ``opt_level`` (0 to 5, TensorRT's own effort), ``timing_cache`` (``auto``, ``off`` or a file), ``tf32``
(``true``: fp32 products in TF32), ``refit`` (``true``: its weights can be exchanged), ``cuda_graph`` (``true``: each shape's work is recorded
once and replayed), ``timeout`` (seconds that its build may take). Of the reference: ``threads`` (CPU threads).

An engine is built on first use and kept (``tensorrt_engines``). Reference execution is not timed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.backends import tensorrt_api, tensorrt_engines, tensorrt_gpu
from workbench.backends.base import Availability, Evidence, TensorProgram
from workbench.backends.onnx_file import FIX as ONNX_FIX
from workbench.backends.onnx_file import read
from workbench.backends.tensorrt_api import FIX, Api
from workbench.backends.tensorrt_build import TIMEOUT_SECONDS, Request
from workbench.backends.tensorrt_gpu import REFERENCE, Gpu
from workbench.backends.tensorrt_profiles import profiles_of
from workbench.backends.torch import package_availability
from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.fingerprint import versions
from workbench.registry import backend

EXECUTORS = ("auto", "engine", "reference")
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
"""Distributions that bring the module, by CUDA release; the first is a name for one of the others."""
UNITS = {"": 2**20, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
LEAST_WORKSPACE = 2**20
OF_ENGINE = ("device", "profile", "workspace", "opt_level", "timing_cache", "tf32", "refit", "cuda_graph", "timeout")
USUAL = {"device": ("0",), "timing_cache": ("auto",), "tf32": ("false",), "refit": ("false",), "cuda_graph": ("false",)}
"""What an option says when it says nothing; such a value is no wish, and refused nowhere."""


@dataclass(frozen=True)
class Settings:
    """Options that were checked. ``engine`` is False for the reference, which ``threads`` belongs to; all between is the engine's."""

    engine: bool
    device: int = 0
    profile: str = ""
    workspace_bytes: int | None = None
    opt_level: int | None = None
    timing_cache: str = "auto"
    tf32: bool = False
    refit: bool = False
    cuda_graph: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS
    threads: str = ""


def settings(options: Mapping[str, str]) -> Settings:
    """Read ``options``; those of other parts (recipes, loading) are left alone.

    Raises UsageError for what would do nothing, RuntimeMissing for ``executor=engine`` where none can be.
    """
    executor = _one_of("executor", options.get("executor") or "auto", EXECUTORS)
    device = _device(options)
    lack = None if executor == "reference" else missing(device)
    if executor == "engine" and lack is not None:
        raise lack
    if executor == "reference" or lack is not None:
        _refuse(options, lack)
        return Settings(False, threads=_threads(options))
    if options.get("threads"):
        raise UsageError(
            f"threads={options['threads']} would do nothing here",
            why="an engine runs on the GPU; threads belong to the reference",
            fix=f"leave threads out, or {REFERENCE}&threads={options['threads']}",
        )
    timing = options.get("timing_cache") or "auto"
    return Settings(
        True,
        device,
        options.get("profile") or "",
        _workspace(options),
        _level(options),
        timing,
        _flag(options, "tf32"),
        _flag(options, "refit"),
        _flag(options, "cuda_graph"),
        _timeout(options),
    )


def missing(device: int = 0) -> RuntimeMissing | None:
    """What an engine lacks here, all of it in one error; None where one can be built and run."""
    lacks = [each for each in _usable(device) if isinstance(each, RuntimeMissing)]
    if not lacks:
        return None
    if len(lacks) == 1:
        return RuntimeMissing(lacks[0].what, why=lacks[0].why, fix=lacks[0].fix)
    return RuntimeMissing(
        "a TensorRT engine can be neither built nor run here",
        why="; ".join(f"{each.what} ({each.why})" for each in lacks),
        fix=lacks[0].fix,
    )


@lru_cache(maxsize=8)
def _usable(device: int) -> tuple[Gpu | RuntimeMissing, Api | RuntimeMissing | None]:
    """The GPU and the module, each or what it lacks. Without a GPU a TensorRT that is there is not imported, and None."""
    gpu: Gpu | RuntimeMissing
    api: Api | RuntimeMissing
    try:
        gpu = tensorrt_gpu.gpu_of(device)
    except RuntimeMissing as error:
        gpu = error
    try:
        if isinstance(gpu, RuntimeMissing) and _installed():
            return gpu, None
        api = tensorrt_api.import_tensorrt()
    except RuntimeMissing as error:
        api = error
    return gpu, api


def _installed() -> bool:
    """Is there a module of that name? Nothing is imported."""
    try:
        return "tensorrt" in sys.modules or importlib.util.find_spec("tensorrt") is not None
    except (ImportError, ValueError):
        return False


def _refuse(options: Mapping[str, str], lack: RuntimeMissing | None) -> None:
    for name in OF_ENGINE:
        if options.get(name) and options[name] not in USUAL.get(name, ()):
            raise UsageError(
                f"{name}={options[name]} would do nothing here",
                why=f"{name} belongs to an engine; "
                + ("the graph is read by reference" if lack is None else f"{lack.what} ({lack.why})"),
                fix=f"leave {name} out" if lack is not None else f"?executor=engine&{name}={options[name]}",
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = next((item for item in known if item[:3] == value.lower()[:3]), known[0])
        raise UsageError(f"unknown {name} {value!r} for TensorRT", why=f"known: {', '.join(known)}", fix=f"?{name}={near}")
    return value


def _device(options: Mapping[str, str]) -> int:
    text = (options.get("device") or "0").removeprefix("cuda:")
    if not text.isdigit() or len(text) > 3:
        raise UsageError(
            f"device must be a GPU's number, not {options['device']!r}", why="nvidia-smi lists them from 0", fix="?device=0"
        )
    return int(text)


def _workspace(options: Mapping[str, str]) -> int | None:
    text = options.get("workspace")
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    size = int(float(found[1]) * UNITS[found[2].lower()]) if found and found[2].lower() in UNITS else 0
    if size < LEAST_WORKSPACE:
        raise UsageError(
            f"workspace must be memory of at least 1 MiB, not {text!r}",
            why="units: KiB, MiB, GiB, KB, MB, GB; without one MiB",
            fix="?workspace=4GiB",
        )
    return size


def _level(options: Mapping[str, str]) -> int | None:
    text = options.get("opt_level")
    if not text:
        return None
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise UsageError(
            f"opt_level must be 0 to 5, not {text!r}",
            why="0 builds quickest, 5 tries most; TensorRT's own is 3",
            fix="?opt_level=3",
        )
    return int(text)


def _flag(options: Mapping[str, str], name: str) -> bool:
    return _one_of(name, options.get(name) or "false", ("true", "false")) == "true"


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


def _threads(options: Mapping[str, str]) -> str:
    from workbench.backends import onnx

    onnx.settings(_of_reference(options))
    return options.get("threads") or ""


def _of_reference(options: Mapping[str, str]) -> dict[str, str]:
    """What the ONNX backend is asked in our place: the pure reading, and ONNX's own implementation for bfloat16."""
    kept = {name: options[name] for name in ("threads", "precision") if options.get(name)}
    return {**kept, "reading": "pure"}


@backend("tensorrt")
class TensorRTBackend:
    """The runtime behind ``tensorrt:...`` models."""

    name = "tensorrt"
    distributions = ("onnx", "onnxruntime", "onnxruntime-gpu", *TENSORRT, "torch", "numpy")

    def available(self) -> Availability:
        """Looks at installed packages and nvidia-smi only. Without an engine the graphs are read by reference, and the notes say why."""
        from workbench.backends import onnx

        found = onnx.ONNXBackend().available()
        lacks = [] if tensorrt_gpu.present() else ["no NVIDIA GPU"]
        if not _installed():
            lacks.append("TensorRT is not installed")
        if not package_availability(("torch",), FIX).ok:
            lacks.append("torch is not installed")
        if not found.ok or lacks:
            why = f"no engine: {', '.join(lacks)}" if lacks else ""
            notes = tuple(each for each in ("reference execution: no timing", why) if each)
            return Availability(found.ok, found.reason, found.fix or (None if found.ok else ONNX_FIX), notes)
        told = versions(TENSORRT)
        named = ", ".join(f"{name} {version}" for name, version in told.items()) or "tensorrt"
        return Availability(True, f"{named}, {found.reason}")

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Check the options, the GPU and the libraries. Returns what answers depend on: ``{"executor", ...}``."""
        chosen = settings(options)
        if not chosen.engine:
            from workbench.backends import onnx

            return onnx.ONNXBackend().prepare(_of_reference(options))
        gpu, api = self._parts(chosen)
        done: dict[str, Any] = {
            "executor": f"TensorRT {api.version}",
            "gpu": gpu.name,
            "capability": gpu.capability,
            "tf32": chosen.tf32,
            "cuda_graph": chosen.cuda_graph,
        }
        more = {"profile": chosen.profile or None, "workspace_bytes": chosen.workspace_bytes, "opt_level": chosen.opt_level}
        return done | {name: value for name, value in more.items() if value is not None}

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """Name, kind (``cuda`` or ``reference``) and memory."""
        from workbench.backends import hardware

        chosen = settings(options)
        if not chosen.engine:
            by = "onnx.reference" if options.get("precision") == "bf16" else "ONNX Runtime"
            name = f"reference ({by}) on {hardware.cpu_model()}"
            return {"name": name, "kind": "reference", "memory_bytes": hardware.memory_bytes()}
        gpu, _ = self._parts(chosen)
        return {"name": gpu.name, "kind": "cuda", "memory_bytes": gpu.memory_bytes}

    def evidence(self, options: dict[str, str]) -> Evidence:
        """``device`` with an engine, else ``reference``."""
        return "device" if settings(options).engine else "reference"

    def synchronize(self) -> None:
        """A call of a program that has come back is done: it waited for its stream."""

    def peak_memory_bytes(self) -> int | None:
        """None: an engine's memory is TensorRT's own, which tells no peak, and a reference's memory says nothing of an engine's."""
        return None

    def reset_peak_memory(self) -> None:
        """Nothing is measured."""

    def open(
        self, path: str | Path, options: Mapping[str, str], function: str | None = None, evidence: Evidence | None = None
    ) -> TensorProgram:
        """Load an ``.onnx`` file; its engine is built now where it is not in the cache. ``evidence`` must be what it is going to be.

        Raises ModelError (also for a built engine in the place of a graph), UsageError and RuntimeMissing.
        """
        chosen = settings(options)
        path = Path(path)
        tensorrt_engines.refuse_plan(path)
        if function not in (None, "", "main"):
            raise UsageError(
                f"{path.name} has no function {function!r}", why="an ONNX file is one program", fix="leave function out"
            )
        if not chosen.engine:
            from workbench.backends import onnx

            if options.get("executor") != "reference" and tensorrt_gpu.present():
                _say_lack(_device(options))
            return onnx.open_reference(path, {"threads": chosen.threads} if chosen.threads else {})
        if evidence not in (None, "device"):
            raise UsageError(f"an engine is evidence of the device, not {evidence!r}", fix=REFERENCE)
        return self._open_engine(path, chosen)

    def _open_engine(self, path: Path, chosen: Settings) -> TensorProgram:
        from workbench.backends.tensorrt_cuda import Cuda
        from workbench.backends.tensorrt_program import EngineProgram

        gpu, api = self._parts(chosen)
        file = read(path, custom=True)  # whether a plugin knows an op of another domain is TensorRT's to say
        profiles = profiles_of(file, chosen.profile)

        def engine_of(debug: tuple[str, ...] = ()) -> tensorrt_engines.Engine:
            request = Request(profiles, chosen.workspace_bytes, chosen.opt_level, chosen.refit, chosen.tf32, debug)
            return tensorrt_engines.ensure(file, request, api, gpu, chosen.timing_cache, _say, chosen.timeout_seconds)

        made = engine_of()
        try:
            return EngineProgram(
                made.engine,
                api=api,
                device=Cuda(chosen.device),
                name=path.name,
                cuda_graph=chosen.cuda_graph,
                build=made.report,
                opset=file.opset,
                again=lambda names: engine_of(names).engine,
            )
        except RuntimeError as error:
            raise ModelError(
                f"the engine of {path.name} cannot be used", why=str(error).splitlines()[0], fix="nvidia-smi"
            ) from error

    @staticmethod
    def _parts(chosen: Settings) -> tuple[Gpu, Api]:
        gpu, api = _usable(chosen.device)
        for each in (gpu, api):
            if isinstance(each, RuntimeMissing):
                raise each
        return gpu, api  # type: ignore[return-value]


@lru_cache(maxsize=8)
def _say_lack(device: int) -> None:
    """Once: who has a GPU expects an engine."""
    lack = missing(device)
    if lack is not None:
        _say(f"no engine, the graph is read by reference: {lack.what} ({lack.why})")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
