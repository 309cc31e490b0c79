"""What the types of a node's inputs and outputs may be, by the ONNX schema of the model's opset.

    signature(node, {"": 20})       # Signature(inputs=("T", "tensor(int64)"), outputs=("T",), allowed={"T": {"tensor(float)", ...}})

Inputs that share a type variable must agree; one with a type written out ("tensor(float)", the scales of Resize) takes nothing else.
Source: ``onnx.defs``, the schemas that the ONNX checker itself uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Signature:
    """``inputs``, ``outputs``: by place, a type variable or a type written out. ``allowed``: by variable, the types it may be."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: Mapping[str, frozenset[str]]
    since: int

    def takes(self, kind: str, dtype: str) -> bool:
        """Whether what is declared as ``kind`` may be ``dtype`` ("tensor(float16)")."""
        return dtype in self.allowed.get(kind, ()) if kind in self.allowed else dtype == kind


def signature(node: Any, opsets: Mapping[str, int]) -> Signature | None:
    """Of an ``onnx_ir.Node``, with a declared type for each input and output that it has. None: no schema says what its types are (an op of
    another domain, or one whose repeated inputs may differ in type)."""
    found = _schema(node.op_type, node.domain, opsets.get(node.domain))
    if found is None:
        return None
    inputs, outputs = (_places(declared, len(given)) for declared, given in ((found[0], node.inputs), (found[1], node.outputs)))
    if inputs is None or outputs is None:
        return None
    if node.op_type == "DequantizeLinear" and found[3] >= 23 and "output_dtype" not in node.attributes:
        outputs = inputs[1:2]  # the result is of the scale's type, which the schema's own variable does not say
    return Signature(inputs, outputs, found[2], found[3])


@cache
def _schema(
    op: str, domain: str, opset: int | None
) -> tuple[tuple[tuple[str, bool, bool], ...], tuple[tuple[str, bool, bool], ...], dict[str, frozenset[str]], int] | None:
    """(inputs and outputs as (type, repeated, all of one type), types by variable, the opset it is from)."""
    from onnx import defs

    if opset is None or not defs.has(op, domain=domain):
        return None
    try:
        schema = defs.get_schema(op, opset, domain)
    except defs.SchemaError:  # added by a later opset
        return None
    repeated = defs.OpSchema.FormalParameterOption.Variadic
    declared = tuple(
        tuple((each.type_str, each.option == repeated, each.is_homogeneous) for each in side)
        for side in (schema.inputs, schema.outputs)
    )
    allowed = {each.type_param_str: frozenset(each.allowed_type_strs) for each in schema.type_constraints}
    return declared[0], declared[1], allowed, schema.since_version


def _places(declared: tuple[tuple[str, bool, bool], ...], count: int) -> tuple[str, ...] | None:
    names = [name for name, _, _ in declared]
    if count > len(names):
        if not declared or not declared[-1][1]:
            return None
        names += [names[-1]] * (count - len(names))
    if any(repeated and not alike for _, repeated, alike in declared):
        return None
    return tuple(names[:count])
