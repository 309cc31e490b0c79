"""Two captures, compared: the same inputs? then rungs 1 to 4, and a verdict on tensors and tokens instead of answers.

compare("reports/runs/capture-...torch...", "reports/runs/capture-...mlx...").verdict.sentence
# "AGREE: demo:vlm@mlx stays within 1.3 times torch's own float32 error of demo:vlm@torch in 18 layers on 4 inputs ..."
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.metrics.drift import LIMIT
from workbench.metrics.stats import DIFFERENT, INCOMPARABLE, INCONCLUSIVE
from workbench.parity.artifact import artifact_rung
from workbench.parity.comparison import AGREE, Comparison, Mismatch, Pair, Rung, Verdict
from workbench.parity.families import SPEECH
from workbench.parity.inputs import inputs_rung, parts_that_differ, seen_of
from workbench.parity.sides import Side, read_lines
from workbench.parity.tensors import fed_alike, own_pass, tensors_rung
from workbench.parity.tokens import tokens_rung
from workbench.run.bundle import CAPTURE, Run
from workbench.run.layer_records import LayerRecords

LISTED = 6


def compare_captures(reference: Side, candidate: Side, notes: Sequence[str]) -> Comparison:
    """The rungs that captures hold evidence for, and their verdict. What was not fed alike is INCOMPARABLE, with the field."""
    pairs, used = join(reference, candidate)
    common = [pair.id for pair in pairs]
    unpaired = {
        name: [each for each in lines_of(side) if each not in common]
        for name, side in (("reference", reference), ("candidate", candidate))
    }
    left_out = [
        run.name for side in (reference, candidate) for run in side.captures if run.name not in used and run_shares(run, common)
    ]
    if used and left_out:
        notes = [
            *notes,
            f"{', '.join(left_out[:LISTED])}: other inputs under the same names, not compared; name the captures that belong together",
        ]
    fields = mismatches(reference, candidate, pairs)
    artifact = artifact_rung(reference, candidate)
    sides = [
        replace(side, runs={CAPTURE: [run for run in side.captures if run.name in used] or side.captures})
        for side in (reference, candidate)
    ]
    unanswered = tuple(Rung(number, "not run", "Captures hold no answers and no times.") for number in (5, 6))
    inputs = inputs_rung(*sides, pairs) if pairs else Rung(2, "not run", "No input is in both captures.")
    if fields:
        unjudged = [
            Rung(number, "not run", "Not judged: the two were not fed alike, or are not the same architecture.")
            for number in (3, 4)
        ]
        return Comparison(
            reference,
            candidate,
            (artifact, inputs, *unjudged, *unanswered),
            incomparable(fields),
            unpaired=unpaired,
            notes=tuple(notes),
        )
    good = [pair.id for pair in pairs if not ends_in_error(pair.reference, pair.candidate)]
    failed = [name for name in common if name not in good]
    if failed:
        notes = [*notes, f"{len(failed)} inputs failed on one side and are not compared: {', '.join(failed[:LISTED])}"]
    tensors = tensors_rung(reference.captures, candidate.captures, good)
    tokens = tokens_rung(*sides, [pair for pair in pairs if pair.id in good])
    verdict = judge(tensors, tokens, (reference.label, candidate.label), len(good))
    return Comparison(
        reference, candidate, (artifact, inputs, tensors, tokens, *unanswered), verdict, unpaired=unpaired, notes=tuple(notes)
    )


def layers_beside_answers(reference: Side, candidate: Side) -> Rung:
    """Rung 3 of a comparison of runs, from the captures that belong to its sides."""
    inputs = f"{reference.tasks[0]} --limit 2 --keep" if reference.family == SPEECH and reference.tasks else "demo"
    first, second = (shlex.quote(side.text) for side in (reference, candidate))
    fix = f"workbench capture {first} --inputs {inputs}, then workbench capture {second} --inputs THAT_CAPTURE"
    if not reference.captures or not candidate.captures:
        return tensors_rung((), (), (), None if "server" in evidence(reference, candidate) else fix)
    pairs, _ = join(reference, candidate)
    if fields := mismatches(reference, candidate, pairs):
        return Rung(
            3, "not run", f"The captures cannot be compared: {fields[0]}.", {"fields": [str(each) for each in fields]}, fix=fix
        )
    good = [pair.id for pair in pairs if not ends_in_error(pair.reference, pair.candidate)]
    return tensors_rung(reference.captures, candidate.captures, good, fix)


def evidence(*sides: Side) -> set[str]:
    return {side.manifest["evidence"] for side in sides}


def lines_of(side: Side) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for run in side.captures for line in read_lines(run)}


def join(reference: Side, candidate: Side) -> tuple[list[Pair], set[str]]:
    """(inputs of both by name, names of the captures that hold them). Where a side captured several inputs under one name (an image
    with two prompts), the two that were fed alike; where none were, the last of each."""
    before, after = ([(run, line) for run in side.captures for line in read_lines(run)] for side in (reference, candidate))
    theirs: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    for run, line in after:
        theirs.setdefault(line["id"], []).append((run, line))
    found: dict[str, Pair] = {}
    alike: dict[str, set[str]] = {}
    for run, line in before:
        for other, twin in theirs.get(line["id"], ()):
            same = not ends_in_error(line, twin) and fed_alike(line, twin)
            if same:
                alike.setdefault(line["id"], set()).update((run.name, other.name))
            if same or line["id"] not in alike:
                found[line["id"]] = Pair(CAPTURE, line, twin)
    return list(found.values()), set().union(*alike.values())


def ends_in_error(*lines: Mapping[str, Any]) -> bool:
    return any(line["output"]["finish"] == "error" for line in lines)


def run_shares(run: Run, names: Sequence[str]) -> bool:
    """Does a capture hold one of these inputs, not failed?"""
    return any(line["id"] in names and not ends_in_error(line) for line in read_lines(run))


def mismatches(reference: Side, candidate: Side, pairs: Sequence[Pair]) -> list[Mismatch]:
    """What makes two captures incomparable: no common input, other tokens, other arrays, another number of blocks, another vocabulary."""
    if not pairs:
        names = [", ".join(list(lines_of(side))[:3]) or "none" for side in (reference, candidate)]
        return [Mismatch("inputs", *names)]
    found: list[Mismatch] = []
    for pair in pairs:
        found += input_mismatches(pair)
    if not found:
        found = architecture_mismatches(reference.captures, candidate.captures, [pair.id for pair in pairs])
    return found


def input_mismatches(pair: Pair) -> list[Mismatch]:
    before, after = seen_of(pair.reference), seen_of(pair.candidate)
    if ends_in_error(pair.reference, pair.candidate):
        return []
    if before is None or after is None:
        known = ["not recorded" if each is None else "recorded" for each in (before, after)]
        return [Mismatch(f"what was fed as {pair.id}", *known)]
    differing = parts_that_differ(before, after)
    names = {"token ids": "token ids (another tokenizer or prompt?)"}
    return [Mismatch(f"{names.get(name, name)} of {pair.id}", mine, theirs) for name, mine, theirs in differing if name != "prompt"]


def architecture_mismatches(reference: Sequence[Run], candidate: Sequence[Run], items: Sequence[str]) -> list[Mismatch]:
    """Blocks by tower and the width of the logits, on the first input that both recorded."""
    mine, theirs = ([LayerRecords(run) for run in runs] for runs in (reference, candidate))
    for name in items:
        before, after = (
            next((own_pass(records.read(name)) for records in side if name in records), None) for side in (mine, theirs)
        )
        if before is None or after is None:
            continue
        counts = blocks(before), blocks(after)
        found = [
            Mismatch(f"{tower} blocks", counts[0][tower], counts[1][tower])
            for tower in counts[0]
            if tower in counts[1] and counts[0][tower] != counts[1][tower]
        ]
        widths = [(layers["logits"].line["shape"] or [None])[-1] if "logits" in layers else None for layers in (before, after)]
        if None not in widths and widths[0] != widths[1]:
            found.append(Mismatch("vocabulary (width of the logits)", *widths))
        return found
    return []


def blocks(layers: Mapping[str, Any]) -> dict[str, int]:
    """``{"vision.block": 24, "text.block": 32}``."""
    found: dict[str, set[str]] = {}
    for name in layers:
        stack, found_block, rest = name.rpartition(".block.")
        if found_block and rest.isdigit():
            found.setdefault(stack, set()).add(rest)
    return {stack: len(numbers) for stack, numbers in found.items()}


def incomparable(fields: Sequence[Mismatch]) -> Verdict:
    told = "; ".join(map(str, fields[:LISTED])) + (f"; and {len(fields) - LISTED} more" if len(fields) > LISTED else "")
    return Verdict(
        INCOMPARABLE, f"INCOMPARABLE: the captures differ in what they must share: {told}.", None, 0, fields=tuple(fields)
    )


def judge(tensors: Rung, tokens: Rung, labels: tuple[str, str], n: int) -> Verdict:
    """The verdict of the rungs. Tensors decide where the logits were judged: rung 4 is made of the same logits, by limits that know no
    precision. Elsewhere tokens may condemn."""
    before, after = labels
    on = f"n = {n:,} {'input' if n == 1 else 'inputs'}"
    if tensors.status == "different":
        return Verdict(DIFFERENT, f"DIFFERENT: {after} departs from {before}. {tensors.finding} {on}.", None, n)
    logits = any(row["layer"] == "logits" and row["times_own"] is not None for row in tensors.facts.get("layers", ()))
    if tokens.status == "different" and not logits:
        return Verdict(DIFFERENT, f"DIFFERENT: {after} predicts other tokens than {before}. {tokens.finding} {on}.", None, n)
    if tensors.status in ("same", "close"):
        return Verdict(
            AGREE, f"AGREE: {after} and {before}, limit {LIMIT:g} times torch's own error. {tensors.finding} {on}.", None, n
        )
    return Verdict(INCONCLUSIVE, f"INCONCLUSIVE: {tensors.finding} {on}.", None, n)
