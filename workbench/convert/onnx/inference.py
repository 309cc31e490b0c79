"""Types and shapes of a graph's values where the file does not say them, by ONNX's own inference and without its weights.

    tell_types(model)      # an onnx_ir.Model: values without a type get one

onnx_ir's pass of that purpose (1.1.0) tells of a sequence that it is a tensor; here a type is taken as it was inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workbench.errors import ModelError

LARGE = 1024
"""Bytes of a weight that inference is not given: only small ones are ever shapes."""


def tell_types(model: Any) -> None:
    """Fill in types and shapes that are not told. Raises ModelError where ONNX's inference does not take the graph."""
    import onnx
    import onnx_ir as ir

    if all(value.type is not None for graph in model.graphs() for node in graph for value in node.outputs if value.name):
        return
    with _without_weights(model):
        proto = ir.to_proto(model)
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True))
    except Exception as error:  # onnx raises errors of its own compiled modules
        raise ModelError("the types of the graph do not fit together", why=" ".join(str(error).split())[:300]) from error
    for graph, told in zip(model.graphs(), inferred.graphs(), strict=True):
        known = {value.name: value for node in told for value in node.outputs}
        for value in (each for node in graph for each in node.outputs if each.name in known):
            if value.type is None:
                value.type = known[value.name].type
            if value.shape is None:
                value.shape = known[value.name].shape


@contextmanager
def _without_weights(model: Any) -> Iterator[None]:
    """Large weights are written as names of a file that nobody opens."""
    import onnx_ir as ir

    held = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > LARGE and tensor.dtype != ir.DataType.STRING:
            held[value] = tensor
            value.const_value = ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name)
    try:
        yield
    finally:
        for value, tensor in held.items():
            value.const_value = tensor
