"""Results worked out again, and how those on disk differ: from the lines' scores alone, or by the official scorer.

    differing(run.results, from_lines(scorer_of(run), run.items().values()))
    # ["headline: results.json says 95.00 %, its answers give 92.50 %"]

The first needs no data set and catches edited results; the second also catches edited scores.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench import registry
from workbench.errors import WorkbenchError
from workbench.metrics.accuracy import ACCURACY, correct_count
from workbench.run.bundle import Run, differences
from workbench.run.finalise import finalise
from workbench.run.rescore import as_scored, complete_run, task_and_samples
from workbench.run.summary import score_text
from workbench.tasks.catalogue import BUILT_IN_TASKS, load_task
from workbench.tasks.scoring import interval, scale, summed_up
from workbench.types import Metric, Score, Task

KNOWN_METRICS = {metric.name: metric for metric in (ACCURACY, correct_count())}
SHOWN = 8


@dataclass(frozen=True)
class Scorer:
    """The metrics that sum up a run. ``task`` is None where only the headline's name is known."""

    headline: Metric
    metrics: Sequence[Metric]
    task: Task | None


def scorer_of(run: Run, *, plugins: bool = False) -> Scorer | None:
    """The metrics of a run's task; None for an own eval with a metric of its own. No file and no plugin is loaded unasked."""
    named = run.manifest["task"]
    known = not named.get("path") and (named["name"] in {*BUILT_IN_TASKS, *registry.TASKS} or plugins)
    if known and not named["name"].partition("::")[0].endswith(".py"):
        try:
            task = load_task(named["name"])
            return Scorer(task.headline_metric(), task.metrics, task)
        except WorkbenchError:
            pass
    metric = KNOWN_METRICS.get(named.get("headline"))
    return metric and Scorer(metric, (metric,), None)


def from_lines(scorer: Scorer, lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of the results that follow from the lines' scores and strata, as ``tasks.scoring`` makes them."""
    scores: list[Score] = []
    strata: dict[str, dict[str, list[Score]]] = {}
    errors = 0
    for line in lines:
        found = line["score"]
        score = Score(found["value"], None, found["reason"], found["counts"], random=found.get("random", False))
        scores.append(score)
        errors += line["output"]["finish"] == "error"
        for axis, name in line["groups"]:
            strata.setdefault(axis, {}).setdefault(name, []).append(score)
    metric = scorer.headline
    correct = correct_of(scores)
    made = {
        "n": len(scores),
        "scored": len(scores),
        "correct": correct,
        "headline": {"metric": metric.name, "value": reduce(metric, scores), "unit": metric.unit},
        "interval": interval(metric, correct, len(scores)),
        "metrics": {other.name: reduce(other, scores) for other in scorer.metrics},
        "reasons": dict(Counter(score.reason for score in scores)),
        "random_fallbacks": sum(score.random for score in scores),
        "item_errors": errors,
    }
    if metric.around is not None:
        made.pop("interval")  # that of a word error rate needs the items' speakers
    if scorer.task is not None:
        made["headline"]["of"] = scale(metric, len(scores))
    if strata:
        made["groups"] = summed_up(metric, strata)
    return made


def correct_of(scores: Sequence[Score]) -> int | None:
    return sum(score.counts["correct"] for score in scores) if all("correct" in score.counts for score in scores) else None


def reduce(metric: Metric, scores: Sequence[Score]) -> float | None:
    return metric.reduce(scores) if scores else None


def officially(run: Run, lines: Mapping[str, Mapping[str, Any]], task: str | None) -> tuple[dict[str, Any], list[str], str]:
    """(results, ids of lines whose score differs, version of the scorer), by the task's own scorer over its data.

    Raises WorkbenchError where the task or its data are not here, or the answers were taken out. Downloads nothing.
    """
    from workbench.data.card import FromCard
    from workbench.data.loading import offline

    named = run.manifest["task"]
    if task is None and (named.get("path") or named["name"].endswith(".py")):
        raise WorkbenchError("the run's own task file is not run unasked", fix=f"--task {named.get('path') or 'FILE.py'}")
    complete_run(run)
    found = as_scored(run, load_task(task or named["name"]))
    if isinstance(found.card, FromCard) and found.card.card.hub:
        with offline():
            _, samples = task_and_samples(run, found)
    else:
        _, samples = task_and_samples(run, found)
    final, results = finalise(found, [sample for sample in samples if sample.id in lines], lines)
    results["missing"] = len(samples) - len(lines) if run.manifest.get("merged") else results["missing"]
    plain = json.loads(json.dumps(final))
    changed = [line["id"] for line in plain if differences(lines[line["id"]]["score"], line["score"])]
    return json.loads(json.dumps(results)), changed, found.version


def differing(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """One sentence a field in which the stored results are not the derived ones; fields that were not derived are left out."""
    said: list[str] = []
    for name, value in derived.items():
        for field, (before, after) in differences(stored.get(name), value, name).items():
            if field == "headline.of" or same(before, after):
                continue
            if field in ("headline", "headline.value"):
                texts = headline_text(stored), headline_text({**derived, "headline": {"of": None, **derived["headline"]}})
            else:
                texts = before, after
            said.append(f"{field}: results.json says {texts[0]}, its answers give {texts[1]}")
    return said[:SHOWN] + ([f"and {len(said) - SHOWN} more"] if len(said) > SHOWN else [])


def headline_text(results: Mapping[str, Any]) -> str:
    try:
        return score_text(results)
    except (KeyError, TypeError, ValueError):
        return str(results.get("headline"))


def same(before: Any, after: Any) -> bool:
    """Equal, or floats that differ by another processor's last digits."""
    if isinstance(before, bool) or isinstance(after, bool) or not all(isinstance(each, (int, float)) for each in (before, after)):
        return before == after
    return math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(before) and math.isnan(after))
