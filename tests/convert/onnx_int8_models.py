"""Small fp32 ONNX graphs for the tests of calibration and quantisation, and what ONNX Runtime and torch compute with them.

path = mixed(tmp_path)                       # every op that takes Q/DQ, and every kind of reader that must not see rounded values
inner_values(path, feeds, ["stem"])          # {"stem": [array, ...]} by a session of the test's own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT32
MASK = -30000.0


def weights(seed: int = 0) -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(seed)
    shapes = {"conv": (16, 16, 3), "up": (16, 16, 2), "table": (24, 16), "query": (16, 16), "down": (16, 16)}
    made = {name: generator.normal(0, 0.2, shape).astype(numpy.float32) for name, shape in shapes.items()}
    made["conv"] *= numpy.logspace(-2, 0, 16, dtype=numpy.float32)[:, None, None]  # channels that one scale would not serve
    made["bias"] = generator.normal(0, 1, 16).astype(numpy.float32)
    return made


def mixed(folder: Path, *, opset: int = 20, seed: int = 0) -> Path:
    """tokens [1, T] and sound [1, 16, T] -> logits [1, T, 24] (head tied to the table), hidden [1, T, 16] (a product's input as well)."""
    constants = weights(seed) | {
        "mask": numpy.array([[0.0, MASK]], numpy.float32),
        "two": numpy.array([2], numpy.int64),
        "first": numpy.array([0], numpy.int64),
        "last": numpy.array([2], numpy.int64),
        "middle": numpy.array([-1, 16], numpy.int64),
        "outer": numpy.array([1, -1, 16], numpy.int64),
    }
    nodes = [
        helper.make_node("Conv", ["sound", "conv", "bias"], ["stem"], "stem_conv", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("ConvTranspose", ["stem", "up"], ["wide"], "up_conv", kernel_shape=[2], strides=[2]),
        helper.make_node("MaxPool", ["wide"], ["pooled"], "pool", kernel_shape=[2], strides=[2]),
        helper.make_node("Transpose", ["pooled"], ["heard"], "turn", perm=[0, 2, 1]),
        helper.make_node("Gather", ["table", "tokens"], ["embedded"], "look_up"),
        helper.make_node("Add", ["embedded", "heard"], ["hidden"], "residual"),
        helper.make_node("MatMul", ["hidden", "query"], ["q"], "query_product"),
        helper.make_node("Transpose", ["hidden"], ["keys"], "keys_turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "keys"], ["scores"], "scores_product"),
        helper.make_node("ReduceMean", ["scores"], ["flat"], "mean", keepdims=1),
        helper.make_node("Add", ["flat", "mask"], ["masked"], "masking"),
        helper.make_node("Softmax", ["masked"], ["share"], "softmax", axis=-1),
        helper.make_node("Slice", ["share", "first", "two", "last"], ["both"], "both"),
        helper.make_node("ReduceSum", ["both"], ["one"], "one", keepdims=1),
        helper.make_node("Reshape", ["hidden", "middle"], ["rows"], "rows"),
        helper.make_node("Gemm", ["rows", "down", "bias"], ["projected"], "down_product", transB=1, beta=0.5),
        helper.make_node("Reshape", ["projected", "outer"], ["back"], "back"),
        helper.make_node("Mul", ["back", "one"], ["weighted"], "weighted"),
        helper.make_node("Add", ["hidden", "weighted"], ["final"], "second_residual"),
        helper.make_node("Transpose", ["table"], ["head"], "head_turned", perm=[1, 0]),
        helper.make_node("MatMul", ["final", "head"], ["logits"], "head_product"),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [info("tokens", [1, "T"], INT), info("sound", [1, 16, "T"])],
        [info("logits", [1, "T", 24]), info("hidden", [1, "T", 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return written(graph, folder / "mixed.onnx", opset)


def info(name: str, shape: Sequence[Any], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def one_product(folder: Path, before: Sequence[onnx.NodeProto] = (), read: str = "x", *, opset: int = 20, **tensors: Any) -> Path:
    """x [N, 4] -> nodes ``before`` -> ``read`` times a [4, 3] matrix, named "product"."""
    matrix = numpy.random.default_rng(1).normal(size=(4, 3)).astype(numpy.float32)
    nodes = [*before, helper.make_node("MatMul", [read, "matrix"], ["y"], "product")]
    constants = [numpy_helper.from_array(value, name) for name, value in {"matrix": matrix, **tensors}.items()]
    graph = helper.make_graph(nodes, "one", [info("x", ["N", 4])], [info("y", ["M", 3])], constants)
    return written(graph, folder / "one.onnx", opset)


def written(graph: onnx.GraphProto, path: Path, opset: int) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 12 else 7)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def samples(count: int, *, seed: int = 0, size: float = 1.0) -> list[dict[str, numpy.ndarray]]:
    """Calls of ``mixed`` of different lengths."""
    generator = numpy.random.default_rng(seed)
    found = []
    for number in range(count):
        length = 3 + number % 4
        tokens = generator.integers(0, 24, (1, length)).astype(numpy.int32)
        found.append({"tokens": tokens, "sound": (size * generator.normal(size=(1, 16, length))).astype(numpy.float32)})
    return found


def session(path: Path, *, optimised: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inner_values(path: Path, feeds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[numpy.ndarray]]:
    """What ONNX Runtime itself computes for inner values, call by call."""
    model = onnx.load(path)
    held = {each.name for each in [*model.graph.output, *model.graph.input]}
    model.graph.output.extend(info(name, None) for name in names if name not in held)
    copy = path.with_name("inner.onnx")
    onnx.save(model, copy)
    running = session(copy)
    found: dict[str, list[numpy.ndarray]] = {name: [] for name in names}
    inputs = {each.name for each in model.graph.input}
    for feed in feeds:
        given = running.run([name for name in names if name not in inputs], dict(feed))
        values = dict(zip([name for name in names if name not in inputs], given, strict=True))
        for name in names:
            found[name].append(feed[name] if name in inputs else values[name])
    copy.unlink()
    return found
