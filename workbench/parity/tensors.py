"""Rung 3: where does the error start? From captures of both sides (``workbench capture``), layer by layer.

A layer is judged by the error that torch itself makes in the candidate's precision, which the reference's capture holds when it was
made on torch: no absolute tolerance fits float32 and bfloat16, the first layer and the last (NVIDIA/TensorRT issues 2709, 1565).
``workbench.metrics.drift`` says how. What cannot be aligned is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.metrics.drift import LIMIT, UNITS, Layer, alignable, amount, first_departing, first_guilty, growth
from workbench.metrics.sketch import estimated_error
from workbench.metrics.tensors import TensorError, tensor_error
from workbench.parity.comparison import Rung, Table
from workbench.run.bundle import Run
from workbench.run.layer_records import ItemRecords, LayerRecords, Record, sampled

PRECISIONS = ("float64", "float32", "bfloat16", "float16")
"""From the most exact on."""

LOCALISED = "localised-"
MOVED = 1e-5
"""Largest move of an earlier logit, relative to the largest logit, that still is rounding when only the last token changes."""

COLUMNS = (
    "layer",
    "SNR (dB)",
    "cosine",
    "max abs",
    "max abs / RMS",
    "growth",
    "× torch's own",
    "makes (× own)",
    "tolerance needed",
    "not finite",
)


@dataclass
class Depth:
    """The layers of both sides over all common items, and how they were judged."""

    layers: list[Layer]
    items: int
    precision: str | None
    """Of torch's own error, the coarser one of both sides; None where it is not recorded."""
    estimated: bool
    """Are errors estimated from sketches, because a side kept no values?"""


def tensors_rung(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str], fix: str | None = None) -> Rung:
    """Compares the captures of both sides on ``items``, which were fed the same to both. ``fix``: what to type where there is none."""
    if not reference or not candidate or not items:
        return Rung(3, "not run", "Layers were not compared: no capture of both on the same inputs.", fix=fix)
    depth = compare_layers(reference, candidate, items)
    facts = facts_of(depth)
    facts["causality"] = moved = causality(reference, candidate, items)
    compared = [layer for layer in depth.layers if layer.error is not None]
    tables = tables_of(depth)
    if not compared:
        return Rung(3, "unclear", "No layer of the two could be aligned; the reasons are listed.", facts, tables)
    status, finding = judged(depth, compared)
    if moved and moved["candidate"] > MOVED >= moved["reference"]:
        status = "different"
        finding += f" The candidate is not causal: earlier logits move by {moved['candidate']:.2g} of the largest when only the last token changes."
    rest = len(depth.layers) - len(compared)
    finding += f" {rest} layers could not be aligned and are listed." if rest else ""
    why = (
        None
        if depth.precision
        else "capture the reference on torch (it then measures its own error): workbench capture torch:MODEL --inputs CAPTURE"
    )
    return Rung(3, status, finding, facts, tables, why)


def judged(depth: Depth, compared: Sequence[Layer]) -> tuple[Any, str]:
    """The status and the sentence."""
    on = f"{len(compared)} layers on {depth.items:,} {'input' if depth.items == 1 else 'inputs'}"
    guilty, first = first_guilty(depth.layers), first_departing(depth.layers)
    broken = [layer for layer in compared if not layer.error.finite]
    if first is None and all(layer.error.error_square == 0 and layer.error.finite for layer in compared):
        return "same", f"Every value of {on} is the same."
    if first is None and depth.precision is None:
        worst = min(compared, key=lambda layer: layer.error.snr_db)
        return "unclear", (
            f"{on} compared, the lowest signal to noise {worst.error.snr_db:.0f} dB in {worst.name}; how much of that is rounding is not known: "
            "torch's own error in this precision is not recorded."
        )
    if first is None and guilty is None:
        most = max(compared, key=lambda layer: layer.times_own or 0.0)
        sentence = f"No layer departs: {on} stay within {amount(most.times_own)} torch's own {depth.precision} error (limit {LIMIT:g}; most in {most.name})."
        return ("unclear" if broken else "close"), sentence + (
            f" {len(broken)} layers hold values that are not finite on both sides." if broken else ""
        )
    named = guilty or first
    return "different", describe(named, first, guilty, depth)


def describe(named: Layer, first: Layer | None, guilty: Layer | None, depth: Depth) -> str:
    error = named.error
    if error is not None and error.non_finite_reference != error.non_finite_candidate:
        side, count = (
            ("candidate", error.non_finite_candidate) if error.non_finite_candidate else ("reference", error.non_finite_reference)
        )
        return f"{named.name} holds {count:,} values of the {side} that are not finite; it is the first layer to differ."
    before = previous(depth.layers, named)
    came = f"; {before.name} before it: {amount(before.times_own)}" if before is not None and before.times_own is not None else ""
    if guilty is not None:
        made = f"The error starts in {guilty.name}: given the reference's activations it makes {amount(guilty.made_times_own)} torch's own {depth.precision} error"
        arrived = (
            f" (first to depart on its own inputs: {first.name}, {amount(first.times_own)})"
            if first is not None and first.times_own is not None
            else ""
        )
        return f"{made}{arrived}."
    snr = "" if error is None else f", SNR {error.snr_db:.0f} dB"
    return f"The error jumps in {named.name}: {amount(named.times_own)} torch's own {depth.precision} error{snr}{came} (limit {LIMIT:g})."


def previous(layers: Sequence[Layer], named: Layer) -> Layer | None:
    place = next((place for place, layer in enumerate(layers) if layer is named), 0)
    return next((layer for layer in reversed(layers[:place]) if layer.error is not None), None)


def compare_layers(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str]) -> Depth:
    """Errors pooled over the items, in the reference's order of execution; layers of the candidate alone at the end."""
    mine, theirs = ([LayerRecords(run) for run in runs] for runs in (reference, candidate))
    keys = [run.manifest["run_key"][:12] for run in reference]
    pooled: dict[str, Layer] = {}
    used, precision, estimated = 0, None, False
    for name in items:
        before, after = (richest(side, name) for side in (mine, theirs))
        if before is None or after is None:
            continue
        used += 1
        precision, own_errors = torch_error(before, after)
        localised = next((after.passes[f"{LOCALISED}{key}"] for key in keys if f"{LOCALISED}{key}" in after.passes), {})
        for layer in layers_of(before, after, own_errors, localised, precision):
            pooled[layer.name] = pool(pooled.get(layer.name), layer)
            estimated = estimated or (layer.error is not None and layer.error.max_abs is None)
    return Depth(list(pooled.values()), used, precision, estimated)


def richest(side: Sequence[LayerRecords], name: str) -> ItemRecords | None:
    """Of several captures of one input the one with the most passes (further precisions, a localised one)."""
    holding = [records for records in side if name in records]
    best = max(holding, key=lambda records: len({kind for kind, _ in records.lines[name]}), default=None)
    return None if best is None else best.read(name)


def layers_of(
    before: ItemRecords, after: ItemRecords, own: dict[str, TensorError], localised: dict[str, Record], precision: str | None
) -> list[Layer]:
    reference, candidate = own_pass(before), own_pass(after)
    unit = UNITS[precision] if precision else UNITS["float32"]
    found = []
    for name, record in reference.items():
        twin = candidate.get(name)
        if twin is None:
            found.append(Layer(name, own=own.get(name), reason="the candidate has no such layer", unit=unit))
            continue
        if not alignable(record.line["shape"], twin.line["shape"]):
            shapes = " and ".join("×".join(map(str, each.line["shape"])) for each in (record, twin))
            found.append(Layer(name, own=own.get(name), reason=f"shapes {shapes}", unit=unit))
            continue
        made = localised.get(name)
        made_error = error_of(record, made) if made is not None and made.line["n"] == record.line["n"] else None
        found.append(Layer(name, error_of(record, twin), own.get(name), made_error, unit=unit))
    return found + [Layer(name, reason="the reference has no such layer", unit=unit) for name in candidate if name not in reference]


def own_pass(item: ItemRecords) -> dict[str, Record]:
    return next(iter(item.passes.values()), {})


def torch_error(before: ItemRecords, after: ItemRecords) -> tuple[str | None, dict[str, TensorError]]:
    """(precision, torch's own error by layer): between two passes of one side, the one in the coarser precision of both sides."""
    owns = [next(iter(item.passes), "") for item in (before, after)]
    known = [PRECISIONS.index(each) for each in owns if each in PRECISIONS]
    if len(known) < 2:
        return None, {}
    coarse = PRECISIONS[max(known)]
    for item in (before, after):
        exact = next((each for each in PRECISIONS[: max(known)] if each in item.passes), None)
        if coarse in item.passes and exact is not None:
            truth = item.passes[exact]
            return coarse, {
                name: error_of(truth[name], record)
                for name, record in item.passes[coarse].items()
                if name in truth and truth[name].line["n"] == record.line["n"]
            }
    return None, {}


def error_of(reference: Record, candidate: Record) -> TensorError:
    """From the values where both kept them; where a side kept a sample, energies from the sketches and the largest error of the sample."""
    if reference.values is None or candidate.values is None:
        return estimated_error(reference.moments(), candidate.moments())
    coarse = max(reference.one_in, candidate.one_in)
    before, after = (thinned(record, coarse) for record in (reference, candidate))
    error = tensor_error(before, after)
    if coarse == 1:
        return error
    return replace(
        estimated_error(reference.moments(), candidate.moments()), max_abs=error.max_abs, needed_tolerance=error.needed_tolerance
    )


def thinned(record: Record, one_in: int) -> Any:
    import numpy

    if record.one_in == one_in:
        return record.values
    n = record.line["n"]
    return record.values[numpy.isin(sampled(n, record.one_in), sampled(n, one_in), assume_unique=True)]


def pool(known: Layer | None, more: Layer) -> Layer:
    if known is None:
        return more
    return Layer(
        known.name,
        plus(known.error, more.error),
        plus(known.own, more.own),
        plus(known.made, more.made),
        known.reason or more.reason,
        more.unit,
    )


def plus(one: TensorError | None, other: TensorError | None) -> TensorError | None:
    return one + other if one is not None and other is not None else one or other


def causality(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str]) -> dict[str, float] | None:
    """By side, the largest move of an earlier logit relative to the largest logit; None where a side has no probe."""
    found = {}
    wanted = set(items)
    for side, runs in (("reference", reference), ("candidate", candidate)):
        probes = [
            probe
            for run in runs
            for name, line in run.items().items()
            if name in wanted and (probe := (line.get("capture") or {}).get("causality"))
        ]
        moves = [probe["moved"] / probe["largest"] for probe in probes if probe.get("largest")]
        if not moves:
            return None
        found[side] = max(moves)
    return found


def facts_of(depth: Depth) -> dict[str, Any]:
    first, guilty = first_departing(depth.layers), first_guilty(depth.layers)
    rows = [{**layer.to_json(), "growth": grown} for layer, grown in zip(depth.layers, growth(depth.layers), strict=True)]
    return {
        "items": depth.items,
        "precision": depth.precision,
        "limit": LIMIT,
        "estimated_from_sketches": depth.estimated,
        "first_departing": first.name if first else None,
        "first_guilty": guilty.name if guilty else None,
        "unaligned": [{"layer": layer.name, "reason": layer.reason} for layer in depth.layers if layer.error is None],
        "layers": rows,
    }


def tables_of(depth: Depth) -> tuple[Table, ...]:
    rows = []
    for layer, grown in zip(depth.layers, growth(depth.layers), strict=True):
        if layer.error is None:
            continue
        error = layer.error
        bad = f"{error.non_finite_reference} / {error.non_finite_candidate}" if not error.finite else ""
        rows.append(
            [
                layer.name,
                error.snr_db,
                error.cosine,
                error.max_abs,
                error.max_over_rms,
                grown,
                layer.times_own,
                layer.made_times_own,
                error.needed_tolerance,
                bad,
            ]
        )
    note = (
        "Energies are estimated from sketches (± 4 %) where a side kept no values; then there is no largest error."
        if depth.estimated
        else None
    )
    tables = [Table("Layers, in order of execution", COLUMNS, rows, note)] if rows else []
    unaligned = [[layer.name, layer.reason] for layer in depth.layers if layer.error is None]
    if unaligned:
        tables.append(Table("Layers that could not be aligned", ("layer", "why"), unaligned))
    return tuple(tables)
