import random

import pytest

from workbench.tasks import ocrbench
from workbench.tasks.catalogue import load_task
from workbench.tasks.scoring import score_responses
from workbench.types import Response


def sample(answer, dataset="IIIT5K", position=0, kind="Regular Text Recognition", **more):
    return ocrbench.to_sample({"dataset": dataset, "question_type": kind, "answer": answer, **more}, position)


@pytest.mark.parametrize(
    ("golds", "dataset", "response", "correct"),
    [
        (["CENTRE"], "IIIT5K", 'It says "Centre".', True),
        (["new york"], "IIIT5K", "New\nYork", True),
        (["New\nYork"], "IIIT5K", "new york city", True),
        (["a b"], "IIIT5K", "ab", False),
        (["one", "two"], "IIIT5K", "TWO", True),
        ("one", "IIIT5K", "One", True),
        (["cat"], "IIIT5K", "concatenate", True),  # containment
        (["x ^ { 2 }"], "HME100k", "x^{2}", True),  # a formula's spaces do not count
        (["x^{2}"], "HME100k", "so: x ^ {\n2 }", True),
        (["X^{2}"], "HME100k", "x^{2}", False),  # its case does
        (["x ^ 2"], "IIIT5K", "x^2", False),
        (["one"], "IIIT5K", "", False),
    ],
)
def test_containment(golds, dataset, response, correct):
    assert ocrbench.score(sample(golds, dataset), Response(response), random.Random(0)).value == correct


@pytest.mark.parametrize(
    ("response", "reason"),
    [("", "empty"), ("something else", "parsed"), ("I'm sorry, no.", "refused"), ("I cannot read more than ONE", "parsed")],
)
def test_reasons(response, reason):
    assert ocrbench.score(sample(["one"]), Response(response), random.Random(0)).reason == reason


def test_ids_are_the_column_or_the_position():
    assert sample(["x"], position=12).id == "12"
    assert sample(["x"], position=12, id=3).id == "3"


def test_the_question_is_asked_as_it_is():
    assert ocrbench.ask(sample(["x"], question="what is written in the image?")).inputs["text"] == "what is written in the image?"


def test_the_score_is_an_integer_out_of_1000_and_recognition_out_of_300():
    kinds = [*ocrbench.RECOGNITION, "Doc-oriented VQA"]
    samples = [sample(["x"], position=index, kind=kind) for index, kind in enumerate(kinds)]
    results = score_responses(load_task("ocrbench"), samples, {str(index): Response("X") for index in (0, 1, 6)}).results
    assert results["headline"] == {"metric": "correct", "value": 3, "unit": "items", "of": 1000}
    assert results["recognition"] == {"value": 2, "unit": "items", "of": 300}
    assert results["groups"]["section"]["Text Recognition"] == {"n": 2, "correct": 2, "value": 2}
    assert (results["n"], results["scored"], results["missing"]) == (7, 3, 4)


def test_the_sample_is_out_of_the_items_scored():
    results = score_responses(load_task("ocrbench-sample"), [sample(["x"])], {"0": Response("x")}).results
    assert results["headline"]["of"] == 1
    assert "recognition" not in results
