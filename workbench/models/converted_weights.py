"""What a converted model holds, weight by weight, as ``artifact.json`` lists it: read from the packages, beside what the conversion recorded.

    converted_artifact(Converted(folder))["tensors"]["model.layers.0.mlp.up_proj.weight"]
    # {"dtype": "F32", "shape": [...], "hash": "5c1e...", "of": "model.layers.0.mlp.up_proj.weight", "stages": ["prefill", "step"],
    #  "kind": "int8", "compression": "int8, a scale per channel", "asked": "int8", "error": 0.004, "op": "linear", "module": ..., ...}

Values are those that ops read: decompressed, in the checkpoint's layout, so that a hash equals that of the same weight in a checkpoint.
Names, what was asked, and errors against torch are the manifest's; types and values are the package's own. Weights that two functions
share are one entry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.fingerprint import of_file
from workbench.models.converted import Converted, ConvertedStage

SMALLEST = 10
"""Elements from which on a constant is listed: coremltools keeps smaller ones in the program itself."""
SHORT = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
ASKED = {"fp32": "fp32", "fp16": "fp16"}
SUFFIX = re.compile(r"(_to_fp16|_to_fp32|_quantized|_palettized|_sparsified)+$")
"""What coremltools appends to a constant's name where it changes its type or compresses it (9.0)."""
NAMED = 40
PLAIN = ("none", "cast")


def converted_artifact(converted: Converted, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As ``artifact.artifact`` of a checkpoint, with ``converted``: recipe, source, and by stage which types its ops compute in.

    Raises ModelError for a package that cannot be read.
    """
    tensors: dict[str, dict[str, Any]] = {}
    stages: dict[str, Any] = {}
    for stage in converted.stages.values():
        rows, precision = (onnx_stage if converted.runtime == "onnx" else coreml_stage)(converted, stage)
        for key, entry in rows:
            add(tensors, key, entry, stage.name)
        stages[stage.name] = {"package": stage.package, "function": stage.function, **precision}
    named = [converted.folder / name for name in (*converted.packages, *converted.shared)]
    paths = [path for each in named for path in ([each] if each.is_file() else sorted(each.rglob("*"))) if path.is_file()]
    return {
        "bytes": converted.size_bytes,
        "files": [
            {"name": path.relative_to(converted.folder).as_posix(), "bytes": path.stat().st_size, "hash": of_file(path)[:32]}
            for path in paths
            if path.name != "Manifest.json"  # random identifiers
        ],
        "tensors": tensors,
        "quantisation": None,
        "settings": dict(settings),
        "converted": {
            "runtime": converted.runtime,
            "recipe": converted.recipe,
            "label": converted.label,
            "source": {name: converted.source.get(name) for name in ("name", "revision", "weights", "config")},
            "versions": converted.versions,
            "stages": stages,
        },
    }


def coreml_stage(converted: Converted, stage: ConvertedStage) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """(every weight of the stage, which types its ops compute in)."""
    from workbench.backends.coreml_package import told

    with told():
        from workbench.mil.program import load

        program = load(stage.path, stage.function)
        return list(entries(stage, program)), precision_of(stage, program, converted.recipe)


def onnx_stage(converted: Converted, stage: ConvertedStage) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """The same of an ONNX file."""
    from workbench.backends.onnx_file import read
    from workbench.models import onnx_weights

    file = read(stage.path)
    return list(onnx_weights.entries(stage, file)), onnx_weights.precision_of(converted.manifest["stages"][stage.name], file)


def entries(stage: ConvertedStage, program: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name in the checkpoint, else in the module, else in the program; the weight) for every weight of floats that an op reads."""
    from workbench.mil.constants import dense
    from workbench.mil.types import FLOATS
    from workbench.mil.weights import weight_table

    rows = {row["name"]: row for row in stage.weights}
    for weight in weight_table(program.function, smallest=SMALLEST):
        if weight.dtype not in FLOATS:
            continue
        name = SUFFIX.sub("", weight.name)
        row = rows.get(name, {})
        reader = weight.readers[0]
        origin = stage.origins.get(reader.op) or {}
        values = dense(program, weight.name)
        turned = row.get("how") == "transposed" and values.ndim > 1
        entry = tensor_entry(values.swapaxes(-1, -2) if turned else values, weight.dtype)
        if values.ndim == 2 and not turned and values.shape[0] == values.shape[1] and not entry["sampled"]:
            entry["turned"] = tensor_entry(values.T, weight.dtype)["hash"]
        yield (
            row.get("checkpoint") or row.get("parameter") or f"{stage.name}/{name}",
            {
                **entry,
                "of": row.get("checkpoint"),
                "how": row.get("how"),
                "kind": weight.kind,
                "compression": None if weight.kind in PLAIN else weight.words,
                "asked": row.get("asked"),
                "why_not": row.get("why_not"),
                "error": row.get("error"),
                "stored_bytes": weight.stored_bytes,
                "dense_bytes": weight.dense_bytes,
                "value": name,
                "op": reader.type,
                "module": origin.get("module"),
                "line": origin.get("line"),
            },
        )


def add(tensors: dict[str, dict[str, Any]], key: str, entry: dict[str, Any], stage: str) -> None:
    """A weight that another stage holds too is the same entry; one of the same name that differs is another, named by its stage."""
    known = tensors.get(key)
    same = ("hash", "dtype", "shape", "kind")
    if known is None:
        tensors[key] = {**entry, "stages": [stage]}
    elif [known[name] for name in same] == [entry[name] for name in same]:
        known["stages"] = list(dict.fromkeys([*known["stages"], stage]))
    else:
        name, number = f"{key} ({stage})", 2
        while name in tensors:
            name, number = f"{key} ({stage}, {number})", number + 1
        tensors[name] = {**entry, "stages": [stage]}


def tensor_entry(values: Any, dtype: str) -> dict[str, Any]:
    """Type, shape, hash and root mean square, as ``artifact.read_tensors`` gives them."""
    import io

    import numpy

    from workbench.models.artifact import described, read_bytes

    held = numpy.ascontiguousarray(values)
    data, sampled = read_bytes(io.BytesIO(memoryview(held).cast("B") if held.size else b""), 0, held.nbytes)
    return described(data, SHORT.get(dtype, dtype.upper()), list(held.shape), sampled)


def precision_of(stage: ConvertedStage, program: Any, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """``{"computes": {type: ops}, "other": [...], "others": count}``: the float types that ops put out, and those that do not compute in the type
    that was asked for, with their origin. What only stores, converts, or keeps up an fp16 state is not counted."""
    from workbench.mil.facts import Facts, computes, floats
    from workbench.mil.types import StateType

    asked = ASKED.get(str(recipe.get("precision")))
    facts = Facts(program.function)
    counts: Counter[str] = Counter()
    other = []
    for op in facts.ops:
        if not computes(op) or any(isinstance(facts.types.get(name), StateType) for name in op.references()):
            continue
        found = floats(op)
        counts.update(found)
        if asked == "fp32" and found - {asked} and not stores_state(op, facts):
            value = op.outputs[0][0]
            origin = stage.origins.get(value) or {}
            other.append(
                {"value": value, "op": op.type, "dtype": min(found), **{name: origin.get(name) for name in ("module", "line")}}
            )
    return {"computes": dict(sorted(counts.items())), "others": len(other), "other": other[:NAMED]}


def stores_state(op: Any, facts: Any) -> bool:
    """Is everything that reads the op an op that writes a state? Then its fp16 is the state's."""
    readers = [each for each in facts.ops if {name for name, _ in op.outputs} & set(each.references())]
    return bool(readers) and all(each.type in ("write_state", "coreml_update_state") for each in readers)
