"""Every float weight of a saved graph: how it is stored, why it was left as it is where int8 was asked, and how far it is from torch's.

    for row in weight_report(Path("folder/step.onnx"), graph, recipe):
        row["name"], row["parameter"], row["compression"], row["why_not"], row["error"]
    # ("text.layers.0.q_proj.weight.transposed", "text.layers.0.q_proj.weight", "none", None, 0.0)

The values are read from the files, not from what was in memory when they were written: a weight that was damaged, or whose scale belongs to
another axis, shows in its error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.onnx.recipe import Recipe
from workbench.convert.onnx.sources import SMALLEST, Source, tensors_of
from workbench.models.seen import as_array

if TYPE_CHECKING:
    import numpy as np

    from workbench.convert.onnx.graphs import StageGraph

FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}
INTEGERS = {"INT8": "int8", "UINT8": "uint8", "INT4": "int4", "UINT4": "uint4"}
SUFFIX = re.compile(r"(_quantized|_axis\d+|_float16|_bfloat16)(_\d+)?$")
"""What quantising (onnxruntime 1.31, quantization/base_quantizer.py) and typing append to a weight's name."""


@dataclass(frozen=True)
class Stored:
    """One weight of a file. ``scale`` and ``axis``: of the DequantizeLinear that reads it; ``readers``: (node, op, input)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    tensor: Any
    scale: Any
    axis: int
    readers: tuple[tuple[str, str, str], ...]

    def dense(self) -> np.ndarray[Any, Any]:
        """The values that the readers compute with."""
        import numpy as np

        values = self.tensor.numpy()
        if self.scale is None:
            return values.astype(np.float32)
        scale = self.scale.numpy().astype(np.float32)
        if scale.ndim:
            scale = scale.reshape([-1 if axis == self.axis % len(self.shape) else 1 for axis in range(len(self.shape))])
        return values.astype(np.float32) * scale


def weight_report(
    path: Path, graph: StageGraph, recipe: Recipe, quantized: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row a weight of floats (at least ``SMALLEST`` elements, or int8), in the file's order. JSON throughout:

    ``name``, ``parameter`` (path in the stage's module, None), ``checkpoint`` (its name in the model's files, None), ``tied`` (other paths
    of the same parameter), ``layer`` (of the project, None), ``how`` (as it is, transposed, reshaped, computed), ``shape``, ``dtype`` (what
    the readers compute with), ``asked``, ``compressed``, ``compression``, ``words``, ``why_not`` (None where nothing was left out),
    ``stored_bytes``, ``dense_bytes``, ``readers`` ([[node, op, input]]), ``error`` (relative L2 against the parameter; None: computed).
    """
    held = tensors_of(graph.exported)
    paths = tied(graph.stage.module)
    asked = "int8" if recipe.precision == "int8-qdq" else None
    left = {row["value"]: row["reason"] for row in (quantized or {}).get("left", ())}
    outputs: dict[str, str] = {}
    rows = []
    for weight in stored(path, outputs):
        source = _source(weight.name, graph.sources)
        parameter = source.parameter if source else None
        names = paths.get(parameter or "", [parameter] if parameter else [])
        compressed = weight.scale is not None
        rows.append(
            {
                "name": weight.name,
                "parameter": parameter,
                "checkpoint": next((graph.stage.parameters[name] for name in names if name in graph.stage.parameters), None),
                "tied": [name for name in names if name != parameter],
                "layer": _layer(parameter, weight, graph, outputs),
                "how": source.how if source else "computed",
                "shape": list(weight.shape),
                "dtype": "fp32" if compressed else weight.dtype,
                "asked": asked,
                "compressed": compressed,
                "compression": weight.dtype if compressed else "none",
                "words": _words(weight),
                "why_not": None if compressed or asked is None else _why_not(weight, left, outputs),
                "stored_bytes": weight.bytes + (weight.scale.nbytes if compressed else 0),
                "dense_bytes": _count(weight.shape) * 4 if compressed else weight.bytes,
                "readers": [list(reader) for reader in weight.readers],
                "error": _error(weight, source, held),
            }
        )
    return rows


def stored(path: Path, outputs: dict[str, str] | None = None) -> Iterator[Stored]:
    """The weights of a file, in its order; ``outputs`` gets the first output of each node by the node's name."""
    import onnx_ir

    model = onnx_ir.load(path)
    for node in model.graph:
        if outputs is not None and node.outputs:
            outputs[node.name or ""] = node.outputs[0].name or ""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        kind = tensor.dtype.name
        scale, axis, read = None, 1, value
        if kind in INTEGERS:
            user = next((use.node for use in value.uses() if use.node.op_type == "DequantizeLinear" and use.idx == 0), None)
            if user is None or user.inputs[1].const_value is None:
                continue
            scale, read = user.inputs[1].const_value, user.outputs[0]
            axis = user.attributes["axis"].as_int() if "axis" in user.attributes else 1
        elif kind not in FLOATS or tensor.size < SMALLEST or _is_scale(value):
            continue
        readers = tuple((use.node.name or "", use.node.op_type, _formal(use.node, use.idx)) for use in read.uses())
        yield Stored(name, (FLOATS | INTEGERS)[kind], tuple(tensor.shape), tensor.nbytes, tensor, scale, axis, readers)


def tied(module: Any) -> dict[str, list[str]]:
    """Path of a parameter -> all paths of the same tensor, itself first."""
    places: dict[Any, list[str]] = {}
    for path, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        places.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(path)
    return {path: [path, *(other for other in paths if other != path)] for paths in places.values() for path in paths}


def _source(name: str, sources: Mapping[str, Source]) -> Source | None:
    while name not in sources and SUFFIX.search(name):
        name = SUFFIX.sub("", name)
    return sources.get(name)


def _error(weight: Stored, source: Source | None, held: Mapping[str, Any]) -> float | None:
    from workbench.convert.coreml.sources import relative_l2

    if source is None:
        return None
    wanted = as_array(held[source.parameter].detach())
    if source.how == "transposed":
        wanted = wanted.swapaxes(-1, -2)
    return relative_l2(weight.dense(), wanted.reshape(weight.shape))


def _layer(parameter: str | None, weight: Stored, graph: StageGraph, outputs: Mapping[str, str]) -> str | None:
    """The innermost layer of the project that holds a weight: by its parameter's path, else by the modules of its readers."""
    paths = [parameter.rpartition(".")[0]] if parameter else []
    paths += [graph.origins[outputs[node]]["module"] for node, _, _ in weight.readers if outputs.get(node) in graph.origins]
    layers = graph.stage.layers
    for path in paths:
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            if ".".join(parts[:end]) in layers:
                return layers[".".join(parts[:end])]
    return None


def _words(weight: Stored) -> str:
    if weight.scale is None:
        return weight.dtype
    count = weight.scale.size
    return f"{weight.dtype}, symmetric, " + (f"{count:,} scales along axis {weight.axis}" if count > 1 else "one scale")


def _why_not(weight: Stored, left: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    for node, _, _ in weight.readers:
        if outputs.get(node) in left:
            return left[outputs[node]]
    from workbench.convert.onnx.placement import WEIGHTED

    kinds = dict.fromkeys(op for _, op, _ in weight.readers)
    if any(op in WEIGHTED for op in kinds):
        return "it is added to a product, not multiplied"
    return f"{' and '.join(kinds) or 'nothing'} reads it: {', '.join(WEIGHTED)} are quantised"


def _is_scale(value: Any) -> bool:
    return any(use.node.op_type in ("QuantizeLinear", "DequantizeLinear") and use.idx == 1 for use in value.uses())


def _formal(node: Any, place: int) -> str:
    """What an operator calls one of its inputs."""
    import onnx

    try:
        inputs = onnx.defs.get_schema(node.op_type, node.domain or "").inputs
    except onnx.defs.SchemaError:
        return str(place)
    return inputs[min(place, len(inputs) - 1)].name if inputs else str(place)


def _count(shape: Sequence[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found
