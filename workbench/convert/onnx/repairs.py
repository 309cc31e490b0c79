"""What torch's exporter leaves that the ONNX standard does not allow, set right in the graph.

    settle_outputs(model, ("logits",))      # float32 and int32, each a value of its own
    settle_types(model)                     # GatherND(int32 indices) -> GatherND(Cast to int64)
    name_sizes(model, stage.dynamic)        # "s18" -> "T", in every shape
    settle_names(model)                     # a value inside that is called as an output gets another name

Torch takes int32 where ONNX asks for int64 (indices of GatherND and ScatterND, shapes); the exporter of torch 2.13 does not convert them,
and the checker refuses the graph. Which types an op takes is read from the operator's schema in ``onnx``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir


def settle_outputs(model: onnx_ir.Model, names: Sequence[str]) -> None:
    """Every graph output becomes float32 or int32, and a node's result that is called as ``names`` says."""
    import onnx_ir as ir

    kinds = {ir.DataType.FLOAT: None, ir.DataType.INT32: None}
    seen: set[int] = set()
    for place, (name, value) in enumerate(zip(names, list(model.graph.outputs), strict=True)):
        wanted = value.dtype if value.dtype in kinds else _plain(value.dtype)
        alone = id(value) not in seen and value.producer() is not None
        seen.add(id(value))
        if wanted == value.dtype and alone:
            value.name = name
            continue
        if value.name == name and value.producer() is not None:
            value.name = f"{name}_before"
        node = ir.node("Cast" if wanted != value.dtype else "Identity", [value], {"to": wanted} if wanted != value.dtype else {})
        node.name = f"node_{name}_out"
        made = node.outputs[0]
        made.name, made.dtype, made.shape = name, wanted, value.shape
        model.graph.append(node)
        model.graph.outputs[place] = made


def _plain(dtype: Any) -> Any:
    import onnx_ir as ir

    return ir.DataType.FLOAT if dtype.is_floating_point() else ir.DataType.INT32


def settle_names(model: onnx_ir.Model) -> None:
    """Inputs and outputs keep their names; a value or weight inside that has the same gets another, as torch's exporter leaves them where
    an output is called as a torch node is."""
    graph = model.graph
    edge = {id(value) for value in [*graph.inputs, *graph.outputs]}
    taken = {value.name for value in [*graph.inputs, *graph.outputs]}
    inside = [value for value in graph.initializers.values() if id(value) not in edge]
    inside += [value for node in graph.all_nodes() for value in node.outputs if value.name and id(value) not in edge]
    every = taken | {value.name for value in inside}
    for value in inside:
        if value.name in taken:
            number = 1
            while f"{value.name}_{number}" in every:
                number += 1
            name = f"{value.name}_{number}"
            every.add(name)
            if value.is_initializer():
                del graph.initializers[value.name]
                value.name = name
                graph.initializers[name] = value
            else:
                value.name = name


def name_sizes(model: onnx_ir.Model, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Call the sizes that vary as the stage does, in the shapes of all values; torch's exporter numbers the symbols of a graph that was
    exported before. An expression of one ("2*s18 + 1") is renamed within."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in dynamic.get(value.name or "", {}).items():
            size = value.shape[axis] if value.shape is not None else None
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                names[size.value] = name
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})\b")
    for value in _values(model):
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                named = pattern.sub(lambda found: names[found.group()], size.value)
                if named != size.value:
                    value.shape[axis] = ir.SymbolicDim(named)


def _values(model: onnx_ir.Model) -> Iterator[Any]:
    """Every value once: a shape may be shared, a value is not."""
    yield from model.graph.inputs
    for node in model.graph.all_nodes():
        yield from node.outputs


def settle_types(model: onnx_ir.Model) -> None:
    """Put a Cast to int64 before every input that is int32 where the operator takes int64 and not int32."""
    import onnx_ir as ir

    made: dict[Any, Any] = {}
    for node in [*model.graph.all_nodes()]:
        if node.domain not in ("", "ai.onnx"):
            continue
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.INT32:
                continue
            allowed = _types(node, place, model)
            if not allowed or "tensor(int32)" in allowed or "tensor(int64)" not in allowed:
                continue
            if value not in made:
                cast = ir.node("Cast", [value], {"to": ir.DataType.INT64}, name=f"node_{value.name}_int64")
                cast.metadata_props.update(node.metadata_props)
                cast.outputs[0].name, cast.outputs[0].dtype = f"{value.name}_int64", ir.DataType.INT64
                cast.outputs[0].shape = value.shape
                producer = value.producer()
                if producer is None:  # an input or a constant: before everything
                    node.graph.insert_before(node, cast)
                else:
                    producer.graph.insert_after(producer, cast)
                made[value] = cast.outputs[0]
            node.replace_input_with(place, made[value])


def _types(node: Any, place: int, model: onnx_ir.Model) -> set[str]:
    """Types that the operator's schema allows for one of its inputs; none where it does not know the operator."""
    import onnx

    version = node.version or model.opset_imports.get("", onnx.defs.onnx_opset_version())
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return set()
    if not schema.inputs:
        return set()
    return set(schema.inputs[min(place, len(schema.inputs) - 1)].types)
