"""From answers to final scores: one pass over all items in the task's official order, with its own random stream.

The scores written while a run goes on are provisional where the official protocol draws at random: the stream depends
on every earlier item. The pass at the end makes them final, so an interrupted run ends with the same scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.tasks.extraction_prompts import extractor, scorer_label
from workbench.tasks.scoring import score_responses
from workbench.types import Response, Sample, Score, Task


def score_json(score: Score) -> dict[str, Any]:
    found: dict[str, Any] = {"value": score.value, "answer": score.answer, "reason": score.reason, "counts": dict(score.counts)}
    if score.random:
        found["random"] = True
    if score.explanation:
        found["explanation"] = score.explanation
    return found


def failed_score(task: Task, sample: Sample) -> Score:
    """An item that could not be answered counts as wrong, and says so; what that means in counts is the task's to say."""
    return Score.of(False, None, "error") if task.failed is None else task.failed(sample)


def finalise(
    task: Task, samples: Sequence[Sample], lines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(final lines in data order, results). Raises KeyError when an item has no line: only whole runs are final.

    Where lines hold an extraction (``workbench extract``), that is scored, and the results name the extractor.
    """
    responses, errors, extractions = {}, {}, []
    for sample in samples:
        line = lines[sample.id]
        output, extraction = line["output"], line.get("extraction")
        if output["finish"] == "error":
            errors[sample.id] = failed_score(task, sample)
        elif extraction is None:
            responses[sample.id] = Response(output["value"], finish=output["finish"])
        else:
            responses[sample.id] = Response(output["value"], extraction["value"], output["finish"])
            extractions.append(extraction)
    scored = score_responses(task, samples, responses, fixed=errors)
    final = [{**lines[sample.id], "score": score_json(scored.scores[sample.id])} for sample in samples]
    results = {**scored.results, "item_errors": len(errors)}
    about = extractor(extractions, len(responses))
    if about is not None:
        results |= {"scorer": scorer_label(about), "extractor": about}
    results.pop("per_item", None)  # the lines of samples.jsonl hold it
    return final, results
