"""Rung 2: were both models given the same prompt, token ids and pixels (of speech: log-mel)? From the hashes kept with every answer.

Where a run kept the arrays themselves (``eval --record inputs``) the largest difference is measured too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import inf, isnan
from typing import Any

from workbench.errors import BundleError
from workbench.parity.artifact import settings_differences
from workbench.parity.comparison import Pair, Rung, Table
from workbench.parity.families import SPEECH
from workbench.parity.sides import Side
from workbench.run.bundle import Run
from workbench.run.redact import is_redacted

LOADED = (
    *("preprocessing", "prompt", "chat_template", "image_position", "processor", "image_processor"),
    *("min_pixels", "max_pixels", "resized_by"),
    *("log_mel", "log-mel", "feature_extractor", "decoding", "language", "task", "resampled_by"),
)
"""What a loaded model says of its preprocessing that may explain another input."""

SPOKEN = {"input_features": "log-mel", "input_values": "wave"}
"""What a reader calls the arrays of speech models."""

PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
SHOWN = 20
KEEP = "run both again with `workbench eval ... --record inputs` to see by how much"


def inputs_rung(reference: Side, candidate: Side, pairs: Sequence[Pair]) -> Rung:
    """Counts the items whose prompt, token ids or arrays differ, and names the settings behind it."""
    speech = reference.family == SPEECH
    seen = [(pair, before, after) for pair in pairs if (before := seen_of(pair.reference)) and (after := seen_of(pair.candidate))]
    if not seen:
        return Rung(
            2,
            "not run",
            "What the models were given is not recorded for the items that both answered.",
            {"n": 0},
            fix=fix_for(reference, candidate),
            of_speech=speech,
        )
    differing: Counter[str] = Counter()
    rows: list[list[Any]] = []
    for pair, before, after in seen:
        for name, mine, theirs in parts_that_differ(before, after):
            differing[name] += 1
            rows.append([pair.task, pair.id, name, mine, theirs])
    n = len(seen)
    facts: dict[str, Any] = {"n": n, "not_recorded": len(pairs) - n, "items_differing": dict(differing)}
    settings = [*settings_differences(reference, candidate, PREPROCESSING), *loaded_differences(reference, candidate)]
    tables = []
    if settings:
        tables.append(Table("Preprocessing settings that differ", ("file", "field", "reference", "candidate"), settings[:SHOWN]))
    if rows:
        note = f"{len(rows) - SHOWN} more are not shown" if len(rows) > SHOWN else None
        tables.append(Table("Inputs that differ", ("task", "item", "what", "reference", "candidate"), rows[:SHOWN], note))
    least = f" ({len(pairs) - n} more items have no record)" if len(pairs) > n else ""
    if not differing:
        media = "recordings" if speech else "images"
        more = f" although preprocessing settings differ: they do not matter to these {media}" if settings else ""
        hidden = any(is_redacted(each["prompt"]) for _, before, after in seen for each in (before, after))
        what = "token ids and arrays (the prompts are redacted)" if hidden else "prompt, token ids and arrays"
        items = "items"
        if speech:
            named = [SPOKEN[name] for name in SPOKEN if any(name in before["arrays"] for _, before, _ in seen)]
            what = (
                f"{' and '.join(named) or 'arrays'}, {'token ids (the prompts are redacted)' if hidden else 'prompt and token ids'}"
            )
            items = "utterances"
        return Rung(2, "same", f"Same {what} on all {n:,} {items}{least}{more}.", facts, tuple(tables), of_speech=speech)
    measured = largest_differences(reference, candidate, pairs)
    facts["largest_difference"] = measured
    items = "utterances" if speech else "items"
    told = [
        f"{spoken(name, speech)} on {count:,} of {n:,} {items}{size_of(name, measured)}" for name, count in differing.most_common()
    ]
    cause = f"; settings: {', '.join(f'{row[1]} {words(row[2])} and {words(row[3])}' for row in settings[:3])}" if settings else ""
    fix = None if measured or not any(name not in ("prompt", "token ids") for name in differing) else KEEP
    return Rung(2, "different", f"Different inputs: {'; '.join(told)}{cause}{least}.", facts, tuple(tables), fix, of_speech=speech)


def spoken(name: str, speech: bool) -> str:
    """``input_features`` as ``log-mel (input_features)``, in a speech model."""
    word = SPOKEN.get(name, name) if speech else name
    return name if word == name else f"{word} ({name})"


def loaded_differences(reference: Side, candidate: Side) -> list[list[Any]]:
    """``["as loaded", field, value here, value there]`` for the options and choices in which preprocessing differs."""
    before, after = reference.loaded, candidate.loaded
    if not before or not after:
        return []
    return [["as loaded", name, before.get(name), after.get(name)] for name in LOADED if before.get(name) != after.get(name)]


def seen_of(line: Any) -> Any:
    return (line.get("input") or {}).get("seen")


def parts_that_differ(before: Any, after: Any) -> list[tuple[str, str, str]]:
    """(part, reference, candidate) for prompt, token ids and each array; texts and hashes cut to a readable length.

    A redacted prompt cannot be told from another one: its token ids are judged instead.
    """
    found = []
    if before["prompt"] != after["prompt"] and not any(is_redacted(each["prompt"]) for each in (before, after)):
        found.append(("prompt", *first_difference(before["prompt"] or "", after["prompt"] or "")))
    if before["tokens"] != after["tokens"]:
        found.append(("token ids", *(f"{each['tokens']['n']} tokens, {each['tokens']['hash'][:8]}" for each in (before, after))))
    for name in sorted({*before["arrays"], *after["arrays"]}):
        mine, theirs = before["arrays"].get(name), after["arrays"].get(name)
        if name == "attention_mask" and before["tokens"]["n"] != after["tokens"]["n"]:
            continue  # follows from the token ids
        if mine != theirs:
            found.append((name, array_text(mine), array_text(theirs)))
    return found


def first_difference(before: str, after: str) -> tuple[str, str]:
    """Both texts around the place where they part."""
    place = next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(0, place - 30)
    return tuple(
        f"{'…' if start else ''}{text[start : place + 50]}{'…' if len(text) > place + 50 else ''}" for text in (before, after)
    )  # type: ignore[return-value]


def words(value: Any) -> str:
    return "unset" if value is None else str(value)


def array_text(array: Any) -> str:
    return "absent" if array is None else f"{'×'.join(map(str, array['shape']))} {array['dtype']}, {array['hash'][:8]}"


def largest_differences(reference: Side, candidate: Side, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """``{array: {"max_abs", "rms_reference", "n"}}`` over the items whose arrays both sides kept, of equal shape."""
    import numpy

    found: dict[str, dict[str, float]] = {}
    for task in reference.tasks:
        wanted = {pair.id for pair in pairs if pair.task == task}
        for before, after in side_by_side(*(kept_of(side.runs.get(task, []), wanted) for side in (reference, candidate))):
            for array, mine in before.items():
                theirs = after.get(array)
                if theirs is None or theirs.shape != mine.shape or mine.dtype.kind != "f" or not mine.size:
                    continue
                entry = found.setdefault(array, {"max_abs": 0.0, "rms_reference": 0.0, "n": 0})
                gap = float(numpy.abs(mine.astype(numpy.float64) - theirs).max())
                entry["max_abs"] = max(entry["max_abs"], inf if isnan(gap) else gap)
                entry["rms_reference"] = max(entry["rms_reference"], float(numpy.sqrt(numpy.mean(mine.astype(numpy.float64) ** 2))))
                entry["n"] += 1
    return found


def kept_of(runs: Sequence[Run], wanted: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(item, its arrays) of all shards, part by part. Raises BundleError for a damaged part."""
    from safetensors import SafetensorError

    from workbench.run.input_records import read_inputs

    for run in runs:
        try:
            yield from read_inputs(run.tensors, wanted)
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise BundleError(f"an input record of {run.name} is damaged", why=str(error)[:200], fix="record again") from error


def side_by_side(reference: Iterator[tuple[str, Any]], candidate: Iterator[tuple[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """What both hold of one item, for all items. Only what has not met its twin is kept: pixels of a whole run fill any memory."""
    waiting: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for both in zip_longest(reference, candidate):
        for place, each in enumerate(both):
            if each is not None:
                waiting[place][each[0]] = each[1]
        for name in {each[0] for each in both if each is not None}:
            if name in waiting[0] and name in waiting[1]:
                yield waiting[0].pop(name), waiting[1].pop(name)


def size_of(name: str, measured: dict[str, dict[str, float]]) -> str:
    return (
        f" (largest difference {measured[name]['max_abs']:.3g}, RMS of the reference {measured[name]['rms_reference']:.3g})"
        if name in measured
        else ""
    )


def fix_for(reference: Side, candidate: Side) -> str | None:
    """Old bundles can be made anew; what a server does with a prompt stays unknown."""
    if "server" in (reference.manifest["evidence"], candidate.manifest["evidence"]):
        return None
    return "run both with this version of `workbench eval`: it records what each model was given"
