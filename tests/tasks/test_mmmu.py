"""MMMU's rules, each by a case made from the authors' description; the witness for the whole is test_official.py."""

import json
import random

import pytest

from workbench.errors import DataError
from workbench.tasks import mmmu
from workbench.tasks.mmmu_parsing import choice_letter, normalise, open_candidates, open_correct
from workbench.types import Media, Response

FOUR = ["cat", "dog", "horse", "mouse"]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        (" B ", "B"),
        ("(B)", "B"),
        ("'B'", "B"),
        ("The answer is (C).", "C"),
        ("(A) or rather (C)", "C"),
        ("(C) not (A), but (C) again", "C"),
        ("A or B", "B"),
        ("(A) because B is wrong", "A"),  # brackets win over a bare letter that comes later
        ("It must be A dog", "A"),  # the article is read as an option
        ("a", None),  # case counts
        ("I would say A. because it is so", None),  # "A." inside a longer text is not seen
        ("I would say A: because it is so", None),
        ("I would say **A** because it is so", None),
        ("answer:\nB", None),  # a newline is not a space
        ("the DOG", None),  # too short for option texts
        ("in the picture I see a DOG here", "B"),
        ("first the mouse, and then there is a cat", "A"),  # the last text wins
        ("(E)", None),  # no such option
        ("E", None),
        ("", None),
        (",.A", "A"),
        ("A.,", "A"),  # "," then "." are stripped
        ("A,.", None),  # the comma's turn is over when the full stop goes, and "A," is no letter
    ],
)
def test_choice_letter(response, letter):
    assert choice_letter(response, FOUR) == letter


def test_option_texts_that_end_together_go_to_the_earlier_letter():
    assert choice_letter("here we can see one and only dog", ["dog", "dog"]) == "A"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("42", [42.0]),
        ("The answer is 42.", [42.0]),
        ("It is 1,234 m", ["1,234 m", 1234.0, 234.0]),  # the plain rule also sees the last group of digits
        ("x = 3.14159", [3.14]),
        ("first: y = 7\nno sign here", ["first: y = 7\nno sign here", 7.0]),  # "=" counts on the last line only
        ("nan", [pytest.approx(float("nan"), nan_ok=True)]),
        ("The result is -2.5e3 J", ["-2.5e3 j", -2500.0, -2.0, 3.0]),  # and the parts around a point and an exponent
        ("", [""]),
        ("Yes", ["yes"]),
        ("x", [" x", "x "]),
        ("The answer is :", ["the answer is :"]),  # a bare mark is dropped, so the whole text is used
        ("so it could be nine", ["nine"]),  # the shortest tail
        ("The answer is A. Therefore B", [" b", "b "]),
    ],
)
def test_open_candidates(response, expected):
    assert open_candidates(response) == expected


def test_plain_numbers_before_a_comma_are_left_to_the_comma_rule():
    found = open_candidates("we get 1,234,567 units")
    assert 1234567.0 in found
    assert not {1.0, 234.0} & set(found)


@pytest.mark.parametrize(
    ("text", "value"), [("1,234.567", [1234.57]), (" Ab ", ["ab"]), ("2.345", [round(2.345, 2)]), ("inf", [float("inf")])]
)
def test_normalise(text, value):
    assert normalise(text) == value


@pytest.mark.parametrize(
    ("response", "golds", "correct"),
    [
        ("The answer is Tampa.", ["Tampa", "Florida"], True),
        ("Florida, I think", ["Tampa", "Florida"], True),
        ("Miami", ["Tampa", "Florida"], False),
        ("about 3.4294", ["24/7", "3.429"], True),  # both are 3.43
        ("24/7", ["24/7", "3.429"], True),
        ("5", ["5.0"], True),
        ("fifteen", ["5"], False),
        ("category", ["cat"], True),  # contains, not equals
        ("cat", ["category"], False),
        ("it uses x twice", ["x"], True),  # a one-letter gold needs a space on one side
        ("fox", ["x"], False),
        ("", ["a"], False),
    ],
)
def test_open_answers(response, golds, correct):
    assert open_correct(open_candidates(response), golds) is correct


def row(**changes):
    return {"id": "validation_Art_7", "question_type": "multiple-choice", "options": str(FOUR), "answer": "B", **changes}


def score(response, seed=42, **changes):
    response = response if isinstance(response, Response) else Response(response)
    return mmmu.score(mmmu.to_sample(row(**changes), 0), response, random.Random(seed))


def test_gold_lists_are_read_from_their_literal_or_as_lists():
    for gold in ("['Tampa', 'Florida']", ["Tampa", "Florida"]):
        assert score("florida", question_type="open", options="[]", answer=gold).value == 1
    assert mmmu.to_sample(row(question_type="open", options="[]", answer="[1, 2]"), 0).target == "[1, 2]"


def test_a_choice_may_have_several_golds():
    assert mmmu.score(mmmu.to_sample(row(answer=["A", "B"]), 0), Response("(B)"), random.Random(0)).value == 1


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Response(""), "empty"),
        (Response(" \n"), "empty"),
        (Response("no idea"), "unparsed"),
        (Response("I\u2019m sorry, I cannot see it"), "refused"),
        (Response("let us think step by", finish="length"), "truncated"),
    ],
)
def test_a_choice_that_cannot_be_read_is_drawn_and_says_why(response, reason):
    found = score(response)
    assert (found.reason, found.random, found.answer) == (reason, True, random.Random(42).choice("ABCD"))


def test_a_read_choice_draws_nothing():
    rng = random.Random(42)
    assert mmmu.score(mmmu.to_sample(row(), 0), Response("B"), rng).value == 1
    assert rng.random() == random.Random(42).random()


def test_open_refusals_are_labelled_only():
    found = score("I cannot tell", question_type="open", options="[]", answer="12")
    assert (found.reason, found.value, found.random) == ("refused", 0.0, False)


def test_broken_rows_name_the_item():
    with pytest.raises(DataError, match="validation_Art_7"):
        mmmu.to_sample(row(options="A, B"), 0)
    with pytest.raises(DataError, match="no options"):
        mmmu.to_sample(row(options="[]"), 0)


def test_all_images_are_asked_with_in_order_and_the_tags_stay():
    pictures = {f"image_{k}": Media(data=bytes([k])) if k in (1, 3) else None for k in range(1, 8)}
    request = mmmu.ask(mmmu.to_sample(row(question="<image 1> or <image 3>?", **pictures), 0))
    assert [image.data for image in request.inputs["images"]] == [b"\x01", b"\x03"]
    assert request.inputs["text"].startswith("<image 1> or <image 3>?\n(A) cat\n")
    assert len(request.input_hash) == 32


def test_subjects_are_in_the_authors_order_and_in_six_disciplines():
    assert len(mmmu.SUBJECTS) == 30
    assert mmmu.SUBJECTS[:4] == ("Accounting", "Agriculture", "Architecture_and_Engineering", "Art")
    assert [len(subjects) for subjects in mmmu.DISCIPLINES.values()] == [4, 5, 5, 5, 4, 7]
    names = ("Sociology_1", "Art_Theory_2", "Art_10", "Art_9", "Accounting_30")
    samples = [mmmu.to_sample(row(id=f"validation_{name}"), 0) for name in names]
    assert [sample.id[11:] for sample in mmmu.order(samples)] == ["Accounting_30", "Art_9", "Art_10", "Art_Theory_2", "Sociology_1"]
    assert list(mmmu.groups(samples[1])) == [("subject", "Art_Theory"), ("discipline", "Overall-Art and Design")]


def test_chance_is_one_of_the_options():
    assert mmmu.chance(mmmu.to_sample(row(), 0)) == 0.25
    assert mmmu.chance(mmmu.to_sample(row(question_type="open", options="[]"), 0)) == 0.0


def test_prompts_equal_the_authors(shared_data):
    lines = (shared_data / "official/mmmu/prompt_fixtures.jsonl").read_text().splitlines()
    for fixture in map(json.loads, lines):
        sample = mmmu.to_sample({"id": "validation_Art_1", **fixture["input"]}, 0)
        assert mmmu.ask(sample).inputs["text"] == fixture["official_prompt"]
    assert len(lines) == 2
