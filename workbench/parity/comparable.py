"""May two sides be compared at all? Finds the fields that forbid it, and names them.

Same task, data, questions, generation settings and scorer: otherwise the difference in scores is a difference of questions,
not of models. Two sides may hold different numbers of items: what both answered is compared, the rest is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.parity.comparison import Mismatch, Pair
from workbench.parity.profiles import normaliser_of
from workbench.parity.sides import Side
from workbench.parity.word_errors import counts_words
from workbench.run.bundle import Run, differences

FIELDS = ("task.version", "data.revision", "data.fingerprint")
SAME_FINGERPRINT_IS_ENOUGH = "data.revision"


def mismatches(reference: Side, candidate: Side) -> list[Mismatch]:
    """The differing fields, each once a task; [] when the sides may be compared. One task that may not be compared is enough:
    a score over the others would be another score than the one that was asked for."""
    common = [task for task in reference.tasks if task in candidate.tasks]
    if not common:
        return [Mismatch("task.name", *(", ".join(side.tasks) or "none, captures alone" for side in (reference, candidate)))]
    found: dict[str, Mismatch] = {}

    def add(task: str, each: Mismatch) -> None:
        field = each.field if len(common) == 1 else f"{each.field} of {task}"
        found.setdefault(field, replace(each, field=field))

    for task in common:
        for mine in reference.runs[task]:
            for theirs in candidate.runs[task]:
                for each in of_runs(mine, theirs):
                    add(task, each)
        for each in of_questions(reference.lines[task], candidate.lines[task]):
            add(task, each)
    return list(found.values())


def of_runs(reference: Run, candidate: Run) -> list[Mismatch]:
    """What the manifests say: task version, data, scorer (of speech: normaliser), generation settings."""
    keys = [run.manifest["key"] for run in (reference, candidate)]
    found = []
    for field in FIELDS:
        group, name = field.split(".")
        before, after = (key[group].get(name) for key in keys)
        if (
            field == SAME_FINGERPRINT_IS_ENOUGH
            and keys[0]["data"].get("fingerprint") == keys[1]["data"].get("fingerprint") is not None
        ):
            continue
        if before != after:
            found.append(Mismatch(field, before, after))
    for field, (before, after) in differences(keys[0]["generation"], keys[1]["generation"]).items():
        found.append(Mismatch(f"generation.{field}", before, after))
    normalisers = [normaliser_of(run) for run in (reference, candidate)]
    if None not in normalisers and normalisers[0] != normalisers[1]:
        found.append(Mismatch("normaliser", *normalisers))
        return found  # task version and scorer name it too
    scorers = [scorer_of(run) for run in (reference, candidate)]
    if scorers[0] != scorers[1]:
        found.append(Mismatch("task.scorer", *scorers))
    return found


def scorer_of(run: Run) -> Any:
    """The scorer of the results, which may be more than the task's own (extractions were added later)."""
    return (run.results or {}).get("scorer") or run.manifest["task"]["scorer"]


def of_questions(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[Mismatch]:
    """Items of the same id that were asked otherwise: in words where the texts are recorded, else by hash."""
    changed = [name for name in reference if name in candidate and not asked_alike(reference[name], candidate[name])]
    if not changed:
        return []
    first = changed[0]
    texts = [(line[first].get("input") or {}).get("text") for line in (reference, candidate)]
    count = "1 item" if len(changed) == 1 else f"{len(changed):,} items, first"
    where = f"task.prompt ({count} {first})"
    if None not in texts and texts[0] != texts[1]:
        return [Mismatch(where, *texts)]
    media = [(line[first].get("input") or {}).get("media") for line in (reference, candidate)]
    if media[0] != media[1]:
        kind = "audio" if counts_words(reference[first]) else "images"
        return [Mismatch(f"data.{kind} ({count} {first})", *([each[:12] for each in group or ()] for group in media))]
    return [Mismatch(where, *(line[first]["input_hash"][:12] for line in (reference, candidate)))]


def asked_alike(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> bool:
    """Same question and media. An item whose image or audio one side could not read has no hash there: it failed, and counts as that."""
    before, after = reference["input_hash"], candidate["input_hash"]
    return before == after or any(not line["input_hash"] and line["output"]["finish"] == "error" for line in (reference, candidate))


def join(reference: Side, candidate: Side) -> tuple[list[Pair], dict[str, Sequence[str]]]:
    """(the items on both sides in the reference's order, the items on one side only as ``task: id``)."""
    pairs = []
    only: dict[str, list[str]] = {"reference": [], "candidate": []}
    for task in dict.fromkeys([*reference.tasks, *candidate.tasks]):
        mine, theirs = reference.lines.get(task, {}), candidate.lines.get(task, {})
        pairs += [Pair(task, line, theirs[name]) for name, line in mine.items() if name in theirs]
        only["reference"] += [f"{task}: {name}" for name in mine if name not in theirs]
        only["candidate"] += [f"{task}: {name}" for name in theirs if name not in mine]
    return pairs, only
