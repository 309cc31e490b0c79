"""A stand-in for the Python module of TensorRT 10 or 11, as strict as the real binding and computing with ONNX Runtime on the CPU.

    trt = stand_in("11.4.0.106")
    api = tensorrt_api.looked_over(trt)
    trt.deeds.unsupported.add("NonZero")        # what goes wrong from now on
    trt.log                                     # ["parse model.onnx", "build", ...]

Members are exactly those of ``tensorrt_names.json`` for the release asked for (a test compares). What the binding refuses is refused here:
other names, other types of arguments, attributes that do not exist. Tensors on "the GPU" are torch tensors on the CPU, handed over by
address like the real ones. The other half, engines and what runs them, is ``tensorrt_stand_in_run``.
"""

from __future__ import annotations

import enum
import hashlib
import json
import threading
import types
from dataclasses import dataclass, field

import onnx

VERSIONS = {10: "10.16.1.11", 11: "11.4.0.106"}
MAGIC = b"stand-in plan\n"
PLUGINS = {"RoiAlign"}
"""Operators that onnx-tensorrt makes of NVIDIA's plugins (onnxOpImporters.cpp at 96e7811), which somebody has to register first."""


@dataclass
class Deeds:
    """What the stand-in does wrong, or says, from now on."""

    unsupported: set[str] = field(default_factory=set)
    build_fails: str | None = None
    steps: int = 4
    threads: bool = False
    at_step: object = None
    says: list[tuple[str, str]] = field(default_factory=list)
    gpu: str = "NVIDIA H200 9.0"
    run_fails: str | None = None
    no_gpu: str | None = None
    no_memory: bool = False
    nan: bool = False


class Strict:
    """No attribute but those that the class lists, as with pybind11's classes."""

    settable: tuple[str, ...] = ()

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self.settable:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}' to set")
        object.__setattr__(self, name, value)


def need(value, kind, what):
    """As pybind11: another type is a TypeError."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{what}(): incompatible function arguments: {type(value).__name__}")
    return value


def sizes(value, what):
    return tuple(need(size, int, what) for size in need(value, (tuple, list, Dims), what))


class Dims(tuple):
    """Behaves as a tuple; the binding takes any sequence of numbers for it."""

    __slots__ = ()


def members(name, *values):
    return enum.IntEnum(name, {value: number for number, value in enumerate(values)})


def wire(model) -> bytes:
    return model.SerializeToString(deterministic=True)


class IHostMemory(bytes):
    """A buffer."""


def stand_in(version: str = VERSIONS[11], gpu: str = "NVIDIA H200 9.0"):
    """A fresh module. Modules of another version or ``gpu`` refuse each other's engines, as TensorRT does."""
    from tests.backends import tensorrt_stand_in_run as run

    release = tuple(int(part) for part in version.split(".")[:2])
    trt = types.ModuleType("tensorrt")
    trt.__version__ = version
    trt.deeds, trt.log, trt.lock = Deeds(gpu=gpu), [], threading.RLock()
    kinds = {"STRONGLY_TYPED": 1} | ({} if release >= (11, 0) else {"EXPLICIT_BATCH": 0})
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", kinds)
    trt.BuilderFlag = members("BuilderFlag", "DEBUG", "REFIT", "TF32", *(("FP16", "INT8", "BF16") if release < (11, 0) else ()))
    trt.MemoryPoolType = members("MemoryPoolType", "WORKSPACE")
    trt.ProfilingVerbosity = members("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED", "NONE")
    trt.TensorIOMode = members("TensorIOMode", "NONE", "INPUT", "OUTPUT")
    trt.TensorLocation = members("TensorLocation", "DEVICE", "HOST")
    trt.LayerInformationFormat = members("LayerInformationFormat", "ONELINE", "JSON")
    trt.DataType = members("DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64")
    severity = members("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    codes = members("ErrorCode", "SUCCESS", "INTERNAL_ERROR", "MODEL_DESERIALIZE_FAILED", "UNSUPPORTED_NODE", "REFIT_FAILED")

    class ILogger:
        Severity = severity

        def __init__(self):
            self.ready = True

    class IProgressMonitor:
        def __init__(self):
            self.ready = True

    class IOutputAllocator:
        def __init__(self):
            self.ready = True

    class IDebugListener:
        def __init__(self):
            self.ready = True

    trt.ILogger, trt.IProgressMonitor = ILogger, IProgressMonitor
    trt.IOutputAllocator, trt.IDebugListener = IOutputAllocator, IDebugListener

    def made(value, kind, what):
        if not getattr(need(value, kind, what), "ready", False):
            raise TypeError(f"{what}: {kind.__name__}.__init__() must be called when overriding __init__")
        return value

    trt.made = made
    trt.plugins = set()

    def init_libnvinfer_plugins(logger, namespace):
        made(logger, ILogger, "init_libnvinfer_plugins"), need(namespace, str, "init_libnvinfer_plugins")
        trt.plugins |= PLUGINS
        return True

    def started(logger, what):
        """As pybind11 where the factory gives nothing: without a driver, or with one of an older CUDA."""
        if trt.deeds.no_gpu:
            run.tell(logger, severity.ERROR, trt.deeds.no_gpu)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return made(logger, ILogger, what)

    trt.init_libnvinfer_plugins, trt.started = init_libnvinfer_plugins, started

    class ITensor(Strict):
        def __init__(self, value):
            self._value = value

        name = property(lambda self: self._value.name)
        is_shape_tensor = property(lambda self: bool(getattr(self, "_shape_tensor", False)))

    class ILayer(Strict):
        def __init__(self, node):
            self._node = node

        num_outputs = property(lambda self: len(self._node.output))

        def get_output(self, index):
            return ITensor(onnx.helper.make_tensor_value_info(self._node.output[need(index, int, "get_output")], 1, None))

    class INetworkDefinition(Strict):
        def __init__(self, logger):
            self._logger, self._model, self._debug = logger, None, []

        num_layers = property(lambda self: len(self._graph().node))
        num_inputs = property(lambda self: len(self._graph().input))

        def _graph(self):
            return self._model.graph if self._model is not None else onnx.GraphProto()

        def get_layer(self, index):
            return ILayer(self._graph().node[need(index, int, "get_layer")])

        def get_input(self, index):
            tensor = ITensor(self._graph().input[need(index, int, "get_input")])
            tensor._shape_tensor = tensor.name in run.shape_inputs(self._model)
            return tensor

        def mark_debug(self, tensor):
            self._debug.append(need(tensor, ITensor, "mark_debug").name)
            return True

    class ParserError(Strict):
        def __init__(self, code, text, node=-1, name="", operator=""):
            self._told = (code, text, node, name, operator)

        def desc(self):
            return self._told[1]

        def node(self):
            return self._told[2]

        def node_name(self):
            return self._told[3]

        def node_operator(self):
            return self._told[4]

    class OnnxParser(Strict):
        def __init__(self, network, logger):
            self._network, self._errors = need(network, INetworkDefinition, "OnnxParser"), []
            made(logger, ILogger, "OnnxParser")

        num_errors = property(lambda self: len(self._errors))

        def parse_from_file(self, model):
            trt.log.append(f"parse {need(model, str, 'parse_from_file').rpartition('/')[2]}")
            try:
                read = onnx.load(model)
            except Exception as error:  # noqa: BLE001 the parser tells of any damage in one way
                self._errors.append(ParserError(codes.MODEL_DESERIALIZE_FAILED, f"Failed to parse the ONNX model: {error}"))
                return False
            for number, node in enumerate(read.graph.node):
                if node.op_type in trt.deeds.unsupported:
                    text = f"Unable to find plugin for operator {node.op_type}"
                    self._errors.append(ParserError(codes.UNSUPPORTED_NODE, text, number, node.name, node.op_type))
                if node.op_type in PLUGINS - trt.plugins:
                    text = f"{node.op_type} plugin was not found in the plugin registry!"
                    self._errors.append(ParserError(codes.UNSUPPORTED_NODE, text, number, node.name, node.op_type))
            if not self._errors:
                self._network._model = read
            return not self._errors

        def get_error(self, index):
            return self._errors[need(index, int, "get_error")]

    class IOptimizationProfile(Strict):
        def __init__(self):
            self._shapes, self._values = {}, {}

        def set_shape(self, input, min, opt, max):
            self._put(self._shapes, input, min, opt, max)

        def set_shape_input(self, input, min, opt, max):
            self._put(self._values, input, min, opt, max)

        def _put(self, into, name, *three):
            three = [sizes(each, "set_shape") for each in three]
            if len({len(each) for each in three}) != 1:
                raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
            into[need(name, str, "set_shape")] = three

        def __bool__(self):
            every = [*self._shapes.values(), *self._values.values()]
            return all(a <= b <= c for low, best, high in every for a, b, c in zip(low, best, high, strict=True))

    class ITimingCache(Strict):
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return IHostMemory(json.dumps(self._content).encode())

    class IBuilderConfig(Strict):
        settable = ("builder_optimization_level", "profiling_verbosity", "progress_monitor")

        def __init__(self, logger):
            self._logger, self._flags, self._pools, self._profiles = logger, {trt.BuilderFlag.TF32}, {}, []
            self._cache, self._level, self._monitor = (
                ITimingCache({"gpu": trt.deeds.gpu, "version": version, "tactics": {}}),
                3,
                None,
            )
            self._verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

        def _level_is(self, value):
            self._level = need(value, int, "builder_optimization_level")

        def _verbosity_is(self, value):
            self._verbosity = need(value, trt.ProfilingVerbosity, "profiling_verbosity")

        def _monitor_is(self, value):
            self._monitor = made(value, IProgressMonitor, "progress_monitor")

        builder_optimization_level = property(lambda self: self._level, _level_is)
        profiling_verbosity = property(lambda self: self._verbosity, _verbosity_is)
        progress_monitor = property(lambda self: self._monitor, _monitor_is)

        def set_memory_pool_limit(self, pool, pool_size):
            self._pools[need(pool, trt.MemoryPoolType, "pool").name] = need(pool_size, int, "set_memory_pool_limit")

        def set_flag(self, flag):
            self._flags.add(need(flag, trt.BuilderFlag, "set_flag"))

        def clear_flag(self, flag):
            self._flags.discard(need(flag, trt.BuilderFlag, "clear_flag"))

        def add_optimization_profile(self, profile):
            if not need(profile, IOptimizationProfile, "add_optimization_profile"):
                run.tell(self._logger, severity.ERROR, "the profile is not consistent")
                return -1
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            text = bytes(need(serialized_timing_cache, (bytes, bytearray, memoryview), "create_timing_cache"))
            try:
                content = json.loads(text) if text else {"gpu": trt.deeds.gpu, "version": version, "tactics": {}}
            except ValueError:
                run.tell(self._logger, severity.ERROR, "the timing cache cannot be read: its header is wrong")
                return None
            return ITimingCache(content)

        def set_timing_cache(self, cache, ignore_mismatch):
            need(cache, ITimingCache, "set_timing_cache"), need(ignore_mismatch, bool, "set_timing_cache")
            if (cache._content["gpu"], cache._content["version"]) != (trt.deeds.gpu, version) and not ignore_mismatch:
                run.tell(self._logger, severity.ERROR, "the timing cache is of another device")
                return False
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

    class Builder(Strict):
        def __init__(self, logger):
            self._logger = trt.started(logger, "Builder")

        def create_network(self, flags):
            wanted = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            assert need(flags, int, "create_network") & wanted or release >= (11, 0), "weakly typed: the graph's types are hints"
            return INetworkDefinition(self._logger)

        def create_builder_config(self):
            return IBuilderConfig(self._logger)

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            need(network, INetworkDefinition, "build_serialized_network"), need(config, IBuilderConfig, "build_serialized_network")
            trt.log.append("build")
            for level, text in trt.deeds.says:
                run.tell(self._logger, severity[level], text)
            wrong = trt.deeds.build_fails or run.why_not(network._model, config._profiles)
            if wrong:
                run.tell(self._logger, severity.ERROR, wrong)
                return None
            if not run.steps(trt, config._monitor):
                run.tell(self._logger, severity.ERROR, "the build was cancelled")
                return None
            config._cache._content["tactics"].update({node.name: 1 for node in network._model.graph.node})
            head = {
                "version": version,
                "gpu": trt.deeds.gpu,
                "refit": trt.BuilderFlag.REFIT in config._flags,
                "tf32": trt.BuilderFlag.TF32 in config._flags,
                "detailed": config._verbosity == trt.ProfilingVerbosity.DETAILED,
                "level": config._level,
                "pools": config._pools,
                "debug": network._debug,
                "profiles": [{"shapes": each._shapes, "values": each._values} for each in config._profiles],
            }
            return IHostMemory(plan(head, wire(network._model)))

    trt.Builder, trt.OnnxParser = Builder, OnnxParser
    trt.parts = {
        each.__name__: each
        for each in (ITensor, ILayer, INetworkDefinition, ParserError, IOptimizationProfile, ITimingCache, IBuilderConfig)
    } | {"IHostMemory": IHostMemory, "ErrorCode": codes}
    run.add(trt, release)
    return trt


def plan(head: dict, model: bytes) -> bytes:
    """The bytes of an "engine": what it was made for, the graph, and a hash of both."""
    body = json.dumps(head).encode() + b"\n" + model
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
