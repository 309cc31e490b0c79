"""Scores as the report shows them: one row a task and side, and one row a group of a run that is compared with nothing.

    score_rows(sides)[0].text      # '71.50 %', with its 95 % interval '66.9 to 75.7 %'

The numbers are those of ``results.json``. Where a side's task is in several shards they are pooled from the items' counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.metrics.stats import wilson
from workbench.parity.families import SPEECH
from workbench.parity.profiles import normaliser_of
from workbench.parity.sides import Side
from workbench.run.summary import interval_text, score_text


@dataclass(frozen=True)
class ScoreRow:
    """``value``, ``low`` and ``high`` are in ``unit``; None where there is no such number. ``remarks`` are for readers."""

    task: str
    side: int
    label: str
    n: int
    scored: int
    text: str
    interval: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    errors: int
    random_fallbacks: int
    scorer: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupRow:
    """One group of a single run: ``value`` in ``unit``, the 95 % Wilson interval in per cent where items are right or wrong."""

    task: str
    axis: str
    name: str
    n: int
    value: float | None
    unit: str
    low: float | None
    high: float | None
    told: str = ""
    """Of a word error rate: errors, words, interval and profile. The interval is the group's own."""


def score_rows(sides: Sequence[Side]) -> list[ScoreRow]:
    """Rows by task, then side; a side that lacks a task has no row. Word error rates are not among them: ``speech.speech_rows``."""
    tasks = list(dict.fromkeys(task for side in sides for task in side.tasks))
    return [
        score_row(side, number, task)
        for task in tasks
        for number, side in enumerate(sides)
        if task in side.runs and side.family != SPEECH
    ]


def score_row(side: Side, number: int, task: str) -> ScoreRow:
    runs = side.runs[task]
    results = runs[0].results if len(runs) == 1 else None
    scorer = runs[0].manifest["task"].get("scorer") or "–"
    if results is None:
        return pooled_row(side, number, task, scorer)
    headline, bounds = results["headline"], results.get("interval") or {}
    remarks = []
    if results.get("chance"):
        remarks.append(f"a guesser gets {100 * results['chance']:.1f} %")
    if len(found := results.get("score_range_over_seeds") or ()) == 2:
        remarks.append(f"over 200 other seeds {found[0]:.2f} to {found[1]:.2f}")
    if results.get("missing"):
        remarks.append(f"{results['missing']:,} items missing, not scored")
    return ScoreRow(
        task,
        number,
        side.label,
        results["n"],
        results["n"] if results.get("scored") is None else results["scored"],
        score_text(results),
        interval_text(results),
        headline["value"],
        bounds.get("low"),
        bounds.get("high"),
        headline["unit"],
        results.get("item_errors") or 0,
        results.get("random_fallbacks") or 0,
        results.get("scorer") or scorer,
        tuple(remarks),
    )


def pooled_row(side: Side, number: int, task: str, scorer: str) -> ScoreRow:
    """Several shards, or a run that is not finished: what its lines give."""
    runs, lines = side.runs[task], side.lines[task].values()
    values = [line["score"]["value"] for line in lines if line["score"]["value"] is not None]
    counts = [line["score"].get("counts") or {} for line in lines if line["score"]["value"] is not None]
    mean = 100 * sum(values) / len(values) if values else None
    low = high = None
    if counts and all("correct" in count and count.get("total") == 1 for count in counts):
        low, high = (100 * bound for bound in wilson(sum(count["correct"] for count in counts), len(counts)))
    asked = sum(run.manifest["n"] for run in runs)
    unfinished = f"not finished: {len(lines):,} of {asked:,} items"
    remark = f"pooled over {len(runs)} shards" if len(runs) > 1 else unfinished
    return ScoreRow(
        task,
        number,
        side.label,
        asked,
        len(values),
        "–" if mean is None else f"{mean:.2f} %",
        "–" if low is None or high is None else f"{low:.1f} to {high:.1f} %",
        mean,
        low,
        high,
        "%",
        sum(line["output"]["finish"] == "error" for line in lines),
        sum(bool(line["score"].get("random")) for line in lines),
        scorer,
        (remark,),
    )


def group_rows(side: Side) -> list[GroupRow]:
    """The groups that ``results.json`` names, by task and axis; of a task in one piece only."""
    rows = []
    for task, runs in side.runs.items():
        results = runs[0].results if len(runs) == 1 else None
        for axis, names in ((results or {}).get("groups") or {}).items():
            profile = normaliser_of(runs[0])
            rows += [group_row(task, axis, name, group, results["headline"]["unit"], profile) for name, group in names.items()]
    return rows


def group_row(task: str, axis: str, name: str, group: Mapping[str, Any], unit: str, profile: str | None = None) -> GroupRow:
    low = high = None
    told = ""
    if group.get("correct") is not None and unit == "%" and 0 <= group["correct"] <= group["n"]:
        low, high = (100 * bound for bound in wilson(group["correct"], group["n"]))
    if bounds := group.get("interval"):
        factor = 100 if bounds["unit"] == "fraction" else 1
        low, high = factor * bounds["low"], factor * bounds["high"]
    if {"errors", "words"} <= group.keys():
        span = "no interval" if low is None else f"{low:.2f} to {high:.2f} % at 95 %"
        told = ", ".join(filter(None, (f"{group['errors']:,} errors in {group['words']:,} words", span, profile)))
    return GroupRow(task, axis, name, group["n"], group.get("value"), unit, low, high, told)
