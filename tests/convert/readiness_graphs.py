"""Graphs for the readiness tests: what a node needs around it, and no more.

path = graph(tmp_path, [node("TopK", ["x", "k"], ["values", "indices"])], {"x": ("FLOAT", [2, 8]), "k": ("INT64", [1])})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node


def graph(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[str, Sequence[Any]]],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 20,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[Any] = (),
    metadata: Mapping[str, str] | None = None,
    name: str = "graph.onnx",
) -> Path:
    """The outputs are those that no node reads; their types are what ONNX infers, or FLOAT of two dimensions where it tells none."""
    held = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    given = [helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape)) for name, (kind, shape) in inputs.items()]
    read = {value for each in nodes for value in each.input}
    made = [value for each in nodes for value in each.output if value and value not in read]
    bare = [helper.make_empty_tensor_value_info(value) for value in made]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*pair) for pair in (domains or {}).items())]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", given, bare, held), opset_imports=opsets, functions=functions, ir_version=10
    )
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    del model.graph.output[:]
    for value in made:
        found = known[value]
        if not found.type.tensor_type.HasField("shape"):
            found = helper.make_tensor_value_info(value, found.type.tensor_type.elem_type or TensorProto.FLOAT, [None, None])
        model.graph.output.append(found)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
