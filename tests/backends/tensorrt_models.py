"""Small ONNX files for the tests of the TensorRT backend."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RANGES = "workbench.ranges"


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def saved(path, nodes, inputs, outputs, weights=(), ranges=None):
    graph = helper.make_graph(nodes, "main", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if ranges:
        entry = model.metadata_props.add()
        entry.key, entry.value = RANGES, json.dumps(ranges)
    onnx.save(model, path)
    return path


def linear(path, ranges=None, scale=1.0, dims=("T", 4)):
    """``y = relu(x w)``: x [T, 4] -> y [T, 3]."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3) * scale - 5
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"), helper.make_node("Relu", ["h"], ["y"], name="act")]
    ranges = {"T": [1, 2, 8]} if ranges is None else ranges
    return saved(path, nodes, [value("x", list(dims))], [value("y", ["T", 3])], [numpy_helper.from_array(weights, "w")], ranges)


def by_values(path):
    """``y = reshape(x, target)``: the values of an input decide a shape."""
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"], name="shape")]
    inputs = [value("x", [2, 6]), value("target", [2], TensorProto.INT64)]
    return saved(path, nodes, inputs, [value("y", ["A", "B"])])
