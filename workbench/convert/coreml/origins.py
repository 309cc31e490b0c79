"""Where every value of a converted program comes from: the torch node, its module and line; and which value is a layer's result.

    origins["linear_3_cast_fp16"]   # {"op": "linear", "node": "linear_3", "module": "layers.1.q_proj", "line": "modeling_llama.py:278", "result": True}
    layers["text.block.1"]          # "add_14_cast_fp16"

A layer's value is that of the last torch node of its module. Where a pass has taken that node away (a batch norm folded into the
convolution before it), the layer has no value and is not listed: another op's value would be compared under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.convert.stages.exporting import module_path, source_line

DROPPED = frozenset(
    {"clone", "contiguous", "alias", "detach", "dropout", "lift_fresh_copy", "view", "reshape", "expand", "_to_copy"}
)
"""Torch ops that coremltools drops where their result is their input."""


def operations(mlmodel: Any) -> list[tuple[Any, int | None]]:
    """(MIL op, number of its torch node or None), in the program's order; numbers as ``numbered`` gives them."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    found = []
    for op in mlmodel._mil_program.functions["main"].operations:
        handles = op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE)
        found.append((op, handles[-1] if handles else None))
    return found


def numbered(exported: Any) -> dict[int, Any]:
    """Torch nodes by the number that ``convert_and_retrieve_op_mapping`` gives them as debug handle."""
    return {node.meta.get("debug_handle", place): node for place, node in enumerate(exported.graph_module.graph.nodes, 1)}


def origins_of(mlmodel: Any, exported: Any) -> dict[str, dict[str, Any]]:
    """``{MIL value: {op, node, module, line, result}}`` for every op but constants.

    ``result``: the value is what the torch node gives (the first, of a node with several results); the others are steps on the way to it.
    """
    nodes = numbered(exported)
    found: dict[str, dict[str, Any]] = {}
    last: dict[str, str] = {}
    for op, handle in operations(mlmodel):
        node = nodes.get(handle) if handle is not None else None
        if node is None or op.op_type == "const" or op.op_type.startswith("constexpr_"):
            continue
        for output in op.outputs:
            found[output.name] = {
                "op": op.op_type,
                "node": node.name,
                "module": module_path(node),
                "line": source_line(node.meta.get("stack_trace")),
                "result": False,
            }
        if _same_shape(op.outputs[0], node):
            last[node.name] = op.outputs[0].name
    for name in last.values():
        found[name]["result"] = True
    return found


def layers_of(exported: Any, origins: Mapping[str, Mapping[str, Any]], layers: Mapping[str, str]) -> dict[str, str]:
    """``{layer: MIL value}`` for the layers whose last node's result is in the program. ``layers``: module path -> layer."""
    results = {origin["node"]: name for name, origin in origins.items() if origin["result"]}
    last: dict[str, Any] = {}
    for node in exported.graph_module.graph.nodes:
        if node.op == "call_function":
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                last[str(path)] = node
    found = {}
    for path, layer in layers.items():
        node = last.get(path)
        while node is not None and node.name not in results:
            node = unchanged(node)
        if node is not None and node.name in results:
            found[layer] = results[node.name]
    return found


def unchanged(node: Any) -> Any:
    """The torch node whose value ``node`` hands on as it is (a copy, a cast to the same type, the first of several results); else None."""
    given = node.args[0] if node.op == "call_function" and node.args else None
    if getattr(given, "op", "") != "call_function":
        return None
    if kind_of(node) == "getitem":
        return given if node.args[1] == 0 else None
    before, after = given.meta.get("val"), node.meta.get("val")
    same = kind_of(node) in DROPPED and getattr(before, "shape", 0) == getattr(after, "shape", 1) and before.dtype == after.dtype
    return given if same else None


def kind_of(node: Any) -> str:
    """``linear`` of ``torch.ops.aten.linear.default``."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _same_shape(output: Any, node: Any) -> bool:
    """Has the MIL value the shape of the torch node's, as far as both are known?"""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    shape = getattr(value, "shape", None)
    if shape is None or output.shape is None:
        return shape is None
    if len(shape) != len(output.shape):
        return False
    return all(a == b for a, b in zip(shape, output.shape, strict=True) if isinstance(a, int) and isinstance(b, int))
