"""Scores a set of answers as one task: in the official order, with one random stream, summed up by group.

    scored = score_responses(task, samples, {"validation_Art_1": Response("B"), ...})
    scored.results["headline"]     # {'metric': 'accuracy', 'value': 36.67, 'unit': '%', 'of': None}

Pure: the same answers give the same results, whatever order they came in.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError
from workbench.metrics.stats import wilson
from workbench.types import Metric, Response, Sample, Score, Task

OTHER_SEEDS = 200
CONFIDENCE = 0.95
MOST_GROUPS = 40
"""An axis with more names than this (every speaker of a large corpus) is no table, where each name has an interval of its own."""


@dataclass(frozen=True)
class Scored:
    """Scores by item id, and the results: one mapping of plain JSON values."""

    scores: Mapping[str, Score]
    results: dict[str, Any]


def score_responses(
    task: Task,
    samples: Sequence[Sample],
    responses: Mapping[str, Response],
    *,
    seed: int | None = None,
    fixed: Mapping[str, Score] | None = None,
) -> Scored:
    """Score every sample that has a response.

    ``seed`` replaces the task's own. ``fixed`` holds scores that need no response (items that failed); they are counted
    and draw nothing. A sample with neither is ``missing``: stated, and not part of any mean. Raises DataError for
    responses to unknown items.
    """
    fixed = fixed or {}
    known = {sample.id for sample in samples}
    unknown = [name for name in (*responses, *fixed) if name not in known]
    if unknown:
        raise DataError(f"{len(unknown)} responses belong to no item of task {task.name!r}", why=f"for example {unknown[0]!r}")
    seed = task.seed if seed is None else seed
    rng = random.Random(seed)
    found: dict[str, Score] = {}
    for sample in task.order(samples):
        if sample.id in fixed:
            found[sample.id] = fixed[sample.id]
        elif sample.id in responses:
            found[sample.id] = task.score(sample, responses[sample.id], rng)
    scored = [sample for sample in samples if sample.id in found]
    scores = {sample.id: found[sample.id] for sample in scored}
    values = list(scores.values())
    metric = task.headline_metric()
    fallbacks = sum(score.random for score in values)
    correct = sum(score.counts["correct"] for score in values) if all("correct" in score.counts for score in values) else None
    value = metric.reduce(values) if values else None
    results = {
        "task": task.name,
        "version": task.version,
        "scorer": task.scorer,
        "n": len(samples),
        "scored": len(scored),
        "missing": len(samples) - len(scored),
        "correct": correct,
        "headline": {"metric": metric.name, "value": value, "unit": metric.unit, "of": scale(metric, len(scored))},
        "interval": interval(metric, correct, len(scored)),
        "metrics": {other.name: other.reduce(values) if values else None for other in task.metrics},
        "groups": group_results(task, metric, scored, scores),
        "reasons": dict(Counter(score.reason for score in values)),
        "chance": sum(map(task.chance, scored)) / len(scored) if scored else None,
        "random_fallbacks": fallbacks,
        "score_range_over_seeds": range_over_seeds(task, samples, responses, scores, seed) if fallbacks else None,
        "per_item": {name: item_result(score) for name, score in scores.items()},
    }
    per_item = results.pop("per_item")
    return Scored(scores, {**results, **task.details(samples, responses, scores), "per_item": per_item})


def scale(metric: Metric, scored: int) -> int | None:
    """What a count is out of: the metric's fixed scale, else the number of scored items; None for shares."""
    return metric.of or (scored if metric.unit == "items" else None)


def interval(metric: Metric, correct: int | None, scored: int) -> dict[str, Any] | None:
    """The Wilson interval of the share of correct items, in per cent or, for counts, in items out of those scored."""
    if correct is None or not scored or metric.unit not in ("%", "items"):
        return None
    factor = 100 if metric.unit == "%" else scored
    low, high = (factor * bound for bound in wilson(correct, scored, CONFIDENCE))
    return {"low": low, "high": high, "unit": metric.unit, "confidence": CONFIDENCE, "method": "wilson"}


def group_results(task: Task, metric: Metric, samples: Sequence[Sample], scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """``{axis: {name: {"n", "correct", "value"}}}``; ``value`` is the headline metric on the group's items."""
    members: dict[str, dict[str, list[Score]]] = {}
    for sample in samples:
        for axis, name in task.groups(sample):
            members.setdefault(axis, {}).setdefault(name, []).append(scores[sample.id])
    return summed_up(metric, members)


def summed_up(metric: Metric, members: Mapping[str, Mapping[str, Sequence[Score]]]) -> dict[str, dict[str, Any]]:
    """``{axis: {name: {"n", "correct", "value", and what the metric shows around a value}}}``."""
    return {
        axis: {
            name: {
                "n": len(group),
                "correct": sum(score.counts["correct"] for score in group)
                if all("correct" in score.counts for score in group)
                else None,
                "value": metric.reduce(group),
                **(metric.around(group) if metric.around else {}),
            }
            for name, group in names.items()
        }
        for axis, names in members.items()
        if metric.around is None or len(names) <= MOST_GROUPS
    }


def range_over_seeds(
    task: Task, samples: Sequence[Sample], responses: Mapping[str, Response], scores: Mapping[str, Score], seed: int
) -> list[float]:
    """[lowest, highest] headline value over ``OTHER_SEEDS`` other seeds.

    Only items whose answer was drawn are scored again: the others consume nothing of the stream.
    """
    drawn = [sample for sample in task.order(samples) if sample.id in scores and scores[sample.id].random]
    reduce = task.headline_metric().reduce
    values = []
    for other in range(OTHER_SEEDS + 1):
        if other == seed or len(values) == OTHER_SEEDS:
            continue
        rng = random.Random(other)
        values.append(
            reduce(list({**scores, **{sample.id: task.score(sample, responses[sample.id], rng) for sample in drawn}}.values()))
        )
    return [min(values), max(values)]


def item_result(score: Score) -> dict[str, Any]:
    """One item as JSON: ``correct`` (None where a score is not right-or-wrong: then its value and counts), ``answer``, ``reason``."""
    result: dict[str, Any] = {
        "correct": bool(score.counts["correct"]) if "correct" in score.counts else None,
        "answer": score.answer,
        "reason": score.reason,
    }
    if result["correct"] is None:
        result |= {"value": score.value, **{name: number for name, number in score.counts.items() if name not in result}}
    if score.random:
        result["random"] = True
    return result
