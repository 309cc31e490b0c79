import random

import pytest

from workbench.tasks import mmstar
from workbench.types import Media, Response


def sample(answer="A", **more):
    return mmstar.to_sample({"index": 7, "answer": answer, "category": "math", "l2_category": "geometry", **more}, 0)


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("A", True),
        ("a", True),
        ("A: a cat", True),
        ("a dog is shown", True),  # the first character is all that is looked at
        ("Apple", True),
        ("(A) a cat", True),
        ("(a", True),
        ("option A", True),
        ("Option a.", True),
        ("The answer is A", True),
        ("the answer is a cat", True),
        ("\n  A", True),
        ("the\nanswer is A", True),  # newlines become spaces first
        ("B", False),
        ("The answer is (A)", False),  # the bracket rule holds at the start only
        ("The answer is: A", False),
        ("Answer: A", True),  # it starts with an A ...
        ("Choice A", False),
        ("[A]", False),
        ("**A**", False),
        ("(", False),
        ("option ", False),
        ("", False),
    ],
)
def test_the_first_character_decides(response, correct):
    found = mmstar.score(sample(), Response(response), random.Random(0))
    assert (found.value == 1) is correct
    assert not found.random


def test_a_lower_case_or_padded_gold_is_the_same_letter():
    assert mmstar.score(sample(" b "), Response("B"), random.Random(0)).value == 1


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        (Response("B"), "B", "parsed"),
        (Response("option c"), "C", "parsed"),
        (Response(""), None, "empty"),
        (Response("no letter"), None, "unparsed"),
        (Response("I cannot see it"), None, "refused"),
        (Response("well, first we", finish="length"), None, "truncated"),
    ],
)
def test_reasons(response, answer, reason):
    found = mmstar.score(sample("D"), response, random.Random(0))
    assert (found.answer, found.reason, found.value) == (answer, reason, 0.0)


def test_the_prompt_is_the_generic_one():
    request = mmstar.ask(sample(question="Which?\nOptions: A: x, B: y", image=Media(data=b"1")))
    assert request.inputs["text"] == "Question: Which?\nOptions: A: x, B: y\n"
    assert len(request.inputs["images"]) == 1


def test_groups_are_the_core_and_the_axis():
    assert list(mmstar.groups(sample())) == [("core", "math"), ("axis", "geometry")]
    assert list(mmstar.groups(mmstar.to_sample({"index": 1, "answer": "A"}, 0))) == []
