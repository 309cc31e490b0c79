"""The other half of the stand-in for TensorRT: engines, contexts, refitting. `add` puts its classes into the module.

A context computes with ONNX Runtime (or onnx's reference evaluator where a graph holds bfloat16) on what lies at the addresses given, and
writes its outputs there, both when the stream of ``tensorrt_cpu`` is waited for. What the runtime cannot record into a graph is refused.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.backends import tensorrt_cpu as cpu
from tests.backends import tensorrt_stand_in as base
from workbench.backends.tensorrt_cuda import ALIGNMENT

TYPES = {
    TensorProto.FLOAT: ("FLOAT", np.float32),
    TensorProto.FLOAT16: ("HALF", np.float16),
    TensorProto.BFLOAT16: ("BF16", ml_dtypes.bfloat16),
    TensorProto.INT8: ("INT8", np.int8),
    TensorProto.INT32: ("INT32", np.int32),
    TensorProto.INT64: ("INT64", np.int64),
    TensorProto.BOOL: ("BOOL", np.bool_),
    TensorProto.UINT8: ("UINT8", np.uint8),
}
SHAPES_OF = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Range": 0, "Tile": 1}


def tell(logger, level, text):
    logger.log(level, text)


def data_type(trt, kind):
    return getattr(trt.DataType, TYPES[kind][0])


def declared(value):
    return tuple(each.dim_value if each.HasField("dim_value") else -1 for each in value.type.tensor_type.shape.dim)


def shape_inputs(model):
    """Inputs whose values decide shapes: the engine wants those on the host."""
    if model is None:
        return set()
    given = {value.name for value in model.graph.input}
    return {node.input[SHAPES_OF[node.op_type]] for node in model.graph.node if node.op_type in SHAPES_OF} & given


def why_not(model, profiles):
    if model is None or not model.graph.output:
        return "Network must have at least one output"
    hosts = shape_inputs(model)
    for value in model.graph.input:
        shape = declared(value)
        for profile in profiles or ([None] if -1 in shape or value.name in hosts else []):
            if profile is None:
                return f"Network has dynamic or shape inputs, but no optimization profile has been defined: {value.name}"
            if value.name in hosts and value.name not in profile._values:
                return f"profile lacks the values of shape input {value.name}"
            if -1 in shape and value.name not in profile._shapes:
                return f"profile lacks the shapes of {value.name}"
            for three in profile._shapes.get(value.name, []):
                if len(three) != len(shape) or any(want not in (-1, got) for want, got in zip(shape, three, strict=True)):
                    return f"profile of {value.name} does not fit {shape}"
    return None


def steps(trt, monitor):
    """The calls of the progress monitor, from another thread where the deeds say so. False: it asked to stop."""
    if monitor is None:
        return True

    def work():
        monitor.phase_start("Building the engine", None, trt.deeds.steps)
        for number in range(trt.deeds.steps):
            if trt.deeds.at_step is not None:
                trt.deeds.at_step(number)
            try:
                more = monitor.step_complete("Building the engine", number)
            except Exception:  # noqa: BLE001 the binding takes any exception for a wish to stop
                more = False
            if not more:
                monitor.phase_finish("Building the engine")
                return False
        monitor.phase_finish("Building the engine")
        return True

    if not trt.deeds.threads:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def add(trt, release):  # noqa: C901 one class after the other
    need, made, severity = base.need, trt.made, trt.ILogger.Severity

    class ICudaEngine(base.Strict):
        def __init__(self, logger, head, model):
            self._logger, self._head, self._model = logger, head, model
            graph = model.graph
            self._values = {
                value.name: (value, kind) for kind, each in (("INPUT", graph.input), ("OUTPUT", graph.output)) for value in each
            }
            self._hosts, self._ready = shape_inputs(model), {}
            inner = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
            self._inner = {value.name: value for value in inner} | {name: value for name, (value, _) in self._values.items()}

        num_io_tensors = property(lambda self: len(self._values))
        num_layers = property(lambda self: len(self._model.graph.node))
        num_optimization_profiles = property(lambda self: max(1, len(self._head["profiles"])))
        refittable = property(lambda self: self._head["refit"])
        if release >= (10, 1):
            device_memory_size_v2 = property(lambda self: 4096)

        def get_tensor_name(self, index):
            return list(self._values)[need(index, int, "get_tensor_name")]

        def get_tensor_mode(self, name):
            return getattr(trt.TensorIOMode, self._values[name][1]) if name in self._values else trt.TensorIOMode.NONE

        def get_tensor_dtype(self, name):
            return data_type(trt, self._values[name][0].type.tensor_type.elem_type)

        def get_tensor_shape(self, name):
            return base.Dims(declared(self._values[name][0]))

        def get_tensor_location(self, name):
            return trt.TensorLocation.HOST if name in self._hosts else trt.TensorLocation.DEVICE

        def get_tensor_profile_shape(self, name, profile_index):
            profiles = self._head["profiles"]
            known = profiles[need(profile_index, int, "profile_index")]["shapes"] if profiles else {}
            return [base.Dims(each) for each in known.get(name, [declared(self._values[name][0])] * 3)]

        def create_execution_context(self):
            if trt.deeds.no_memory:
                return tell(self._logger, severity.ERROR, "[defaultAllocator.cpp::allocate] Cuda Runtime (out of memory)")
            return IExecutionContext(self)

        def create_engine_inspector(self):
            return EngineInspector(self)

    class IExecutionContext(base.Strict):
        def __init__(self, engine):
            self._engine, self._shapes, self._addresses, self._allocators = engine, {}, {}, {}
            self._listener, self._debug, self._ran, self._profile = None, set(), set(), 0
            self._shapes = {name: declared(value) for name, (value, kind) in engine._values.items() if kind == "INPUT"}

        def set_input_shape(self, name, shape):
            if name not in self._shapes:
                return self._wrong(f"there is no input {name}")
            shape, (low, _, high) = base.sizes(shape, "set_input_shape"), self._engine.get_tensor_profile_shape(name, self._profile)
            if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return self._wrong(f"{name}: {shape} is outside the profile, {low} to {high}")
            self._shapes[name] = shape
            return True

        def get_tensor_shape(self, name):
            if name in self._shapes:
                return base.Dims(self._shapes[name])
            return base.Dims(self._known().get(name, ()))

        def set_tensor_address(self, name, memory):
            if name not in self._engine._values:
                return self._wrong(f"there is no tensor {name}")
            if need(memory, int, "set_tensor_address") % ALIGNMENT and name not in self._engine._hosts:
                return self._wrong(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
            self._addresses[name] = memory
            return True

        def set_output_allocator(self, name, output_allocator):
            self._allocators[need(name, str, "set_output_allocator")] = made(output_allocator, trt.IOutputAllocator, "allocator")
            return self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT

        def set_optimization_profile_async(self, profile_index, stream_handle):
            need(stream_handle, int, "stream_handle")
            self._profile = need(profile_index, int, "profile_index")
            return 0 <= profile_index < self._engine.num_optimization_profiles

        def infer_shapes(self):
            missing = [name for name in self._engine._hosts if not self._addresses.get(name)]
            return [name for name, shape in self._shapes.items() if -1 in shape or name in missing]

        def set_debug_listener(self, listener):
            self._listener = made(listener, trt.IDebugListener, "set_debug_listener")
            return True

        def set_tensor_debug_state(self, name, flag):
            if name not in self._engine._head["debug"]:
                return self._wrong(f"{name} was not marked as a debug tensor")
            (self._debug.add if need(flag, bool, "flag") else self._debug.discard)(name)
            return True

        def execute_async_v3(self, stream_handle):
            stream = need(stream_handle, int, "execute_async_v3")
            if trt.deeds.run_fails:
                return self._wrong(trt.deeds.run_fails)
            if self.infer_shapes():
                return self._wrong(f"shapes are not known: {self.infer_shapes()}")
            for name in self._engine._values:
                if not self._addresses.get(name) and name not in self._allocators and 0 not in self.get_tensor_shape(name):
                    return self._wrong(f"neither an address nor an allocator of {name}")
            shapes, addresses, recording = dict(self._shapes), dict(self._addresses), cpu.recording(stream)
            now = bool(self._debug) or any(-1 in shape for shape in self._known().values())
            if recording and now:
                return self._wrong("operation not permitted when stream is capturing: memory allocation")
            if recording and tuple(shapes.items()) not in self._ran:
                return self._wrong("operation not permitted when stream is capturing: lazy initialisation")
            self._ran.add(tuple(shapes.items()))
            if now:  # what calls back knows its values, so the runtime waits
                cpu.drain(stream)
                return self._run(shapes, addresses, stream)
            return cpu.enqueue(stream, lambda: self._run(shapes, addresses, stream))

        def _run(self, shapes, addresses, stream):
            trt.log.append("run")
            kinds = {name: TYPES[value.type.tensor_type.elem_type][1] for name, (value, _) in self._engine._values.items()}
            fed = {name: at(addresses[name], shapes[name], kinds[name]).copy() for name in shapes}
            seen = [name for name in self._engine._head["debug"] if name in self._debug]
            ready, key = self._engine._ready, tuple(seen)
            ready[key] = ready.get(key) or computing(self._engine._model, self._engine._inner, seen)
            found = ready[key](fed)
            for name in seen:
                self._show(name, found.pop(name), stream)
            for name, computed in found.items():
                made_up = np.full_like(computed, np.nan) if trt.deeds.nan and computed.dtype.kind == "f" else computed
                array = np.ascontiguousarray(made_up, kinds[name])
                if name in self._allocators:
                    allocator = self._allocators[name]
                    memory = allocator.reallocate_output(name, addresses.get(name, 0), array.nbytes, 256)
                    if not memory and array.nbytes:
                        return self._wrong(f"no memory for {name}")
                    allocator.notify_shape(name, base.Dims(array.shape))
                    addresses[name] = memory
                if array.nbytes:
                    at(addresses[name], array.shape, kinds[name])[...] = array
            return True

        def _show(self, name, array, stream):
            array = cpu.Cpu().tensor(array).numpy()
            kind = next(TYPES[key][0] for key in TYPES if np.dtype(TYPES[key][1]) == array.dtype)
            place, kind = trt.TensorLocation.DEVICE, getattr(trt.DataType, kind)
            if self._listener is not None:
                self._listener.process_debug_tensor(array.ctypes.data, place, kind, base.Dims(array.shape), name, stream)

        def _known(self):
            """Shapes of the outputs for the inputs' shapes; -1 where they depend on values."""
            read = {}
            for value in self._engine._model.graph.input:
                if value.name in self._engine._hosts and self._addresses.get(value.name):
                    kind = TYPES[value.type.tensor_type.elem_type][1]
                    read[value.name] = at(self._addresses[value.name], self._shapes[value.name], kind).copy()
            key = ("", *self._shapes.items(), *((name, array.tobytes()) for name, array in read.items()))
            if key not in self._engine._ready:
                self._engine._ready[key] = self._inferred(read)
            return self._engine._ready[key]

        def _inferred(self, read):
            model = onnx.ModelProto()
            model.CopyFrom(self._engine._model)
            for value in model.graph.input:
                value.type.tensor_type.shape.CopyFrom(shaped(self._shapes[value.name]))
            model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in read.items())
            del model.graph.value_info[:]
            for value in model.graph.output:
                value.type.tensor_type.ClearField("shape")
            guessed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
            return {value.name: declared(value) for value in guessed}

        def _wrong(self, text):
            tell(self._engine._logger, severity.ERROR, text)
            return False

    class EngineInspector(base.Strict):
        settable = ("execution_context",)

        def __init__(self, engine):
            self._engine, self._context = engine, None

        def _context_is(self, value):
            self._context = need(value, IExecutionContext, "execution_context")

        execution_context = property(lambda self: self._context, _context_is)

        def get_engine_information(self, format):
            need(format, trt.LayerInformationFormat, "get_engine_information")
            nodes, detailed = self._engine._model.graph.node, self._engine._head["detailed"]
            layers = [
                {"Name": node.name, "LayerType": node.op_type, "TacticName": "stand-in"} if detailed else node.name
                for node in nodes
            ]
            return json.dumps({"Layers": layers, "Bindings": list(self._engine._values)})

    class Runtime(base.Strict):
        def __init__(self, logger):
            self._logger = trt.started(logger, "Runtime")

        def deserialize_cuda_engine(self, serialized_engine):
            trt.log.append("deserialize")
            if trt.deeds.no_memory:
                return tell(self._logger, severity.ERROR, "[defaultAllocator.cpp::allocate] Cuda Runtime (out of memory)")
            text = bytes(need(serialized_engine, (bytes, bytearray, memoryview), "deserialize_cuda_engine"))
            head, _, model = text.removeprefix(base.MAGIC)[65:].partition(b"\n")
            try:
                head, model = json.loads(head), onnx.load_from_string(model)
            except Exception:  # noqa: BLE001 any damage
                head = None
            if head is None or base.plan(head, base.wire(model)) != text:
                return tell(self._logger, severity.ERROR, "the engine plan file is not valid: its serialization is damaged")
            if head["version"] != trt.__version__:
                other = f"the engine plan file is of version {head['version']}, expecting {trt.__version__}"
                return tell(self._logger, severity.ERROR, other)
            if head["gpu"] != trt.deeds.gpu:
                return tell(self._logger, severity.ERROR, "the engine plan file is of another device")
            return ICudaEngine(self._logger, head, model)

    class Refitter(base.Strict):
        def __init__(self, engine, logger):
            self._engine, self._logger, self._new = need(engine, ICudaEngine, "Refitter"), made(logger, trt.ILogger, "Refitter"), {}
            if not engine.refittable:
                raise TypeError("Refitter: factory function returned nullptr")

        def get_all_weights(self):
            return [each.name for each in self._engine._model.graph.initializer]

        def get_missing_weights(self):
            return [name for name in self.get_all_weights() if self._new and name not in self._new]

        def refit_cuda_engine(self):
            if not self._new or self.get_missing_weights():
                tell(self._logger, severity.ERROR, "weights are missing")
                return False
            for each in self._engine._model.graph.initializer:
                each.CopyFrom(self._new[each.name])
            self._engine._ready.clear()
            return True

    class OnnxParserRefitter(base.Strict):
        def __init__(self, refitter, logger):
            self._refitter, self._errors = need(refitter, Refitter, "OnnxParserRefitter"), []
            made(logger, trt.ILogger, "OnnxParserRefitter")

        num_errors = property(lambda self: len(self._errors))

        def refit_from_file(self, model):
            old = self._refitter._engine._model
            new = onnx.load(need(model, str, "refit_from_file"))
            alike = [node.op_type for node in new.graph.node] == [node.op_type for node in old.graph.node]
            fresh = {each.name: each for each in new.graph.initializer}
            fits = alike and all(
                each.name in fresh and list(fresh[each.name].dims) == list(each.dims) for each in old.graph.initializer
            )
            if not fits:
                wrong = trt.parts["ParserError"](trt.parts["ErrorCode"].REFIT_FAILED, "the refittable weights do not match")
                self._errors.append(wrong)
                return False
            self._refitter._new = fresh
            return True

        def get_error(self, index):
            return self._errors[need(index, int, "get_error")]

    trt.Runtime, trt.Refitter, trt.OnnxParserRefitter = Runtime, Refitter, OnnxParserRefitter
    trt.parts |= {each.__name__: each for each in (ICudaEngine, IExecutionContext, EngineInspector)}


def shaped(shape):
    return onnx.helper.make_tensor_type_proto(1, shape).tensor_type.shape


def at(address, shape, kind):
    """The array that lies at an address of ``tensorrt_cpu``; what is written to it is written there."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return cpu.memory(address, size).view(kind).reshape(shape)


def computing(model, inner, seen):
    """What computes the outputs and the values ``seen``, by name, from the inputs."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.ir_version = min(whole.ir_version, 10)  # onnx's own default may be newer than ONNX Runtime knows
    whole.graph.output.extend(inner[name] for name in seen if name not in {value.name for value in model.graph.output})
    names = [value.name for value in whole.graph.output]
    casts = {attribute.i for node in model.graph.node for attribute in node.attribute if attribute.name == "to"}
    given = {value.type.tensor_type.elem_type for value in model.graph.input}
    held = {each.data_type for each in model.graph.initializer}
    if TensorProto.BFLOAT16 in held | casts | given:  # ONNX Runtime has no kernels for it
        reference = ReferenceEvaluator(whole)
        return lambda fed: dict(zip(names, reference.run(None, fed), strict=True))
    session = onnxruntime.InferenceSession(base.wire(whole), providers=["CPUExecutionProvider"])
    return lambda fed: dict(zip(names, session.run(None, fed), strict=True))
