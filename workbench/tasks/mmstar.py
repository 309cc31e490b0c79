"""MMStar (val, 1500 items, six cores, 18 axes): the authors' generic prompt, first-character rule and micro averages.

    load_task("mmstar").score(sample, Response("a dog"), random.Random(42))   # correct when the gold is A: the official rule

Rules: MMStar-Benchmark/MMStar at 88f243a (``vlmeval/utils/mmstar_eval.py`` and the VLMEvalKit prompt it uses), as
described in the project's protocol notes; the code is our own. A reply that merely starts with the letter counts. The
authors divide each core by a hard-coded 250 and the whole by 1500; those are the counts here whenever all items are
scored, and a part of the set is divided by what was scored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.data.card import FromCard
from workbench.metrics.accuracy import ACCURACY
from workbench.registry import task
from workbench.tasks.reasons import reason_for
from workbench.types import Generation, Media, Request, Response, Sample, Score, Task

PREFIXES = ("option ", "the answer is ")


def to_sample(row: Mapping[str, Any], position: int) -> Sample:
    """A row of ``Lin-Chen/MMStar`` as a sample; question and image may be absent when only scoring."""
    name = str(row["index"])
    image = row.get("image")
    meta = {key: value for key, value in row.items() if not isinstance(value, Media) and key not in ("question", "answer", "index")}
    inputs = {"question": row.get("question"), "images": [] if image is None else [image]}
    return Sample(name, inputs, row["answer"], name, meta)


def ask(sample: Sample) -> Request:
    """The options are already in the question; the generic prompt only puts "Question: " before it."""
    return Request(
        {"text": f"Question: {sample.inputs['question']}\n", "images": sample.inputs["images"]}, "mmstar-official-generic-1"
    )


def characters(response: str) -> list[str]:
    """The characters that the official rule compares with the gold letter, in its order; lower case."""
    text = response.lower().strip().replace("\n", " ")
    found = [text[:1], text[1:2] if text.startswith("(") else ""]
    found += [text[len(prefix) : len(prefix) + 1] for prefix in PREFIXES if text.startswith(prefix)]
    return [character for character in found if character]


def score(sample: Sample, response: Response, rng: random.Random) -> Score:
    """Correct when the gold letter is one of ``characters``; nothing is drawn at random."""
    found = characters(response.text)
    gold = sample.target.strip().lower()
    letters = [character for character in found if character in "abcd"]
    if gold in found:
        return Score.of(True, gold.upper())
    return Score.of(False, letters[0].upper() if letters else None, reason_for(response, read=bool(letters)))


def groups(sample: Sample) -> Iterator[tuple[str, str]]:
    for axis, column in (("core", "category"), ("axis", "l2_category")):
        if sample.meta.get(column):
            yield axis, sample.meta[column]


def build(name: str, description: str) -> Task:
    return Task(
        name=name,
        version="1",
        family="vision-language",
        card=FromCard(name, to_sample),
        ask=ask,
        score=score,
        metrics=(ACCURACY,),
        headline="accuracy",
        groups=groups,
        chance=lambda sample: 0.25,
        generation=Generation(max_tokens=32),
        description=description,
    )


@task
def mmstar() -> Task:
    return build("mmstar", "MMStar: 1500 choice questions that need the image")


@task
def mmstar_sample() -> Task:
    return build("mmstar-sample", "self-made items in MMStar's format, bundled")
