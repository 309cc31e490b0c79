"""MMMU (validation, 900 items, 30 subjects): the authors' prompt, answer parser, random fallback and averages.

    load_task("mmmu").score(sample, Response("The answer is (B)."), random.Random(42))   # Score(1.0, 'B', 'parsed', ...)

Rules: MMMU-Benchmark/MMMU at bb0b95a (``mmmu/utils/eval_utils.py``, ``data_utils.py``, ``main_parse_and_eval.py``), as
described in the project's protocol notes; the code is our own. Known quirks are kept: ``A.`` inside a longer text is not
seen, the article `` A `` is, and a choice that cannot be read is drawn from ``random.Random(42)``, one stream over the
whole set in the order of ``SUBJECTS``.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from workbench.data.card import FromCard
from workbench.errors import DataError
from workbench.metrics.accuracy import ACCURACY
from workbench.registry import task
from workbench.tasks import mmmu_parsing as parsing
from workbench.tasks.reasons import is_refusal, reason_for
from workbench.types import Generation, Request, Response, Sample, Score, Task

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DISCIPLINE_OF = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
# The authors' table of short names is alphabetical (acc, agri, arch, art, art_theory, ...), and so are the long names.
SUBJECTS = tuple(sorted(DISCIPLINE_OF))

CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."
OPEN_INSTRUCTION = "Answer the question using a single word or phrase."


def to_sample(row: Mapping[str, Any], position: int) -> Sample:
    """A row of ``MMMU/MMMU`` as a sample; question and images may be absent when only scoring. Raises DataError."""
    name = str(row["id"])
    images = [row[f"image_{number}"] for number in range(1, 8) if row.get(f"image_{number}") is not None]
    options = read_list(row["options"])
    if options is None:
        raise DataError(f"the options of MMMU item {name!r} are not a list", why=f"found {row['options']!r}")
    choice = row["question_type"] == "multiple-choice"
    if choice and not options:
        raise DataError(f"MMMU item {name!r} is multiple-choice but has no options")
    answer = row["answer"]
    golds = None if choice else read_list(answer)
    target = golds if golds and all(isinstance(gold, str) for gold in golds) else answer
    elsewhere = ("id", "question", "options", "answer")
    meta = {key: value for key, value in row.items() if key not in elsewhere and not key.startswith("image_")}
    subject = row.get("subject") or name.partition("_")[2].rpartition("_")[0] or name
    inputs = {"question": row.get("question"), "options": [str(option) for option in options], "images": images}
    return Sample(name, inputs, target, name, {**meta, "choice": choice, "subject": subject})


def read_list(value: Any) -> list | None:
    """A list, or the Python literal of one (as the data set stores it); None when it is neither."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str) or not value.strip().startswith("["):
        return None
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return None
    return found if isinstance(found, list) else None


def ask(sample: Sample) -> Request:
    """Question, ``(A) option`` lines, an empty line, the instruction; ``<image k>`` tags stay in the text."""
    question, options = sample.inputs["question"], sample.inputs["options"]
    if sample.meta["choice"]:
        lines = "".join(f"({letter}) {option}\n" for letter, option in zip(parsing.LETTERS, options, strict=False))
        text = f"{question}\n{lines}\n{CHOICE_INSTRUCTION}"
    else:
        text = f"{question}\n{OPEN_INSTRUCTION}"
    return Request({"text": text, "images": sample.inputs["images"]}, "mmmu-official-1")


def score(sample: Sample, response: Response, rng: random.Random) -> Score:
    """Choice: letter equality, a random letter when none can be read. Open: a candidate contains or equals a gold."""
    golds = sample.target if isinstance(sample.target, list) else [sample.target]
    if not sample.meta["choice"]:
        candidates = parsing.open_candidates(response.text)
        correct = parsing.open_correct(candidates, golds)
        read = correct or not is_refusal(response.text)
        # A response may say "nan" or "inf", which JSON has no number for.
        answer = [value if isinstance(value, str) or isfinite(value) else str(value) for value in candidates]
        return Score.of(correct, answer, reason_for(response, read=read))
    letter = parsing.choice_letter(response.text, sample.inputs["options"])
    if letter is not None:
        return Score.of(letter in golds, letter)
    drawn = rng.choice(parsing.LETTERS[: len(sample.inputs["options"])])
    reason = reason_for(response, read=False)
    return Score.of(drawn in golds, drawn, reason, random=True, explanation="no option could be read; the official rule draws one")


def groups(sample: Sample) -> Iterator[tuple[str, str]]:
    subject = sample.meta["subject"]
    yield "subject", subject
    if subject in DISCIPLINE_OF:
        yield "discipline", f"Overall-{DISCIPLINE_OF[subject]}"


def order(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The authors' order: by subject, then by the number at the end of the id (the order of their files)."""
    rank = {subject: index for index, subject in enumerate(SUBJECTS)}

    def place(sample: Sample) -> tuple:
        subject, number = sample.meta["subject"], sample.id.rpartition("_")[2]
        return (rank.get(subject, len(rank)), subject, int(number) if number.isdecimal() else 0)

    return sorted(samples, key=place)


def chance(sample: Sample) -> float:
    return 1 / len(sample.inputs["options"]) if sample.meta["choice"] else 0.0


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
        order=order,
        chance=chance,
        # The authors' LLaVA runner samples (MMMU#38: "model default, else 0"); greedy here, with its 128 new tokens.
        generation=Generation(max_tokens=128),
        description=description,
    )


@task
def mmmu() -> Task:
    return build("mmmu", "MMMU validation: 900 college-level questions in 30 subjects")


@task
def mmmu_sample() -> Task:
    return build("mmmu-sample", "self-made items in MMMU's format, bundled")
