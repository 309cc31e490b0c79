"""Engines of small graphs, by the calls of TensorRT's own module: for tests of what runs them.

program = Maker(tmp_path).program(ROWS, {"x": [(1, 4), (2, 4), (8, 4)]})
"""

from __future__ import annotations

from itertools import count

import onnx
import onnx.parser

from tests.backends.tensorrt_cpu import Cpu
from tests.backends.tensorrt_stand_in import stand_in
from workbench.backends.tensorrt_api import looked_over
from workbench.backends.tensorrt_inspect import mark_debug
from workbench.backends.tensorrt_program import EngineProgram

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g '
ROWS = (
    HEAD
    + """(float[N,4] x) => (float[N,3] y, float[N,3] half)
<float[4,3] weight = {1.0,-2.0,0.5, 0.25,1.0,-1.0, 3.0,0.0,0.125, -0.5,2.0,1.0}, float two = {2.0}>
{ product = MatMul(x, weight)  y = Relu(product)  half = Div(product, two) }"""
)
STEP = (
    HEAD
    + """(int32[1,1] tokens, float[2,4] keys) => (float[1,4] logits, float[2,4] new_keys)
<float one = {1.0}, int64[1] rows = {0}>
{ more = Cast<to=1>(tokens)  moved = Mul(keys, one)  new_keys = Add(moved, more)  logits = ReduceSum<keepdims=1>(new_keys, rows) }"""
)
FOUND = (
    HEAD
    + """(float[N] x) => (int64[1,M] places, float[N] doubled)
<float two = {2.0}>
{ positive = Relu(x)  doubled = Mul(x, two)  places = NonZero(positive) }"""
)
KINDS = (
    HEAD
    + """(int64[N] wide, float16[N] short, bool[N] which, bfloat16[N] brain)
=> (int64[N] wider, float16[N] shorter, bool[N] other, bfloat16[N] brains)
<int64 big = {5000000000}>
{ wider = Add(wide, big)  shorter = Add(short, short)  other = Not(which)  brains = Identity(brain) }"""
)
SHAPED = HEAD + "(float[6] x, int64[2] sizes) => (float[A,B] y) { y = Reshape(x, sizes) }"


class Maker:
    """Makes graphs, engines and programs; one stand-in for TensorRT and one stand-in for the GPU."""

    def __init__(self, folder, version="11.4.0.106"):
        self.folder, self.trt, self.device, self.numbers = folder, stand_in(version), Cpu(), count()
        self.api = looked_over(self.trt)

    def graph(self, text, change=None):
        path = self.folder / f"graph{next(self.numbers)}.onnx"
        model = onnx.parser.parse_model(text)
        for number, node in enumerate(model.graph.node):
            node.name = f"node{number}"
        if change is not None:
            change(model)
        onnx.save(model, path)
        return path

    def engine(self, path, profiles=(), debug=(), refit=False, values=()):
        """``profiles``: by profile, {input: (least, typical, most)}; ``values``: the same for inputs that hold shapes."""
        trt, logger = self.trt, self.api.logger
        builder = trt.Builder(logger)
        network = builder.create_network(self.api.network_flags())
        assert trt.OnnxParser(network, logger).parse_from_file(str(path))
        mark_debug(network, debug)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if refit:
            config.set_flag(trt.BuilderFlag.REFIT)
        for number, shapes in enumerate(profiles):
            profile = builder.create_optimization_profile()
            for name, three in shapes.items():
                profile.set_shape(name, *three)
            for name, three in values[number].items() if values else ():
                profile.set_shape_input(name, *three)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None
        return trt.Runtime(logger).deserialize_cuda_engine(plan)

    def program(self, text, profiles=(), *, refit=False, values=(), **options):
        path = self.graph(text)
        return EngineProgram(
            self.engine(path, profiles, refit=refit, values=values),
            api=self.api,
            device=self.device,
            name=path.name,
            again=lambda names: self.engine(path, profiles, names, refit, values),
            **options,
        )
