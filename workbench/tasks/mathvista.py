"""MathVista (testmini, 1000 items): the authors' two prompts, their deterministic extraction and their scorer.

    load_task("mathvista").score(sample, Response("", extraction="(B)"), random.Random(42))   # the judge's "(B)" is scored

Rules: lupantech/MathVista at 53d5258 (``evaluation/build_query.py``, ``extract_answer.py``, ``calculate_score.py``), as
described in the project's protocol notes; the code is our own. The official protocol asks an LLM for what the simple
rules cannot extract. No LLM is called here: extractions made elsewhere can be supplied and are scored officially;
without them the score is labelled ``rules-only`` and shown with its floor, the share that an empty extraction gets for
free (an empty string is closest to the shortest choice; 16.8 % on testmini).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.data.card import FromCard
from workbench.metrics.accuracy import ACCURACY
from workbench.registry import task
from workbench.tasks.mathvista_answers import extract, hint, normalise
from workbench.tasks.mmmu_parsing import LETTERS
from workbench.tasks.reasons import reason_for
from workbench.types import Generation, Media, Request, Response, Sample, Score, Task

METADATA_AXES = ("language", "source", "category", "task", "context", "grade")


def to_sample(row: Mapping[str, Any], position: int) -> Sample:
    """A row of ``AI4Math/MathVista`` as a sample; question, query, image and metadata may be absent when only scoring."""
    name = str(row["pid"])
    image = row.get("decoded_image")
    kept = ("question_type", "answer_type", "precision", "unit", "metadata")
    inputs = {
        "question": row.get("question"),
        "query": row.get("query"),
        "choices": [str(choice) for choice in row.get("choices") or ()],
        "images": [image] if isinstance(image, Media) else [],
    }
    return Sample(name, inputs, row["answer"], name, {key: row.get(key) for key in kept})


def ask_query(sample: Sample) -> Request:
    """Variant (a): the data set's own ``query``: hint, question, choices."""
    return Request({"text": sample.inputs["query"], "images": sample.inputs["images"]}, "mathvista-official-query-1")


def ask_solution(sample: Sample) -> Request:
    """Variant (b): ``build_query`` without examples or captions: question, choices, hint, "Solution:"."""
    meta, choices = sample.meta, sample.inputs["choices"]
    unit = f" (Unit: {meta['unit']})" if meta["unit"] else ""
    lines = [f"Question: {sample.inputs['question']}{unit}"]
    if choices:
        lines += ["Choices:", *(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))]
    lines += [hint(meta["question_type"], meta["answer_type"], meta["precision"]), "Solution:"]
    return Request({"text": "\n".join(lines), "images": sample.inputs["images"]}, "mathvista-official-solution-1")


def score(sample: Sample, response: Response, rng: random.Random) -> Score:
    """The supplied extraction, else the rules' one, normalised and compared as text with the gold."""
    meta, choices = sample.meta, sample.inputs["choices"]
    extraction = response.extraction
    if extraction is None:
        extraction = extract(response.text, meta["question_type"], meta["answer_type"], choices)
    answer = normalise(extraction, meta["question_type"], meta["answer_type"], choices, meta["precision"])
    reason = "parsed" if extraction.strip() else reason_for(response, read=False)
    floor = reason != "parsed" and answer is not None
    explanation = "nothing was extracted; the official rule takes the choice nearest to an empty text" if floor else None
    return Score.of(answer == sample.target, answer, reason, explanation=explanation)


def groups(sample: Sample) -> Iterator[tuple[str, str]]:
    """Every axis of the authors; an item counts once in each of its skills."""
    yield "question_type", sample.meta["question_type"]
    yield "answer_type", sample.meta["answer_type"]
    metadata = sample.meta["metadata"] or {}
    for axis in METADATA_AXES:
        if metadata.get(axis):
            yield axis, metadata[axis]
    for skill in metadata.get("skills") or ():
        yield "skills", skill


def chance(sample: Sample) -> float:
    """What an empty answer scores: 1 where the gold is the choice nearest to "", else 0."""
    return score(sample, Response(""), random.Random(0)).value


def label(samples: Sequence[Sample], responses: Mapping[str, Response], scores: Mapping[str, Score]) -> dict[str, Any]:
    """``official`` when every answer came with an extraction; the floor in per cent of the scored items."""
    scored = [sample for sample in samples if sample.id in scores]
    given = sum(response.extraction is not None for response in responses.values())
    return {
        "scorer": "official" if given and given == len(responses) else "rules-only",
        "extractions": given,
        "floor": 100 * sum(map(chance, scored)) / len(scored) if scored else None,
    }


def build(name: str, description: str, card: str, ask: Any = ask_query) -> Task:
    return Task(
        name=name,
        version="1",
        family="vision-language",
        card=FromCard(card, to_sample),
        ask=ask,
        score=score,
        metrics=(ACCURACY,),
        headline="accuracy",
        groups=groups,
        chance=chance,
        # The authors fix no limit for every model; long reasoning must fit, and an answer cut short says so.
        generation=Generation(max_tokens=1024),
        # What a run without a judge gets; ``label`` corrects it where extractions were supplied.
        scorer="rules-only",
        description=description,
        details=label,
    )


@task
def mathvista() -> Task:
    return build("mathvista", "MathVista testmini: 1000 questions on figures (prompt: query)", "mathvista")


@task
def mathvista_solution() -> Task:
    return build("mathvista-solution", "MathVista testmini with the prompt that ends in Solution:", "mathvista", ask_solution)


@task
def mathvista_sample() -> Task:
    return build("mathvista-sample", "self-made items in MathVista's format, bundled", "mathvista-sample")
