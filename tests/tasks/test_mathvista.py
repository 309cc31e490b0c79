import json
import random
from functools import cache

import pytest

from workbench.tasks import mathvista
from workbench.tasks.catalogue import load_task
from workbench.tasks.mathvista_answers import edit_distance, extract, hint, normalise
from workbench.tasks.scoring import score_responses
from workbench.types import Response

CHOICES = ["Yes", "No", "(B) maybe"]


@pytest.mark.parametrize(
    ("extraction", "choices", "expected"),
    [
        ("A", CHOICES, "Yes"),
        (" B ", CHOICES, "No"),
        ("(b)", CHOICES, "No"),
        ("The answer is (C) or (A)", CHOICES, "(B) maybe"),  # the first bracket
        ("Yes!", CHOICES, "Yes"),  # nearest by edit distance
        ("yes", ["YES", "yet"], "yet"),  # case counts
        ("a", CHOICES, "No"),  # a small letter is no option: nearest text
        ("(F)", ["xyz", "FG"], "FG"),  # no option F, so the text "F"
        ("", ["145", "13", "2"], "2"),  # the floor: the shortest choice
        ("", ["13", "14"], "13"),  # the first of equals
    ],
)
def test_choices(extraction, choices, expected):
    assert normalise(extraction, "multi_choice", "text", choices) == expected


@pytest.mark.parametrize(
    ("extraction", "kind", "precision", "expected"),
    [
        ("12", "integer", None, "12"),
        ("12.9", "integer", None, "12"),  # truncated, not rounded
        ("-0.5", "integer", None, "0"),
        ("1e3", "integer", None, "1000"),
        ("12 m", "integer", None, None),
        ("", "integer", None, None),
        ("inf", "integer", None, None),
        ("nan", "integer", None, None),
        ("3.96", "float", 1.0, "4.0"),  # precision arrives as a float
        ("3.14159", "float", 2.0, "3.14"),
        ("2", "float", 1.0, "2.0"),
        ("2.675", "float", 2.0, str(round(2.675, 2))),  # binary rounding, as Python does
        ("x", "float", 1.0, None),
        ("1.0", "float", None, None),
        ("[0, 2]", "list", None, "[0, 2]"),
        ("[0,2]", "list", None, "[0,2]"),  # text equality: spaces count
    ],
)
def test_numbers_and_lists(extraction, kind, precision, expected):
    assert normalise(extraction, "free_form", kind, [], precision) == expected


@pytest.mark.parametrize(
    ("response", "question_type", "answer_type", "expected"),
    [
        ("No", "multi_choice", "text", "No"),
        ("no", "multi_choice", "text", ""),
        ("A", "multi_choice", "text", ""),
        ("007", "free_form", "integer", "7"),
        ("7.0", "free_form", "integer", ""),
        ("The answer is 7", "free_form", "integer", ""),
        (" 1.50 ", "free_form", "float", "1.5"),
        ("12", "free_form", "float", "12.0"),
        ("[1, 2]", "free_form", "list", ""),
        ("", "free_form", "integer", ""),
    ],
)
def test_extraction_without_a_judge(response, question_type, answer_type, expected):
    assert extract(response, question_type, answer_type, CHOICES) == expected


def reference_distance(first, second):
    """Levenshtein by its recursive definition."""

    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (first[i - 1] != second[j - 1]))

    return distance(len(first), len(second))


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    rng = random.Random(1)
    for _ in range(200):
        first, second = ("".join(rng.choice("abc") for _ in range(rng.randrange(8))) for _ in range(2))
        assert edit_distance(first, second) == reference_distance(first, second)


def row(**changes):
    base = {"pid": 1, "question_type": "multi_choice", "answer_type": "text", "choices": CHOICES, "precision": None, "answer": "No"}
    return {**base, **changes}


def score(response, **changes):
    return mathvista.score(mathvista.to_sample(row(**changes), 0), response, random.Random(0))


def test_a_supplied_extraction_replaces_the_rules():
    assert score(Response("No", extraction="A")).value == 0
    assert score(Response("whatever", extraction="(B)")).value == 1
    assert score(Response("", extraction="B")).reason == "parsed"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Response(""), "empty"),
        (Response("hm"), "unparsed"),
        (Response("hm", finish="length"), "truncated"),
        (Response("I can't"), "refused"),
    ],
)
def test_an_answer_not_extracted_gets_the_nearest_choice_and_says_so(response, reason):
    found = score(response)
    assert (found.reason, found.answer, found.value) == (reason, "No", 1.0)
    assert "nothing was extracted" in found.explanation


def test_the_label_and_the_floor():
    task = load_task("mathvista")
    samples = [mathvista.to_sample(row(pid=pid, answer=answer), 0) for pid, answer in ((1, "No"), (2, "Yes"))]

    def results(**extractions):
        return score_responses(task, samples, {pid: Response("x", extractions.get(f"of_{pid}")) for pid in "12"}).results

    assert (results()["scorer"], results()["floor"], results()["correct"]) == ("rules-only", 50.0, 1)
    assert results(of_1="A")["scorer"] == "rules-only"
    assert results(of_1="B", of_2="A")["scorer"] == "official"
    assert results(of_1="B", of_2="A")["headline"]["value"] == 100.0


def test_groups_count_an_item_in_each_of_its_skills():
    metadata = {
        "language": "english",
        "source": "GeoQA+",
        "category": "c",
        "task": "t",
        "context": "x",
        "grade": "g",
        "skills": ["s1", "s2"],
    }
    groups = list(mathvista.groups(mathvista.to_sample(row(metadata=metadata), 0)))
    assert len(groups) == 2 + 6 + 2
    assert groups[-2:] == [("skills", "s1"), ("skills", "s2")]
    assert len(list(mathvista.groups(mathvista.to_sample(row(), 0)))) == 2


def test_a_hint_for_every_type():
    assert hint("multi_choice", "text", None).endswith("e.g., A, B, C, D, at the end.")
    with pytest.raises(ValueError, match="precision"):
        hint("free_form", "float", 3.0)


def test_prompts_equal_the_authors(shared_data):
    rows = [json.loads(line) for line in (shared_data / "official/mathvista/items.jsonl").read_text().splitlines()]
    for item in rows:
        sample = mathvista.to_sample(item, 0)
        assert mathvista.ask_query(sample).inputs["text"] == item["query"]
        assert mathvista.ask_solution(sample).inputs["text"] == item["query_built_0shot_solution"]
    assert len(rows) == 1000
    assert load_task("mathvista-solution").ask is mathvista.ask_solution
