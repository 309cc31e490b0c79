"""What an ONNX graph computes: the type of every value, which floats depend on an input, and which types its ops compute in.

    types = value_types(read("model.onnx").model)          # {"linear": "fp16", "tokens": "other", ...}
    float_values(model)                                    # ["linear", "gelu", ...], in order of execution
    computed_types(model)                                  # {"fp16": 130, "fp32": 24}

Types that the file does not write down are inferred by ONNX; no weight is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

FLOATS = {1: "fp32", 10: "fp16", 16: "bf16", 11: "fp64"}
"""Element types of ``onnx.TensorProto`` by number (onnx/onnx, onnx/onnx.proto) -> the name that Core ML's programs have for them too."""
COPIES = ("Cast", "CastLike", "Identity", "QuantizeLinear", "DequantizeLinear")
"""Ops that put out what goes in, in another type."""
MOVES = (
    *COPIES,
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Concat",
    "Split",
    "Gather",
    "GatherND",
    "Expand",
    "Shape",
    "Where",
)
"""Ops that compute no number: they pass on what is there."""


def value_types(model: Any) -> dict[str, str]:
    """``{value: fp32}`` of inputs, outputs and what nodes compute; ``other`` for what holds no floats, nothing where it cannot be told."""
    graph = model.graph
    known = {each.name: each for each in (*graph.input, *graph.output, *graph.value_info)}
    if any(name and name not in known for node in graph.node for name in node.output):
        from onnx import shape_inference

        graph = shape_inference.infer_shapes(model).graph
        known = {each.name: each for each in (*graph.input, *graph.output, *graph.value_info)}
    return {
        name: FLOATS.get(each.type.tensor_type.elem_type, "other")
        for name, each in known.items()
        if each.type.HasField("tensor_type")
    }


def live_values(model: Any) -> Iterator[tuple[Any, str]]:
    """(node, value) of everything that depends on an input, in order of execution."""
    held = {each.name for each in model.graph.initializer}
    live = {each.name for each in model.graph.input} - held
    for node in model.graph.node:
        if live.isdisjoint((*node.input, *free_names(node))):
            continue
        for name in node.output:
            if name:
                live.add(name)
                yield node, name


def float_values(model: Any) -> list[str]:
    """The floats that are computed from the inputs; outputs and copies in another type apart."""
    types, outputs = value_types(model), {each.name for each in model.graph.output}
    return [
        name
        for node, name in live_values(model)
        if node.op_type not in COPIES and name not in outputs and types.get(name) in FLOATS.values()
    ]


def computed_types(model: Any) -> dict[str, int]:
    """``{float type: nodes that compute in it}``; what only moves or copies numbers is not counted."""
    types = value_types(model)
    found = Counter(
        types.get(node.output[0]) for node, name in live_values(model) if name == node.output[0] and node.op_type not in MOVES
    )
    return {kind: found[kind] for kind in sorted(FLOATS.values()) if found[kind]}


def free_names(node: Any) -> Iterator[str]:
    """What the graphs of an If, Loop or Scan read from outside."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            own = {each.name for each in (*graph.input, *graph.initializer)} | {name for each in graph.node for name in each.output}
            inside = [name for each in graph.node for name in (*each.input, *free_names(each))]
            yield from (name for name in (*inside, *(each.name for each in graph.output)) if name and name not in own)
