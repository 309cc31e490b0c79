"""Does an ONNX stage compute what the torch stage computes, as nearly as torch itself does in that type? And where does it begin not to?

    found = check_stage(stage, Path("step.onnx"), feeds, recipe, kept, before=Path("step-fp32.onnx"))
    found["outputs"]["logits"]     # {"relative_l2": 8.1e-4, "limit": 3.4e-3, "own_error": 1.7e-3, "values": 680, "same": True}

By the pure reading of the graph (nothing fused or folded). Limits: fp32 1e-5, or twice torch's own distance from fp64; fp16 and bf16 twice
the distance of torch's copy of the stage in that type from fp32. Such limits are wide enough to hide a wrong op, an attention scale that is
10 % off for one: the same graph is held to fp32's limit before its types are changed (``before``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.convert.comparing import SEED, judged, same_shape
from workbench.convert.onnx.inference import tell_types
from workbench.convert.onnx.own import copies, own_errors, run, watched
from workbench.convert.stages.stage import Stage
from workbench.metrics.tensors import TensorError, tensor_error

LEAST = 1e-5
"""Relative L2 that fp32 may always have: some 170 units of rounding."""
TIMES = 2.0
"""Of torch's own error."""
FALLBACK = {"fp32": LEAST, "fp16": 40 * 2.0**-11, "bf16": 40 * 2.0**-8}
"""Where torch cannot run the stage in the type: 40 units of rounding. Measured on the bundled models, torch's own: 1 to 12 units."""
ENOUGH = 12
"""Calls over which an output beyond its limit is judged again, where fewer were given."""
LUCK = 3.0
"""Times torch's own error from which on an output is refused on the calls given, and not judged again: so much is no luck of rounding."""
NAMED = 8
"""Nodes of the wrong type that a message names."""
WORDS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


def check_stage(
    stage: Stage,
    path: Path,
    feeds: Sequence[Mapping[str, Any]],
    recipe: Any,
    kept: Sequence[Mapping[str, Any]] = (),
    before: Path | None = None,
) -> dict[str, Any]:
    """``{"outputs": {name: {relative_l2, limit, own_error, values, same}}, "precision": {...}, "calls", "same", "before", "note"}``.

    ``feeds``: what ``StageSet.feeds`` gives; ``kept``: the nodes that stay fp32, as ``typed`` returns them; ``before``: the graph as it was in
    fp32, judged on two of the feeds: what it lacks no type can explain. ``own_error``: torch's own; None where it was not needed (fp32
    within 1e-5) or torch cannot run in the type, which ``note`` then says.
    Raises DifferentModel for outputs of another shape, and what the pure reading raises for a graph that cannot be run.
    """
    expected = [stage.run(feed)[0] for feed in feeds]
    first = None
    if before is not None and recipe.precision != "fp32":
        first, _ = _outputs(stage, before, feeds[:2], expected[:2], "fp32")
    outputs, note = _outputs(stage, path, feeds, expected, recipe.precision)
    precision = precision_of(path, recipe.precision, kept)
    rows = [*outputs.values(), *(first or {}).values()]
    return {
        "outputs": outputs,
        "precision": precision,
        "calls": len(feeds),
        "same": precision["same"] and all(row["same"] for row in rows),
        "before": first,
        "note": note,
    }


def measure(stage: Stage, path: Path, feeds: Sequence[Mapping[str, Any]]) -> dict[str, tuple[TensorError, bool]]:
    """By output: (the error of the graph against torch in fp32, pooled over the feeds; whether it is whole numbers)."""
    return _measured(path, feeds, [stage.run(feed)[0] for feed in feeds])


def precision_of(path: Path, asked: str, kept: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The float types that the graph computes in, against what was asked: ``{"asked", "found": {type: nodes}, "other": [...], "same"}``.

    ``other``: nodes in another type than asked, by name, but for those ``kept``. Casts, and what moves numbers, compute nothing.
    """
    import onnx_ir as ir

    from workbench.convert.onnx.keeping import MOVERS

    model = ir.load(path)
    tell_types(model)
    known = {row["value"] for row in kept}
    counts: dict[str, int] = {}
    other = []
    for node in model.graph:
        if node.op_type in MOVERS | {"Cast", "Constant", "ConstantOfShape", "Shape", "Size"}:
            continue
        types = {WORDS[value.dtype.name] for value in node.outputs if value.dtype is not None and value.dtype.name in WORDS}
        for kind in sorted(types):
            counts[kind] = counts.get(kind, 0) + 1
        names = [value.name for value in node.outputs if value.name]
        if types - {asked} and asked in ("fp32", "fp16", "bf16") and not known.intersection(names):
            other.append(f"{names[0]} ({node.op_type})")
    return {"asked": asked, "found": dict(sorted(counts.items())), "other": sorted(other), "same": not other}


def differences(name: str, found: Mapping[str, Any]) -> list[str]:
    """What a check found wrong with a stage, in words; nothing where it is the same."""
    words = _wrong(f"{name} in fp32, before its types are changed", found.get("before") or {}) + _wrong(name, found["outputs"])
    precision = found["precision"]
    if not precision["same"]:
        held = ", ".join(f"{count} nodes in {kind}" for kind, count in precision["found"].items()) or "no floats"
        named = ", ".join(precision["other"][:NAMED])
        words.append(f"{name}: {precision['asked']} was asked, and the graph has {held}: {named}")
    return words


def first_departing(
    stage: Stage,
    path: Path,
    feed: Mapping[str, Any],
    layers: Mapping[str, str],
    origins: Mapping[str, Mapping[str, Any]],
    precision: str = "fp32",
    exported: Any = None,
) -> str | None:
    """Where the difference from torch begins: the first layer whose error is more than ten times torch's own there, with op, module and
    line. ``layers``: layer -> the value of the graph that is its result; ``exported``: the torch graph that an fp32 graph was translated
    from, by which the op itself is found, where it is given. None where no layer departs, or none can be looked at.
    """
    from workbench.metrics.drift import UNITS, Layer, amount
    from workbench.metrics.drift import first_departing as first_of

    names = {layer: value for layer, value in layers.items()}
    program = _open(path)
    try:
        _, seen = program.observe(dict(feed), list(dict.fromkeys(names.values())))
    finally:
        program.close()
    with watched(stage.module, stage.layers) as right:
        stage.run(feed)
    own = _own_layers(stage, feed, precision)
    unit = UNITS[{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(precision, "float32")]
    rows = []
    for layer, expected in right.items():
        given = seen.get(names.get(layer, ""))
        if given is None or _plain(given).size != expected.size:
            continue
        yard = None
        if layer in own and own[layer].size == expected.size:
            yard = tensor_error(own[layer], expected) if precision == "fp32" else tensor_error(expected, own[layer])
        rows.append(Layer(layer, tensor_error(expected, _plain(given)), yard or TensorError(1, 1.0), unit=unit))
    found = first_of(rows)
    value = _first_value(stage, path, feed, exported, origins) if exported is not None and precision == "fp32" else None
    if found is None:
        return f"{stage.name}: it begins outside the layers ({_place(value, origins)})" if value else None
    times = amount(found.times_own) if found.times_own is not None else "beyond all measure"
    place = _place(value or names[found.name], origins)
    return f"{stage.name}: it begins in layer {found.name} ({place}): {times} torch's own error there"


def _first_value(
    stage: Stage, path: Path, feed: Mapping[str, Any], exported: Any, origins: Mapping[str, Mapping[str, Any]]
) -> str | None:
    from workbench.convert.onnx.departing import first_value

    try:
        return first_value(stage, path, feed, exported, origins)
    except Exception:  # whatever torch raises where an exported graph does not run here: the layer alone is told then
        return None


def _place(value: str, origins: Mapping[str, Mapping[str, Any]]) -> str:
    row = origins.get(value, {})
    words = [
        f"op {row['op']} {value}" if row.get("op") else f"value {value}",
        f"module {row['module']}" if row.get("module") else "",
    ]
    return ", ".join(each for each in [*words, str(row.get("line") or "")] if each)


def _outputs(
    stage: Stage, path: Path, feeds: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], precision: str
) -> tuple[dict[str, Any], str | None]:
    """(a row for each output, what must be said about the limits)."""
    errors = _measured(path, feeds, expected)
    alike = [
        f"{error.non_finite_reference:,} values of {name} are not finite, in torch in fp32 already"
        for name, (error, _) in errors.items()
        if error.non_finite_reference
    ]
    if precision == "fp32" and all(judged(error, LEAST)["same"] for error in errors.values()):
        return {name: _row(error, LEAST, None) for name, error in errors.items()}, "; ".join(alike) or None
    own, why = own_errors(stage, feeds, expected, precision)
    rows = _rows(errors, own, precision)
    if why:
        return rows, "; ".join([f"torch cannot run it in {precision} ({why}): limits are 40 units of rounding", *alike])
    notes = [
        f"torch's own {name} in {precision} has {f'{error.one_sided:,}' if error.n else 'only'} values that are not finite"
        + ("" if error.n else ": its limit is 40 units of rounding")
        for name, error in own.items()
        if error.one_sided
    ]
    if _may_be_luck(rows, feeds):
        more = _nearby(feeds, ENOUGH - len(feeds))
        right = [stage.run(feed)[0] for feed in more]
        others, further = _measured(path, more, right), own_errors(stage, more, right, precision)[0]
        before = {name: row for name, row in rows.items() if not row["same"]}
        pooled = {name: (error + others[name][0], whole) for name, (error, whole) in errors.items()}
        rows = _rows(pooled, {name: error + further.get(name, TensorError()) for name, error in own.items()}, precision)
        told = ", ".join(f"{name} was {_times(row)} (more than {TIMES:g})" for name, row in before.items())
        now = ", ".join(f"{name} {_times(rows[name])}" for name in before)
        notes.append(
            f"on the {len(feeds)} calls given {told} times torch's own error; judged with {len(more)} more, near those: {now}"
        )
    return rows, "; ".join([*notes, *alike]) or None


def _may_be_luck(rows: Mapping[str, Mapping[str, Any]], feeds: Sequence[Mapping[str, Any]]) -> bool:
    """Few calls, all outputs beyond their limits being so by less than ``LUCK``, and floats among the inputs to make other calls of."""
    import numpy

    beyond = [row for row in rows.values() if not row["same"]]
    near = all(
        row["own_error"] and not row.get("not_finite_on_one_side") and row["relative_l2"] < LUCK / TIMES * row["limit"]
        for row in beyond
    )
    floats = any(numpy.asarray(value).dtype.kind == "f" for feed in feeds for value in feed.values())
    return bool(beyond) and near and floats and len(feeds) < ENOUGH


def _times(row: Mapping[str, Any]) -> str:
    return f"{row['relative_l2'] / row['own_error']:.2g}" if row["own_error"] else "beyond all measure of"


def _rows(errors: Mapping[str, tuple[TensorError, bool]], own: Mapping[str, TensorError], precision: str) -> dict[str, Any]:
    rows = {}
    for name, (error, whole) in errors.items():
        yard = own.get(name)
        none = yard is None or (not yard.n and yard.one_sided) or (yard.reference_square == 0 and yard.error_square)
        size = None if none or yard is None else yard.relative_rms
        limit = FALLBACK.get(precision, LEAST) if size is None else max(LEAST if precision == "fp32" else 0.0, TIMES * size)
        rows[name] = _row((error, whole and precision == "fp32"), limit, size)
    return rows


def _row(error: tuple[TensorError, bool], limit: float, own: float | None) -> dict[str, Any]:
    """An output that has values and no finite one was compared with nothing: it is not the same."""
    row = judged(error, limit)
    return row | {"own_error": own, "same": row["same"] and (error[0].n > 0 or not error[0].non_finite_reference)}


def _nearby(feeds: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Calls whose floats are a thousandth off. The rounding errors of one call, a single token's say, are a draw of luck on both sides, and
    twice the one may be less than the other by luck alone; of a dozen calls it is not."""
    import numpy

    drawn = numpy.random.default_rng(SEED)

    def moved(value: Any) -> Any:
        value = numpy.asarray(value)
        return (value * (1 + 1e-3 * drawn.standard_normal(value.shape))).astype(value.dtype) if value.dtype.kind == "f" else value

    return [{name: moved(value) for name, value in feeds[at % len(feeds)].items()} for at in range(count)]


def _measured(
    path: Path, feeds: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[TensorError, bool]]:
    import numpy

    program = _open(path)
    found: dict[str, tuple[TensorError, bool]] = {}
    try:
        for feed, right in zip(feeds, expected, strict=True):
            given = program(dict(feed))
            for name, value in right.items():
                whole = numpy.asarray(value).dtype.kind != "f"
                known = found.get(name, (TensorError(), whole))[0]
                found[name] = (known + tensor_error(*same_shape(name, value, _plain(given[name]))), whole)
    finally:
        program.close()
    return found


def _own_layers(stage: Stage, feed: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """What torch's layers return in the type; nothing where torch cannot run in it."""
    for module in copies(stage.module, precision):
        with watched(module, stage.layers) as seen:
            try:
                run(stage, module, feed, precision)
            except Exception:  # whatever torch and the model's code raise where a kernel or a type is missing
                continue
        return seen
    return {}


def _wrong(name: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    words = []
    for output, row in rows.items():
        if row["same"]:
            continue
        if row.get("not_finite_on_one_side"):
            words.append(f"{name}: {output} has {row['not_finite_on_one_side']:,} values that are finite on one side only")
            continue
        if not row["values"]:
            words.append(f"{name}: no value of {output} is finite, also in torch: there is nothing to compare")
            continue
        away = "infinitely" if row["relative_l2"] is None else f"{row['relative_l2']:.2g}"
        own = f", torch's own error {row['own_error']:.2g}" if row.get("own_error") is not None else ""
        words.append(f"{name}: {output} is {away} away from torch's (relative L2; the limit is {row['limit']:.2g}{own})")
    return words


def _plain(value: Any) -> Any:
    """As numbers that numpy can compute with (bfloat16 arrays are of another package's type)."""
    import numpy

    value = numpy.asarray(value)
    return value if value.dtype.kind in "iub" else value.astype(numpy.float64)


def _open(path: Path) -> Any:
    """The pure reading: every node as it stands."""
    from workbench.backends.onnx import open_reference

    return open_reference(path, {})
