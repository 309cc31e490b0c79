"""OCRBench v1 (test, 1000 items, ten types): the authors' containment rule and counts, an integer out of 1000.

    load_task("ocrbench").score(sample, Response('It says "Centre".'), random.Random(42))   # contains the gold: correct

Rules: Yuliang-Liu/MultimodalOCR at 794c36d (``OCRBench/example.py``), as described in the project's protocol notes; the
code is our own. Handwritten formulas (HME100k) are compared case-sensitively with all spaces deleted. An item without
an answer is skipped by the authors and adds nothing: the score stays out of 1000.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.data.card import FromCard
from workbench.metrics.accuracy import correct_count
from workbench.registry import task
from workbench.tasks.reasons import is_refusal, reason_for
from workbench.types import Generation, Media, Request, Response, Sample, Score, Task

RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
RECOGNITION_ITEMS = 300
ITEMS = 1000
FORMULAS = "HME100k"


def to_sample(row: Mapping[str, Any], position: int) -> Sample:
    """A row of ``echo840/OCRBench`` as a sample. The data set has no id: an ``id`` column or the row's position (0, 1, ...)."""
    name = str(position if row.get("id") is None else row["id"])
    image = row.get("image")
    golds = row["answer"]
    golds = [golds] if isinstance(golds, str) else [str(gold) for gold in golds]
    meta = {key: value for key, value in row.items() if not isinstance(value, Media) and key not in ("question", "answer", "id")}
    inputs = {"question": row.get("question"), "images": [] if image is None else [image]}
    return Sample(name, inputs, golds, name, meta)


def ask(sample: Sample) -> Request:
    """The question as it is, without a suffix."""
    return Request({"text": sample.inputs["question"], "images": sample.inputs["images"]}, "ocrbench-official-1")


def normalise(text: str, formula: bool) -> str:
    """What is compared: a formula without any space, other text in lower case."""
    if formula:
        return text.strip().replace("\n", " ").replace(" ", "")
    return text.lower().strip().replace("\n", " ")


def score(sample: Sample, response: Response, rng: random.Random) -> Score:
    """Correct when the response contains any of the golds."""
    formula = sample.meta["dataset"] == FORMULAS
    text = normalise(response.text, formula)
    found = next((gold for gold in sample.target if normalise(gold, formula) in text), None)
    read = found is not None or not is_refusal(response.text)
    return Score.of(found is not None, response.text if found is None else found, reason_for(response, read=read))


def groups(sample: Sample) -> Iterator[tuple[str, str]]:
    kind = sample.meta["question_type"]
    yield "type", kind
    yield "section", "Text Recognition" if kind in RECOGNITION else kind


def official_scale(samples: Sequence[Sample], responses: Mapping[str, Response], scores: Mapping[str, Score]) -> dict[str, Any]:
    """The authors' recognition sum, out of 300."""
    right = sum(
        scores[sample.id].counts["correct"]
        for sample in samples
        if sample.id in scores and sample.meta["question_type"] in RECOGNITION
    )
    return {"recognition": {"value": right, "unit": "items", "of": RECOGNITION_ITEMS}}


def build(name: str, description: str, **changes: Any) -> Task:
    return Task(
        name=name,
        version="1",
        family="vision-language",
        card=FromCard(name, to_sample),
        ask=ask,
        score=score,
        headline="correct",
        groups=groups,
        generation=Generation(max_tokens=100),
        description=description,
        **changes,
    )


@task
def ocrbench() -> Task:
    return build(
        "ocrbench", "OCRBench v1: 1000 questions about text in images", metrics=(correct_count(ITEMS),), details=official_scale
    )


@task
def ocrbench_sample() -> Task:
    return build("ocrbench-sample", "self-made items in OCRBench's format, bundled", metrics=(correct_count(),))
