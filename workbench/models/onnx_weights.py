"""What the ONNX files of a converted model hold, weight by weight, for ``converted_weights``.

    for name, entry in entries(stage, read(stage.path)): ...
    # ("model.layers.0.mlp.up_proj.weight", {"dtype": "F32", "hash": ..., "kind": "int8", "compression": "int8, a scale per channel", ...})

Values are those that the graph computes with: a quantised weight as DequantizeLinear puts it out, a transposed one turned back. Names, and
the errors against torch's values, are the manifest's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.backends.onnx_file import OnnxFile
from workbench.models.converted import ConvertedStage
from workbench.models.converted_weights import SMALLEST, tensor_entry
from workbench.models.onnx_values import FLOATS, computed_types

QUANTISED = re.compile(r"_(quantized|quantized_\d+)$")
"""What onnxruntime's quantiser appends to the name of a weight that it stores as integers (quantization/quant_utils.py)."""
INTEGERS = {3: "int8", 2: "uint8", 6: "int32", 5: "int16", 4: "uint16", 22: "int4", 21: "uint4"}
"""Integer types of ``onnx.TensorProto`` by number."""


def entries(stage: ConvertedStage, file: OnnxFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name in the checkpoint, else in the module, else in the graph; the weight) of every weight of floats that a node reads."""
    rows = {str(row["name"]): row for row in stage.weights}
    graph = file.model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    held = {tensor.name: tensor for tensor in graph.initializer}
    scales = {name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    for name, tensor in held.items():
        if name in scales or name not in readers:
            continue
        node = readers[name][0]
        if tensor.data_type in INTEGERS and node.op_type == "DequantizeLinear":
            values, kind = dequantised(node, held, file), INTEGERS[tensor.data_type]
            dtype, stored = (
                "fp32",
                tensor_bytes(tensor, file) + sum(tensor_bytes(held[each], file) for each in node.input[1:] if each in held),
            )
            words = f"{kind}, {'a scale per channel' if held[node.input[1]].dims else 'one scale'}"
            node = next(iter(readers.get(node.output[0], ())), node)
        elif tensor.data_type in FLOATS:
            values, kind, dtype, stored = file.array(tensor), "none", FLOATS[tensor.data_type], tensor_bytes(tensor, file)
            words = None
        else:
            continue
        if values.size < SMALLEST:
            continue
        row = rows.get(name) or rows.get(QUANTISED.sub("", name)) or {}
        yield (
            row.get("checkpoint") or row.get("parameter") or f"{stage.name}/{QUANTISED.sub('', name)}",
            {**held_as(values, dtype, row), **about(stage, row, name, node, (kind, words), stored, values)},
        )


def held_as(values: Any, dtype: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Type, shape and hashes in the checkpoint's layout; ``turned``: of a square matrix, what the other layout would hash to."""
    import numpy

    values = values.view(numpy.uint16) if dtype == "bf16" else values  # hashed as it is stored
    turned = row.get("how") == "transposed" and values.ndim > 1
    entry = tensor_entry(values.swapaxes(-1, -2) if turned else values, dtype)
    if values.ndim == 2 and not turned and values.shape[0] == values.shape[1] and not entry["sampled"]:
        entry["turned"] = tensor_entry(values.T, dtype)["hash"]
    return entry


def about(
    stage: ConvertedStage, row: Mapping[str, Any], name: str, node: Any, kind: tuple[str, str | None], stored: int, values: Any
) -> dict[str, Any]:
    origin = next((found for each in node.output if (found := stage.origins.get(each))), {})
    return {
        "of": row.get("checkpoint"),
        "how": row.get("how"),
        "kind": kind[0],
        "compression": kind[1],
        "asked": row.get("asked"),
        "why_not": row.get("why_not"),
        "error": row.get("error"),
        "stored_bytes": stored,
        "dense_bytes": stored if kind[0] == "none" else 4 * values.size,
        "value": name,
        "op": node.op_type,
        "module": origin.get("module"),
        "line": origin.get("line"),
    }


def dequantised(node: Any, held: Mapping[str, Any], file: OnnxFile) -> Any:
    """What a DequantizeLinear of constants puts out, in float32: (integers - zero point) * scale along its axis."""
    import numpy

    integers = numpy.asarray(file.array(held[node.input[0]])).astype(numpy.float32)
    scale = numpy.asarray(file.array(held[node.input[1]]), dtype=numpy.float32)
    zero = (
        numpy.asarray(file.array(held[node.input[2]])).astype(numpy.float32)
        if len(node.input) > 2 and node.input[2]
        else numpy.float32(0)
    )
    if scale.ndim == 1 and integers.ndim:
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1) % integers.ndim
        along = [-1 if place == axis else 1 for place in range(integers.ndim)]
        scale, zero = scale.reshape(along), zero.reshape(along) if getattr(zero, "ndim", 0) else zero
    return (integers - zero) * scale


def tensor_bytes(tensor: Any, file: OnnxFile) -> int:
    from workbench.backends.onnx_external import dense_bytes

    return dense_bytes(tensor, file.path)


def precision_of(manifest: Mapping[str, Any], file: OnnxFile) -> dict[str, Any]:
    """``{"computes": {type: nodes}, "kept": {reason: nodes}, ...}``: the float types that nodes put out, and what stays fp32 and why."""
    kept: dict[str, int] = {}
    for row in manifest.get("kept_fp32") or ():
        reason = str(row.get("reason"))
        kept[reason] = kept.get(reason, 0) + 1
    return {"computes": computed_types(file.model), "others": 0, "other": [], "kept": kept, "scales": moved_scales(manifest, file)}


def moved_scales(manifest: Mapping[str, Any], file: OnnxFile) -> list[dict[str, Any]]:
    """``{"value", "recorded", "found"}`` of every Q/DQ whose scale is not what the calibration recorded; of a weight's, by its extremes."""
    import numpy

    report = manifest.get("quantized") or {}
    recorded = {str(row["value"]): [float(row["scale"])] for row in report.get("activations") or ()}
    recorded |= {str(row["stored"]): [float(scale) for scale in row["scales"]] for row in report.get("weights") or ()}
    held = {tensor.name: tensor for tensor in file.model.graph.initializer}
    moved: dict[str, dict[str, Any]] = {}
    for node in file.model.graph.node:
        wanted = recorded.get(node.input[0]) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if wanted is None or node.input[1] not in held:
            continue
        scale = numpy.asarray(file.array(held[node.input[1]]), dtype=numpy.float64)
        found = [float(scale.min()), float(scale.max())] if len(wanted) > 1 else [float(scale.flat[0])]
        for mine, known in zip(found, wanted, strict=True):
            if not abs(mine - known) <= 1e-6 * abs(known):
                moved[node.input[0]] = {"value": node.input[0], "recorded": known, "found": mine}
    return list(moved.values())
