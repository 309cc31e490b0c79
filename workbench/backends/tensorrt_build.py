"""An engine from an ONNX file: parsed, given profiles and limits, built, and stopped when somebody wants it stopped.

    built = build(file, Request(profiles, workspace_bytes=4 << 30), api, gpu, timing, say)
    built.plan                     # bytes: what Runtime.deserialize_cuda_engine takes
    built.report["messages"]       # what TensorRT said

Types are the graph's: 10 is asked for a strongly typed network, 11 makes no others. TF32, which TensorRT would use for fp32 products, is
off unless asked for, since the graph does not say it. The build runs in a thread of its own: Python handles Ctrl-C in the main thread only,
and TensorRT asks the progress monitor, from threads of its own, whether to go on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.backends.onnx_file import OnnxFile
from workbench.backends.tensorrt_api import Api, IBuilderConfig, INetworkDefinition, IProgressMonitor, worst
from workbench.backends.tensorrt_gpu import Gpu
from workbench.backends.tensorrt_inspect import mark_debug
from workbench.backends.tensorrt_profiles import Profile
from workbench.backends.tensorrt_timing_cache import TimingCache
from workbench.errors import ModelError, RuntimeMissing, UsageError, WorkbenchError

Say = Callable[[str], None]
TIMEOUT_SECONDS = 3600.0
SAID_SECONDS = 10.0
"""Between two lines about the progress of one phase."""
MEMORY_WORDS = ("out of memory", "outofmemory", "insufficient memory", "requested size was", "workspace")
MANIFEST = "converted.json"


@dataclass(frozen=True)
class Request:
    """What an engine is asked to be. ``debug``: values that ``observe`` will look at; they are not fused away."""

    profiles: tuple[Profile, ...] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    refit: bool = False
    tf32: bool = False
    debug: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Part of an engine's key."""
        return {
            "profiles": [each.to_json() for each in self.profiles],
            "workspace_bytes": self.workspace_bytes,
            "opt_level": self.level,
            "refit": self.refit,
            "tf32": self.tf32,
            "debug": sorted(self.debug),
        }


@dataclass
class Built:
    """``report``: ``{"seconds", "phases", "layers", "timing_cache", "messages", "plan_bytes"}``."""

    plan: bytes
    report: dict[str, Any] = field(default_factory=dict)


class Monitor:
    """What a build is doing, told from any thread; ``stop`` is set by whoever wants it ended."""

    def __init__(self, say: Say, timeout_seconds: float):
        self.say, self.stop, self.lock = say, threading.Event(), threading.Lock()
        self.deadline, self.late = time.monotonic() + timeout_seconds, False
        self.sizes: dict[str, int] = {}
        self.phases: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._said = 0.0

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        with self.lock:
            self.sizes[phase], self._began[phase] = steps, time.monotonic()
            if parent is None:
                self._tell(f"building the engine: {phase}")

    def go_on(self, phase: str, step: int) -> bool:
        with self.lock:
            if time.monotonic() > self.deadline:
                self.late = True
                self.stop.set()
            if time.monotonic() - self._said > SAID_SECONDS:
                self._tell(f"building the engine: {phase}, step {step + 1} of {self.sizes.get(phase, '?')}")
        return not self.stop.is_set()

    def end(self, phase: str) -> None:
        with self.lock:
            began = self._began.pop(phase, None)
            if began is not None:
                self.phases[phase] = round(self.phases.get(phase, 0.0) + time.monotonic() - began, 3)

    def _tell(self, text: str) -> None:
        self._said = time.monotonic()
        self.say(text)


def progress_monitor(api: Api, monitor: Monitor) -> IProgressMonitor:
    """What TensorRT is given: a subclass of its own class."""
    base = api.module.IProgressMonitor

    class Progress(base):  # type: ignore[misc, valid-type]
        def __init__(self):
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return monitor.go_on(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            monitor.end(phase_name)

    return Progress()


def build(
    file: OnnxFile,
    request: Request,
    api: Api,
    gpu: Gpu,
    timing: TimingCache,
    say: Say,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Built:
    """The plan of an engine. Raises ModelError (what TensorRT's parser or builder refuses), UsageError (a profile that does not fit, a
    build that takes too long) and KeyboardInterrupt; nothing was written then but a timing cache set aside."""
    monitor, result = Monitor(say, timeout_seconds), _Result()

    def work() -> None:
        try:
            with gpu.use():  # the GPU is the thread's
                result.built = _build(file, request, api, gpu, timing, say, monitor)
        except BaseException as error:  # handed to the thread that waits
            result.error = error
        finally:
            result.done.set()

    threading.Thread(target=work, name="tensorrt build", daemon=True).start()
    try:
        while not result.done.wait(0.2):
            pass
    except KeyboardInterrupt:
        monitor.stop.set()
        say("stopping the build of the engine (at its next step)")
        result.done.wait()
        raise
    if result.error is not None:
        raise result.error
    assert result.built is not None
    return result.built


class _Result:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.built: Built | None = None
        self.error: BaseException | None = None


def _build(file: OnnxFile, request: Request, api: Api, gpu: Gpu, timing: TimingCache, say: Say, monitor: Monitor) -> Built:
    began = time.monotonic()
    with api.listening() as messages:
        builder = api.builder()
        network = builder.create_network(api.network_flags())
        _parse(file, network, api, messages)
        if request.debug:
            mark_debug(network, request.debug)
        config = builder.create_builder_config()
        _limits(config, request, api)
        for profile in _checked(request.profiles, network, file):
            made = builder.create_optimization_profile()
            try:
                for name, three in profile.shapes.items():
                    made.set_shape(name, *three)
                for name, three in profile.values.items():
                    made.set_shape_input(name, *three)
                number = config.add_optimization_profile(made)
            except (RuntimeError, ValueError) as error:
                raise UsageError("TensorRT refuses the profile", why=str(error), fix="?profile=T:1/64/512") from error
            if number < 0:
                raise UsageError("TensorRT refuses the profile", why=worst(messages) or None, fix="?profile=T:1/64/512")
        timing.attach(config, say)
        config.progress_monitor = progress_monitor(api, monitor)
        say(f"building an engine of {file.path.name} for {gpu.name} with TensorRT {api.version} (minutes for a large model)")
        plan = builder.build_serialized_network(network, config)
        if monitor.stop.is_set():
            raise _stopped(monitor, file)
        if plan is None:
            raise _refused(file, messages)
        timing.keep(config, say)
        seconds = time.monotonic() - began
        content = bytes(memoryview(plan))
        report = {
            "seconds": round(seconds, 3),
            "phases": monitor.phases,
            "layers": network.num_layers,
            "timing_cache": timing.state,
            "messages": [_without_paths(each, file) for each in messages],
            "plan_bytes": len(content),
        }
    return Built(content, report)


def _without_paths(message: dict[str, str], file: OnnxFile) -> dict[str, str]:
    """A report travels; whose machine it was made on does not."""
    return {**message, "text": message["text"].replace(f"{file.path.absolute().parent}/", "")}


def _parse(file: OnnxFile, network: INetworkDefinition, api: Api, messages: list[dict[str, str]]) -> None:
    parser = api.module.OnnxParser(network, api.logger)
    if parser.parse_from_file(str(file.path.absolute())):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = []
    for error in errors:
        number, operator, name = int(error.node()), str(error.node_operator()), str(error.node_name())
        where = f"node {number} ({operator}{f', {name}' if name else ''}): " if operator else ""
        lines.append(f"{where}{' '.join(str(error.desc()).split())}{_origin(file, number) if operator else ''}")
    lines = list(dict.fromkeys(lines))
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    raise ModelError(
        f"TensorRT {api.version} cannot read {file.path.name}",
        why=("; ".join(lines[:3]) + more) or worst(messages) or "its parser gave no reason",
        fix=f"workbench convert {_named(file)} --to tensorrt --check",
    )


def _origin(file: OnnxFile, number: int) -> str:
    """Which line of torch a node came from, if its folder's manifest tells; else what it computes."""
    nodes = file.model.graph.node
    if not 0 <= number < len(nodes) or not nodes[number].output:
        return ""
    value = nodes[number].output[0]
    try:
        stages = json.loads((file.path.parent / MANIFEST).read_text())["stages"]
        rows = stages.values() if isinstance(stages, dict) else stages
        entry = next(row for row in rows if row.get("package") == file.path.name)
        origin = entry["origins"][value]
        parts = [str(origin[key]) for key in ("op", "module", "line") if origin.get(key)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        parts = []
    return f" [computes {value}{', from ' + ', '.join(parts) if parts else ''}]"


def _named(file: OnnxFile) -> str:
    """What a user types for it: the folder of a converted model, else the file."""
    return str(file.path.parent if (file.path.parent / MANIFEST).is_file() else file.path)


def _limits(config: IBuilderConfig, request: Request, api: Api) -> None:
    trt = api.module
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.level is not None:
        config.builder_optimization_level = request.level
    if request.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if not request.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _checked(profiles: tuple[Profile, ...], network: INetworkDefinition, file: OnnxFile) -> tuple[Profile, ...]:
    """Raises UsageError where values are given for an input that decides no shape, or are lacking for one that does."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    hosts = {tensor.name for tensor in tensors if tensor.is_shape_tensor}
    for name in sorted(hosts):
        if not profiles or any(name not in each.values for each in profiles):
            raise UsageError(
                f"the values of input {name!r} decide shapes, and nobody says what they may be",
                why=f"{file.path.name} reads sizes from it; an engine is built for a least, a typical and a most",
                fix=f"?profile={name}:1x1,1x64,1x512 with its values in the place of sizes",
            )
    for name in sorted({name for each in profiles for name in each.values} - hosts):
        raise UsageError(
            f"a profile of {name!r} would do nothing",
            why="its sizes are fixed and its values decide no shape",
            fix="leave it out of the profile",
        )
    return profiles


def _stopped(monitor: Monitor, file: OnnxFile) -> WorkbenchError:
    if monitor.late:
        return UsageError(
            f"the engine of {file.path.name} was not built in the time given",
            why="the build was stopped; nothing of it was kept",
            fix="?timeout=SECONDS (3600 unless given), or ?opt_level=0 for a quicker build",
        )
    return UsageError(f"the build of {file.path.name}'s engine was stopped", why="nothing of it was kept")


def _refused(file: OnnxFile, messages: list[dict[str, str]]) -> WorkbenchError:
    said = worst(messages) or "TensorRT gave no reason"
    if "cuda error" in said.lower():
        return RuntimeMissing("the GPU stopped working during the build", why=said, fix="nvidia-smi")
    memory = any(word in said.lower() for word in MEMORY_WORDS)
    return ModelError(
        f"TensorRT could not build an engine of {file.path.name}",
        why=said,
        fix="?workspace=2GiB, or end other programs on the GPU"
        if memory
        else f"workbench convert {_named(file)} --to tensorrt --check",
    )
