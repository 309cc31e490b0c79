"""The edge to TensorRT: every member of its Python module that this package uses, and nothing else of it.

    api = import_tensorrt()                      # RuntimeMissing says what is not here and what to type
    with api.listening() as messages:
        runtime = api.module.Runtime(api.logger)
    messages[0]                                  # {"severity": "WARNING", "text": "..."}

NVIDIA ships no types for the module, so the protocols below are them. Each name, with the releases that have it and the file and commit of
NVIDIA/TensorRT's public binding sources where it was read, stands in ``tensorrt_names.json``; a test compares the two in both directions.
Members of one release only are asked for through `Api`, which looks whether they are there.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

from workbench.errors import RuntimeMissing

FIX = "pip install 'parity-workbench[tensorrt]'"
UNINSTALL = "pip uninstall -y tensorrt tensorrt-bindings tensorrt-libs" + "".join(
    f" tensorrt-{cuda}{part}" for cuda in ("cu13", "cu12") for part in ("", "-bindings", "-libs")
)
"""Every distribution that may bring the module: the metapackage alone leaves the libraries where they are."""
FOR_CUDA_12 = f"{UNINSTALL} && pip install --no-cache-dir 'tensorrt-cu12>=10.3,<11'"
LEAST, MOST = 10, 11
"""Releases whose binding sources were read."""
KEPT_MESSAGES = 200
"""Notes (INFO) that are kept of one build; warnings and errors are all kept."""


class Severities(Protocol):
    """``ILogger.Severity``, from the worst."""

    INTERNAL_ERROR: Any
    ERROR: Any
    WARNING: Any
    VERBOSE: Any


class ILogger(Protocol):
    """Subclassed; ``log`` may be called from any thread, and an exception in it goes to standard error and is lost."""

    Severity: Severities

    def log(self, severity: Any, msg: str) -> None: ...


class IHostMemory(Protocol):
    """Bytes of the library, as a Python buffer."""


class ITensor(Protocol):
    name: str
    is_shape_tensor: bool


class ILayer(Protocol):
    num_outputs: int

    def get_output(self, index: int) -> ITensor: ...


class INetworkDefinition(Protocol):
    num_layers: int
    num_inputs: int

    def get_layer(self, index: int) -> ILayer: ...
    def get_input(self, index: int) -> ITensor: ...
    def mark_debug(self, tensor: ITensor) -> bool: ...


class IOptimizationProfile(Protocol):
    """Truth is whether its own sizes fit each other."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...
    def set_shape_input(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...


class IProgressMonitor(Protocol):
    """Subclassed. Called from any thread; False from ``step_complete``, or an exception in it, stops the build."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...
    def phase_finish(self, phase_name: str) -> None: ...


class IBuilderConfig(Protocol):
    builder_optimization_level: int
    profiling_verbosity: Any
    progress_monitor: IProgressMonitor

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class Builder(Protocol):
    """Lives on the GPU that is the calling thread's when it is made."""

    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IOutputAllocator(Protocol):
    """Subclassed. Addresses are numbers; 0 from ``reallocate_output`` is a failure of the call."""

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int: ...
    def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None: ...


class IDebugListener(Protocol):
    """Subclassed."""

    def process_debug_tensor(self, addr: int, location: Any, type: Any, shape: Sequence[int], name: str, stream: int) -> bool: ...


class IExecutionContext(Protocol):
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool: ...
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...
    def set_debug_listener(self, listener: IDebugListener) -> bool: ...
    def set_tensor_debug_state(self, name: str, flag: bool) -> bool: ...


class EngineInspector(Protocol):
    execution_context: IExecutionContext

    def get_engine_information(self, format: Any) -> str: ...


class ICudaEngine(Protocol):
    num_io_tensors: int
    num_layers: int
    num_optimization_profiles: int
    refittable: bool
    device_memory_size_v2: int
    """Since 10.1."""

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_location(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Sequence[int]]: ...
    def create_execution_context(self) -> IExecutionContext | None: ...
    def create_engine_inspector(self) -> EngineInspector: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class Refitter(Protocol):
    def get_all_weights(self) -> list[str]: ...
    def get_missing_weights(self) -> list[str]: ...
    def refit_cuda_engine(self) -> bool: ...


class OnnxParserRefitter(Protocol):
    num_errors: int

    def refit_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class NetworkDefinitionCreationFlag(Protocol):
    STRONGLY_TYPED: Any
    """Asked for on 10; on 11 always so, and the flag says nothing."""


class BuilderFlag(Protocol):
    """10's flags of precision are not here: precision stands in the graph, and 11 has no such flags."""

    REFIT: Any
    TF32: Any
    """Set unless cleared: products of fp32 in TF32."""


class MemoryPoolType(Protocol):
    WORKSPACE: Any


class ProfilingVerbosity(Protocol):
    DETAILED: Any


class TensorIOMode(Protocol):
    INPUT: Any


class TensorLocation(Protocol):
    HOST: Any


class LayerInformationFormat(Protocol):
    JSON: Any


class DataType(Protocol):
    """Told by name: ``tensorrt_arrays.TYPES``."""

    FLOAT: Any
    HALF: Any
    BF16: Any
    INT8: Any
    INT32: Any
    INT64: Any
    BOOL: Any
    UINT8: Any


class TensorRT(Protocol):
    """The module ``tensorrt``."""

    __version__: str
    ILogger: type[ILogger]
    Builder: Callable[[ILogger], Builder]
    OnnxParser: Callable[[INetworkDefinition, ILogger], OnnxParser]
    Runtime: Callable[[ILogger], Runtime]
    Refitter: Callable[[ICudaEngine, ILogger], Refitter]
    OnnxParserRefitter: Callable[[Refitter, ILogger], OnnxParserRefitter]
    IProgressMonitor: type[IProgressMonitor]
    IOutputAllocator: type[IOutputAllocator]
    IDebugListener: type[IDebugListener]
    NetworkDefinitionCreationFlag: NetworkDefinitionCreationFlag
    BuilderFlag: BuilderFlag
    MemoryPoolType: MemoryPoolType
    ProfilingVerbosity: ProfilingVerbosity
    TensorIOMode: TensorIOMode
    TensorLocation: TensorLocation
    LayerInformationFormat: LayerInformationFormat
    DataType: DataType
    init_libnvinfer_plugins: Callable[[ILogger, str], bool]
    """Without it the registry lacks NVIDIA's own plugins, of which the parser makes some operators of ONNX, such as RoiAlign."""


class Api:
    """The module, what this release of it can do, and the one logger: TensorRT keeps the first that a process gives it."""

    def __init__(self, module: TensorRT):
        self.module = module
        self.version = str(module.__version__)
        self.major = int(self.version.partition(".")[0])
        self._listeners: list[list[dict[str, str]]] = []
        self._lock = threading.Lock()
        self.logger = self._logger()

    def network_flags(self) -> int:
        """What ``create_network`` is asked for: types as the graph declares them."""
        kinds = self.module.NetworkDefinitionCreationFlag
        return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0

    def builder(self) -> Builder:
        """On the calling thread's GPU. Raises RuntimeMissing where TensorRT cannot use it."""
        return self._started(self.module.Builder)

    def runtime(self) -> Runtime:
        """On the calling thread's GPU. Raises RuntimeMissing where TensorRT cannot use it."""
        return self._started(self.module.Runtime)

    def _started(self, kind: Callable[[ILogger], Any]) -> Any:
        """Where the library gives nothing the bindings raise TypeError ("returned nullptr"): a driver that is enough for torch may not be."""
        with self.listening() as messages:
            self.module.init_libnvinfer_plugins(self.logger, "")  # again and again, as NVIDIA's own tools call it
            try:
                return kind(self.logger)
            except TypeError as error:
                raise RuntimeMissing(
                    f"TensorRT {self.version} cannot use this GPU",
                    why=worst(messages) or str(error),
                    fix=f"a driver for TensorRT's CUDA (nvidia-smi names the newest that yours takes); or, for CUDA 12, {FOR_CUDA_12}; "
                    "or ?executor=reference",
                ) from error

    def device_memory_bytes(self, engine: ICudaEngine) -> int | None:
        """What a context of the engine needs on the GPU; None where this release does not tell (10.0)."""
        return int(engine.device_memory_size_v2) if hasattr(engine, "device_memory_size_v2") else None

    @contextmanager
    def listening(self) -> Iterator[list[dict[str, str]]]:
        """What TensorRT says meanwhile, as ``{"severity", "text"}``, without what is only for its developers (VERBOSE)."""
        messages: list[dict[str, str]] = []
        with self._lock:
            self._listeners.append(messages)
        try:
            yield messages
        finally:
            with self._lock:
                self._listeners = [each for each in self._listeners if each is not messages]

    def _logger(self) -> ILogger:
        base, listeners = self.module.ILogger, self

        class Recorder(base):  # type: ignore[misc, valid-type]
            def __init__(self):
                base.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                listeners._heard(severity, msg)

        return Recorder()

    def _heard(self, severity: Any, text: str) -> None:
        levels = self.module.ILogger.Severity
        if severity == levels.VERBOSE:
            return
        names = {"INTERNAL_ERROR": levels.INTERNAL_ERROR, "ERROR": levels.ERROR, "WARNING": levels.WARNING}
        name = next((name for name, level in names.items() if level == severity), "INFO")
        with self._lock:
            listening = list(self._listeners)
        for messages in listening:
            if name != "INFO" or len(messages) < KEPT_MESSAGES:
                messages.append({"severity": name, "text": text})


def worst(messages: Sequence[dict[str, str]], most: int = 3) -> str:
    """TensorRT's errors, the last first, in one line; its warnings where it named no error; empty where it said nothing."""
    for wanted in (("INTERNAL_ERROR", "ERROR"), ("WARNING",)):
        texts = [" ".join(item["text"].split()) for item in messages if item["severity"] in wanted]
        if texts:
            return "; ".join(dict.fromkeys(reversed(texts[-most:])))
    return ""


@lru_cache(maxsize=1)
def import_tensorrt() -> Api:
    """The module, looked over. Raises RuntimeMissing: not installed, its libraries missing, or a release that is not known."""
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise RuntimeMissing("TensorRT is not installed here", why="there is no Python module 'tensorrt'", fix=FIX) from error
        raise _libraries(error) from error
    except (ImportError, OSError) as error:
        raise _libraries(error) from error
    return looked_over(module)


def _libraries(error: Exception) -> RuntimeMissing:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return RuntimeMissing(
        "TensorRT is installed without its libraries, or they cannot be loaded",
        why=f"{first}; the packages tensorrt-cu13-libs and -bindings hold them, for the CUDA release of the driver",
        fix=f"{UNINSTALL} && {FIX.replace('install', 'install --no-cache-dir')}",
    )


def looked_over(module: Any) -> Api:
    """As ``import_tensorrt``, for a module that is there already."""
    version = str(getattr(module, "__version__", ""))
    number = version.partition(".")[0]
    if not number.isdigit() or int(number) < LEAST:
        raise RuntimeMissing(
            f"TensorRT {version or 'without a version'} is too old",
            why=f"releases from {LEAST} on can be told to keep the types of a graph",
            fix=f"{UNINSTALL} && {FIX}",
        )
    absent = [name for name in TensorRT.__annotations__ if not hasattr(module, name)]
    if absent:
        raise RuntimeMissing(
            f"this TensorRT {version} lacks {', '.join(absent)}",
            why="a lean or dispatch runtime cannot build engines"
            if int(number) <= MOST
            else f"releases {LEAST} and {MOST} are known; this one is newer",
            fix=f"{UNINSTALL} && {FIX}",
        )
    return Api(module)
