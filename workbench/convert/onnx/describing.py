"""What a manifest says of a saved graph: its arrays, ops and types; and the standard's own verdict on it.

checked(path)                       # onnx's checker and shape inference, strict: ModelError
arrays_of(path)["inputs"][0]        # {"name": "tokens", "dtype": "int32", "shape": [1, None], "range": [[1, 1], [2, 512]]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.convert.onnx.saving import RANGES, WEIGHTS
from workbench.errors import ModelError
from workbench.fingerprint import of_file

WORDS = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "DOUBLE": "fp64",
    **{kind: kind.lower() for kind in ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "BOOL", "STRING")},
}


def checked(path: Path) -> Any:
    """The graph with the types and shapes that the standard infers; its weights stay on the disk.

    Raises ModelError where onnx's checker refuses the file, or where a type or shape contradicts another.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(str(path), load_external_data=False)
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        why = " ".join(str(error).split())[:500]
        raise ModelError(
            f"{path.name} is no valid ONNX graph", why=why, fix="--opset another, or --precision fp32 to see whether types are why"
        ) from error


def arrays_of(proto: Any) -> dict[str, list[dict[str, Any]]]:
    """``{"inputs", "outputs", "states"}`` as a manifest holds them; ``range``: a pair an axis, where any varies."""
    ranges = json.loads(next((each.value for each in proto.metadata_props if each.key == RANGES), "{}"))
    weights = {each.name for each in proto.graph.initializer}
    return {
        "inputs": [_array(each, ranges) for each in proto.graph.input if each.name not in weights],
        "outputs": [_array(each, ranges) for each in proto.graph.output],
        "states": [],
    }


def _array(value: Any, ranges: dict[str, list[int]]) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    sizes = [each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim]
    pairs: list[list[int | None]] = []
    for size, each in zip(sizes, tensor.shape.dim, strict=True):
        varies = ranges.get(each.dim_param)
        pairs.append([size, size] if size is not None else [varies[0], varies[2]] if varies else [0, None])
    return {
        "name": value.name,
        "dtype": WORDS[onnx.TensorProto.DataType.Name(tensor.elem_type)],
        "shape": sizes,
        "range": pairs if None in sizes else None,
    }


def ops_of(proto: Any) -> dict[str, int]:
    """Op type -> count, of inner graphs too."""
    return dict(Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in _nodes(proto.graph)))


def types_of(proto: Any) -> dict[str, int]:
    """Type -> how many ops give it (by an op's first result); ``unknown`` where inference tells none."""
    import onnx

    graph = proto.graph
    kinds = {each.name: each.type.tensor_type.elem_type for each in [*graph.value_info, *graph.output]}
    found: Counter[str] = Counter()
    for node in graph.node:
        kind = kinds.get(node.output[0], 0)
        found[WORDS.get(onnx.TensorProto.DataType.Name(kind), "other") if kind else "unknown"] += 1
    return dict(sorted(found.items()))


def values_of(proto: Any) -> set[str]:
    """Every value that an op gives, of inner graphs too."""
    return {name for node in _nodes(proto.graph) for name in node.output if name}


def packages_of(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """(``packages``, ``shared``) of a manifest: every ``.onnx`` file, and the weights that they share."""
    data = folder / WEIGHTS
    shared = {WEIGHTS: {"bytes": data.stat().st_size, "sha256": of_file(data)}} if data.is_file() else {}
    weights = shared[WEIGHTS]["sha256"] if shared else None
    packages = {
        path.name: {"bytes": path.stat().st_size, "model": of_file(path), "weights": weights if _reads(path) else None}
        for path in sorted(folder.glob("*.onnx"))
    }
    return packages, shared


def _reads(path: Path) -> bool:
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    return any(each.data_location == onnx.TensorProto.EXTERNAL for each in proto.graph.initializer)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(inner)
