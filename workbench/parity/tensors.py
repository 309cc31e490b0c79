"""Rung 3: where does the error start? From captures of both sides (``workbench capture``), layer by layer.

A layer is judged by the error that torch itself makes in the candidate's precision, which the reference's capture holds when it was
made on torch: no absolute tolerance fits float32 and bfloat16, the first layer and the last (NVIDIA/TensorRT issues 2709, 1565).
``workbench.metrics.drift`` says how. What cannot be aligned is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.metrics.drift import LIMIT, UNITS, Layer, alignable, amount, first_departing, first_guilty
from workbench.metrics.sketch import estimated_error
from workbench.metrics.tensors import TensorError, tensor_error
from workbench.parity.comparison import Rung
from workbench.parity.converted_artifact import origin_text
from workbench.parity.inputs import parts_that_differ
from workbench.parity.layer_tables import Depth, facts_of, tables_of
from workbench.run.bundle import Run
from workbench.run.layer_records import LOCALISED, PRECISIONS, ItemRecords, LayerRecords, Record, sampled

TRUTHS = {"float32": ("float64",), "float16": ("float64", "float32"), "bfloat16": ("float64", "float32")}
"""What torch's own error in a precision may be measured against: one half precision is no truth for the other."""

SHOWN = 6
FEW = 2
MOVED = 1e-5
"""Largest move of an earlier logit, relative to the largest logit, that still is rounding when only the last token changes."""


def tensors_rung(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str], fix: str | None = None) -> Rung:
    """Compares the captures of both sides on ``items``, which were fed the same to both. ``fix``: what to type where there is none."""
    if not reference or not candidate or not items:
        return Rung(3, "not run", "Layers were not compared: no capture of both on the same inputs.", fix=fix)
    depth = compare_layers(reference, candidate, items)
    facts = facts_of(depth)
    facts["causality"] = moved = causality(reference, candidate, items)
    compared = [layer for layer in depth.layers if layer.error is not None]
    tables = tables_of(depth)
    without = ""
    if depth.lacking:
        names = ", ".join(depth.lacking[:SHOWN]) + (" and more" if len(depth.lacking) > SHOWN else "")
        without = f" Of {len(depth.lacking)} of {len(items)} inputs a side holds no layer: {names}."
    if not compared:
        why = without if not depth.layers else "No layer of the two could be aligned; the reasons are listed." + without
        return Rung(3, "unclear", why.strip(), facts, tables)
    status, finding = judged(depth, compared)
    if without:
        status, finding = "different" if status == "different" else "unclear", finding + without
    if moved and moved["candidate"] > MOVED >= moved["reference"]:
        status = "different"
        finding = f"The candidate is not causal: earlier logits move by {moved['candidate']:.2g} of the largest when only the last token changes. {finding}"
    rest = len(depth.layers) - len(compared)
    finding += (
        f" {rest} {'layer' if rest == 1 else 'layers'} could not be aligned and {'is' if rest == 1 else 'are'} listed{unaligned_words(depth, rest)}."
        if rest
        else ""
    )
    return Rung(3, status, finding, facts, tables, None if depth.precision or status == "same" else how_to_judge(depth.coarsest))


def unaligned_words(depth: Depth, count: int) -> str:
    """``: vision.norm (the candidate has no such layer)``; nothing where there are too many to name."""
    layers = [layer for layer in depth.layers if layer.error is None]
    return f": {', '.join(f'{layer.name} ({layer.reason})' for layer in layers)}" if 0 < count <= FEW else ""


def how_to_judge(precision: str | None) -> str:
    """What to type so that torch's own error in ``precision`` is known."""
    typed = "workbench capture torch:MODEL --inputs CAPTURE"
    if precision not in ("float16", "bfloat16"):
        return f"capture the reference on torch (it then measures its own error): {typed}"
    return (
        f"capture the reference on torch in {precision} too (its own error is then known): {typed} --also auto --also {precision}"
    )


def judged(depth: Depth, compared: Sequence[Layer]) -> tuple[Any, str]:
    """The status and the sentence."""
    on = f"{len(compared)} {'layer' if len(compared) == 1 else 'layers'} on {depth.items:,} {'input' if depth.items == 1 else 'inputs'}"
    guilty, first = first_guilty(depth.layers), first_departing(depth.layers)
    broken = [layer for layer in compared if not layer.error.finite]
    logits = next((layer for layer in depth.layers if layer.name == "logits" and layer.error is None), None)
    if first is None and logits is not None:
        return "unclear", f"No layer of {on} departs, but the logits were not compared: {logits.reason}."
    if first is None and all(layer.error.error_square == 0 and layer.error.finite for layer in compared):
        return "same", f"Every value of {on} is the same."
    if first is None and depth.precision is None:
        worst = min(compared, key=lambda layer: layer.error.snr_db)
        return "unclear", (
            f"{on} compared, the lowest signal to noise {worst.error.snr_db:.0f} dB in {worst.name}; how much of that is rounding is not known: "
            "torch's own error in this precision is not recorded."
        )
    if first is None and guilty is None and compared[-1].times_own is None:
        return (
            "unclear",
            f"No layer departs of {on}, but {compared[-1].name} could not be judged: torch's own error there is not known.",
        )
    if first is None and guilty is None:
        plain = [layer for layer in compared if layer.name not in depth.half] or compared
        most = max(plain, key=lambda layer: layer.times_own or 0.0)
        sentence = f"No layer departs: the largest error of {on} is {amount(most.times_own)} {depth.yardstick(most)} (limit {LIMIT:g}; in {most.name})."
        if len(plain) < len(compared):
            times = max(layer.times_own or 0.0 for layer in compared if layer.name in depth.half)
            sentence += f" {len(compared) - len(plain)} of them {'depends' if len(compared) - len(plain) == 1 else 'depend'} on float16 states: within {amount(times)} what those make of the program."
        ends = [layer for layer in compared if layer.name.startswith("output.")] or compared[-1:]
        lasting = any(layer in broken for layer in ends)  # a mask's infinities are gone after its softmax
        more = "and so do outputs" if lasting else "what follows them is finite"
        return ("unclear" if lasting else "close"), sentence + (
            f" {len(broken)} {'layer holds' if len(broken) == 1 else 'layers hold'} values that are not finite on both sides; {more}."
            if broken
            else ""
        )
    if guilty is not None and first is not None and first.made is None and not follows(depth, first, guilty):
        guilty = None  # it departs before, in a layer that could not be given the reference's activations
    named = guilty or first
    where = depth.origins.get(named.name)
    return "different", describe(named, first, guilty, depth) + (f" The converted program computes it as {where}." if where else "")


def follows(depth: Depth, first: Layer, guilty: Layer) -> bool:
    """Does ``first`` stand at or after ``guilty``, so that it may have its error from there?"""
    return next(layer for layer in depth.layers if layer in (first, guilty)) is guilty


def describe(named: Layer, first: Layer | None, guilty: Layer | None, depth: Depth) -> str:
    error = named.error
    if error is not None and error.one_sided and error.non_finite_reference == error.non_finite_candidate:
        return f"{named.name} holds {error.one_sided:,} values that are finite on one side only; it is the first layer to differ."
    if error is not None and error.non_finite_reference != error.non_finite_candidate:
        side, count = (
            ("candidate", error.non_finite_candidate) if error.non_finite_candidate else ("reference", error.non_finite_reference)
        )
        return f"{named.name} holds {count:,} values of the {side} that are not finite; it is the first layer to differ."
    before = previous(depth.layers, named)
    came = f"; {before.name} before it: {amount(before.times_own)}" if before is not None and before.times_own is not None else ""
    if guilty is not None:
        made = f"The error starts in {guilty.name}: given the reference's activations it makes {amount(guilty.made_times_own)} {depth.yardstick(guilty)}"
        arrived = (
            f" (first to depart on its own inputs: {first.name}, {amount(first.times_own)})"
            if first is not None and first.times_own is not None
            else ""
        )
        return f"{made}{arrived}."
    snr = "" if error is None else f", SNR {error.snr_db:.0f} dB"
    return f"The error jumps in {named.name}: {amount(named.times_own)} {depth.yardstick(named)}{snr}{came} (limit {LIMIT:g})."


def previous(layers: Sequence[Layer], named: Layer) -> Layer | None:
    place = next((place for place, layer in enumerate(layers) if layer is named), 0)
    return next((layer for layer in reversed(layers[:place]) if layer.error is not None), None)


def compare_layers(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str]) -> Depth:
    """Errors pooled over the items, in the reference's order of execution; layers of the candidate alone at the end."""
    mine, theirs = ([LayerRecords(run) for run in runs] for runs in (reference, candidate))
    lines = {run.folder: run.items() for run in (*reference, *candidate)}
    keys = [run.manifest["run_key"][:12] for run in reference]
    pooled: dict[str, Layer] = {}
    order: list[str] = []
    lacking: list[str] = []
    used, precision, estimated, coarsest = 0, None, False, None
    origins: dict[str, str] = {}
    half: set[str] = set()
    of_program = False
    for name in items:
        before, after = richest(mine, theirs, name, lines)
        if before is None or after is None:
            lacking.append(name)
            continue
        used += 1
        coarse, own_errors = torch_error(before, after)
        origins |= converted_origins(before) | converted_origins(after)
        measured = next((each for each in (before, after) if has_own_error(each, coarse)), None)
        of_program = of_program or measured is not None and bool(converted_origins(measured))
        of_states = rounded_by_states(before) | rounded_by_states(after)
        if coarse == "float32":
            own_errors |= of_states
            half |= of_states.keys()
        precision, coarsest = coarse or precision, coarser(before, after) or coarsest
        localised = next((after.passes[f"{LOCALISED}{key}"] for key in keys if f"{LOCALISED}{key}" in after.passes), {})
        layers = layers_of(before, after, own_errors, localised, coarse)
        order = merged(order, [layer.name for layer in layers])
        for layer in layers:
            pooled[layer.name] = pool(pooled.get(layer.name), layer)
            estimated = estimated or (
                layer.error is not None and not whole(own_pass(before)[layer.name], own_pass(after)[layer.name])
            )
    return Depth(
        [pooled[name] for name in order], used, precision, estimated, tuple(lacking), coarsest, origins, frozenset(half), of_program
    )


def merged(known: list[str], more: Sequence[str]) -> list[str]:
    """Both orders as one: what only ``more`` has stands before the layer that it comes before there (an image's layers, where the first
    input was text alone)."""
    if not known:
        return list(more)
    found, place, there = list(known), 0, set(known)
    if there >= set(more):
        return found
    for name in more:
        if name in there:
            place = max(place, found.index(name) + 1)
        else:
            found.insert(place, name)
            place += 1
    return found


def whole(*records: Record) -> bool:
    return all(record.values is not None and record.one_in == 1 for record in records)


def richest(
    mine: Sequence[LayerRecords], theirs: Sequence[LayerRecords], name: str, lines: Mapping[Any, Mapping[str, Any]]
) -> tuple[ItemRecords | None, ItemRecords | None]:
    """Of several captures of one input on each side the two with the most passes (further precisions, a localised one) that were fed
    alike: one name may stand for two inputs, an image with two prompts, say."""
    both = [
        (before, after)
        for before in mine
        for after in theirs
        if name in before and name in after and fed_alike(*(lines[each.run.folder].get(name) or {} for each in (before, after)))
    ]
    best = max(both, key=lambda pair: sum(len({kind for kind, _ in each.lines[name]}) for each in pair), default=None)
    return (None, None) if best is None else (best[0].read(name), best[1].read(name))


def fed_alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Were two lines of ``samples.jsonl`` given the same token ids and arrays?"""
    seen = [(line.get("input") or {}).get("seen") for line in (before, after)]
    if None in seen:
        return seen[0] is seen[1]
    return all(part == "prompt" for part, *_ in parts_that_differ(*seen))


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


def coarser(before: ItemRecords, after: ItemRecords) -> str | None:
    """The coarser one of both sides' own precisions; None where one is unknown."""
    owns = [next(iter(item.passes), "") for item in (before, after)]
    return max(owns, key=PRECISIONS.index) if all(each in PRECISIONS for each in owns) else None


def torch_error(before: ItemRecords, after: ItemRecords) -> tuple[str | None, dict[str, TensorError]]:
    """(precision, torch's own error by layer): between two passes of one side, the one in the coarser precision of both sides."""
    coarse = coarser(before, after)
    for item in (before, after):
        if has_own_error(item, coarse):
            exact = next(each for each in TRUTHS[coarse] if each in item.passes)
            truth = item.passes[exact]
            return coarse, {
                name: error_of(truth[name], record)
                for name, record in item.passes[coarse].items()
                if name in truth and truth[name].line["n"] == record.line["n"]
            }
    return None, {}


def has_own_error(item: ItemRecords, precision: str | None) -> bool:
    """Did a side run in this precision and in a more exact one?"""
    return precision in item.passes and any(each in item.passes for each in TRUTHS.get(precision or "", ()))


def converted_origins(item: ItemRecords) -> dict[str, str]:
    """Of a converted model's layers, in words: ``prefill's add_217 (add, model.layers.0, modeling_llama.py:312)``."""
    found = {}
    for name, record in own_pass(item).items():
        about = record.line.get("origin")
        if isinstance(about, Mapping) and about.get("value"):
            found[name] = f"{about.get('stage')}'s {about['value']}{origin_text(about)}"
    return found


def rounded_by_states(item: ItemRecords) -> dict[str, TensorError]:
    """The error that rounding makes in the layers of an fp32 program that depend on its states, which Core ML keeps in float16: of the same
    program without any rounding."""
    own, exact = own_pass(item), item.passes.get("float64", {})
    return {
        name: error_of(exact[name], record)
        for name, record in own.items()
        if record.line.get("half") is True and name in exact and exact[name].line["n"] == record.line["n"]
    }


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
    if known.error is None or more.error is None:  # torch's own error is of the inputs that were compared
        compared = known if more.error is None else more
        return replace(compared, reason=known.reason or more.reason)
    return Layer(
        known.name,
        plus(known.error, more.error),
        None if known.own is None or more.own is None else known.own + more.own,
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
        moves = [move for probe in probes if (move := move_of(probe)) is not None]
        if not moves:
            return None
        found[side] = max(moves)
    return found


def move_of(probe: Mapping[str, Any]) -> float | None:
    """None for a probe that no model can have given: numbers of somebody's bundle."""
    moved, largest = (float(max(-1.0, min(probe[name], 1e300))) for name in ("moved", "largest"))
    return moved / largest if moved >= 0 and largest > 1e-30 else None
