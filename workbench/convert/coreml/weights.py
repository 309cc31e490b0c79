"""Every float weight of a saved program: what was asked, how it is stored, why it was left as it is, and how far it is from torch's.

    for row in weight_report(Path("decoder.mlpackage"), "step", converted):
        row["name"], row["parameter"], row["compression"], row["why_not"], row["error"]
    # ("p_narrow_weight", "narrow.weight", "none", "16 input channels are no multiple of the block of 32", 0.0)

The values are read and decompressed by the reference executor, not by coremltools: a weight that a pass has transposed, or that was
damaged after saving, shows in its error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.compress import BLOCK, MOST_LEFT
from workbench.convert.coreml.sources import SMALLEST, base_name, relative_l2

if TYPE_CHECKING:
    from workbench.convert.coreml.programs import ConvertedStage
    from workbench.mil.program import Program
    from workbench.mil.weights import Weight


_METHOD = {"prune50": "sparse"}
"""A recipe's compression -> the kind that its weights then have; the others are called alike."""


def weight_report(path: Path, function: str | None, converted: ConvertedStage) -> list[dict[str, Any]]:
    """One row a weight of floats (at least ``SMALLEST`` elements, or compressed), in the order of first use. JSON throughout:

    ``name`` of the constant, ``parameter`` (path in the stage's module, None), ``checkpoint`` (its name in the model's files, None),
    ``tied`` (other paths of the same parameter), ``layer`` (of the project, None), ``how`` (as it is, transposed, reshaped, computed,
    folded, added by the converter), ``shape``, ``dtype`` (what the ops compute with), ``asked`` (the recipe's compression, None),
    ``compressed``, ``compression`` (kind), ``words`` (how it is stored), ``why_not`` (None where nothing was left out), ``stored_bytes``,
    ``dense_bytes``, ``readers`` ([[op, type, parameter]]), ``error`` (relative L2 of the dense value against the parameter; None: folded).

    Raises MilError where the program cannot be read.
    """
    from workbench.mil.constants import dense
    from workbench.mil.program import load
    from workbench.mil.types import FLOATS
    from workbench.mil.weights import weight_table

    program = load(path, function)
    asked = converted.recipe.quantize
    paths = _tied(converted)
    rows = []
    for weight in weight_table(program.function, smallest=SMALLEST):
        if weight.dtype not in FLOATS:
            continue
        source = converted.sources.get(base_name(weight.name))
        parameter = source.parameter if source else None
        names = paths.get(parameter or "", [])
        error = None
        if source is not None and source.value is not None:
            error = relative_l2(dense(program, weight.name), source.value)
        compressed = weight.kind not in ("none", "cast")
        rows.append(
            {
                "name": base_name(weight.name),
                "parameter": parameter,
                "checkpoint": next(
                    (converted.stage.parameters[name] for name in names if name in converted.stage.parameters), None
                ),
                "tied": [name for name in names if name != parameter],
                "layer": next(iter(layers_around(converted, weight)), None),
                "how": source.how if source else "folded",
                "shape": list(weight.shape),
                "dtype": weight.dtype,
                "asked": asked,
                "compressed": compressed,
                "compression": weight.kind,
                "words": weight.words,
                "why_not": why_not(program, weight, asked),
                "stored_bytes": weight.stored_bytes,
                "dense_bytes": weight.dense_bytes,
                "readers": [[reader.op, reader.type, reader.parameter] for reader in weight.readers],
                "error": error,
            }
        )
    return rows


def left_alone(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of weights large enough to count that were asked to be compressed and were not."""
    return [row for row in rows if row["why_not"] and math.prod(row["shape"]) > MOST_LEFT]


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{weights, compressed, left, stored_bytes, dense_bytes, reasons: {why: count}}`` over a report's rows."""
    reasons = Counter(row["why_not"] for row in rows if row["why_not"])
    return {
        "weights": len(rows),
        "compressed": sum(row["compressed"] for row in rows),
        "left": sum(bool(row["why_not"]) for row in rows),
        "stored_bytes": sum(row["stored_bytes"] for row in rows),
        "dense_bytes": sum(row["dense_bytes"] for row in rows),
        "reasons": dict(reasons.most_common()),
    }


def why_not(program: Program, weight: Weight, asked: str | None) -> str | None:
    """Why a weight is not compressed as asked; None where it is, or where nothing was asked.

    The rules are coremltools 9.0's: optimize/coreml/_quantization_passes.py (need_compress_const, transform_op) and
    optimize/_utils.py (select_input_output_channel_axis, compute_qparams).
    """
    import numpy as np

    from workbench.mil.constants import dense

    if asked is None or _as_asked(weight, asked):
        return None
    if weight.kind == "sparse" == _METHOD.get(asked):
        return f"{100 * (weight.density or 0.0):.1f} % of its values are left, and it is larger for it"
    if weight.kind != "none":
        return f"stored as {weight.kind} instead"
    if all(reader.type == "output" for reader in weight.readers):
        return "only an output reads it: not a constant of an op"
    if len(weight.shape) <= 1:
        return "a vector: coremltools compresses matrices and larger"
    if weight.elements <= MOST_LEFT:
        return f"{weight.elements:,} elements: not more than {MOST_LEFT:,}"
    if asked in ("int8", "int4-block32") and not np.isfinite(dense(program, weight.name)).all():
        return "it holds infinities, which no scale reaches"
    if asked in ("int8", "int4-block32"):
        axes = {axis for reader in weight.readers for axis in _input_axes(program, weight, reader)}
        if len(axes) > 1:
            return "its readers take different axes for input channels, and blocks lie along one"
        channels = weight.shape[next(iter(axes))]
        if asked == "int4-block32" and channels % BLOCK:
            return f"{channels:,} input channels are no multiple of the block of {BLOCK}"
    return "coremltools left it as it is and gives no reason"


def _as_asked(weight: Weight, asked: str) -> bool:
    if asked == "int4-block32":  # one block a channel is no split: 32 input channels in all
        return weight.kind in ("int4", f"int4-block{BLOCK}")
    method = _METHOD.get(asked, asked)
    return weight.kind == method and (method != "sparse" or weight.stored_bytes <= weight.dense_bytes)


def _input_axes(program: Program, weight: Weight, reader: Any) -> list[int]:
    """The axis of input channels as a reader has it: 1; 0 for a transposed convolution; of a product the axis that is summed over."""
    rank = len(weight.shape)
    if reader.type == "conv_transpose":
        return [0]
    if reader.type == "matmul":
        from workbench.mil.graph import Constant, walk

        op = next((op for op in walk(program.function.block) if op.name == reader.op), None)
        name = f"transpose_{reader.parameter}" if reader.parameter in ("x", "y") else ""
        given = op.inputs.get(name, (False,))[0] if op is not None else False
        if isinstance(given, str):
            given = program.function.block.constants[given]
        turned = bool(given.value()) if isinstance(given, Constant) else bool(given)
        last = turned if reader.parameter == "y" else not turned
        return [rank - 1 if last else rank - 2]
    return [1]


def _tied(converted: ConvertedStage) -> dict[str, list[str]]:
    """Path of a parameter -> all paths of the same tensor, itself first."""
    module = converted.stage.module
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    places: dict[Any, list[str]] = {}
    for path, tensor in tensors:
        places.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(path)
    return {path: [path, *(other for other in paths if other != path)] for paths in places.values() for path in paths}


def layers_around(converted: ConvertedStage, weight: Weight) -> list[str]:
    """Layers of the project that hold a weight, the innermost first: by its parameter's path, else by the modules of its readers."""
    source = converted.sources.get(base_name(weight.name))
    paths = [source.parameter.rpartition(".")[0]] if source and source.parameter else []
    paths += [origin["module"] for reader in weight.readers if (origin := converted.origins.get(reader.op)) is not None]
    layers = converted.stage.layers
    for path in paths:
        parts = path.split(".")
        found = [layers[outer] for end in range(len(parts), 0, -1) if (outer := ".".join(parts[:end])) in layers]
        if found:
            return found
    return []
