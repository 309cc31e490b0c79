import json
import random

import pytest

from workbench.errors import DataError
from workbench.metrics.accuracy import ACCURACY
from workbench.tasks.reasons import is_refusal
from workbench.tasks.scoring import OTHER_SEEDS, score_responses
from workbench.types import Metric, Request, Response, Sample, Score, Task


def guess(sample, response, rng):
    """Right when the response is the target; "?" draws a letter."""
    if response.text == "?":
        letter = rng.choice("ABCD")
        return Score.of(letter == sample.target, letter, "unparsed", random=True)
    return Score.of(response.text == sample.target, response.text)


def task(**changes):
    ask = lambda sample: Request(sample.inputs, "test")  # noqa: E731
    base = {"name": "toy", "version": "1", "family": "vision-language", "card": None, "ask": ask, "score": guess}
    return Task(**{**base, "metrics": (ACCURACY,), "headline": "accuracy", **changes})


def samples(count):
    return [Sample(str(index), {}, "ABCD"[index % 4], str(index), {"half": index % 2}) for index in range(count)]


def test_one_random_stream_runs_over_the_whole_set_in_the_tasks_order():
    items = samples(40)
    responses = {item.id: Response("?" if index % 3 else item.target) for index, item in enumerate(items)}
    backwards = task(order=lambda found: sorted(found, key=lambda sample: -int(sample.id)))
    found = score_responses(backwards, items, responses)
    random.seed(42)  # the authors' way: the module's own stream, seeded once
    expected = {item.id: random.choice("ABCD") for item in reversed(items) if responses[item.id].text == "?"}
    assert {name: score.answer for name, score in found.scores.items() if score.random} == expected
    assert list(found.scores) == [item.id for item in items]
    assert found.results["random_fallbacks"] == len(expected)


def test_the_range_over_seeds_is_that_of_scoring_anew():
    items = samples(30)
    responses = {item.id: Response("?" if index % 4 == 0 else "A") for index, item in enumerate(items)}
    low, high = score_responses(task(), items, responses).results["score_range_over_seeds"]
    others = [seed for seed in range(OTHER_SEEDS + 1) if seed != 42]
    values = [score_responses(task(seed=seed), items, responses).results["headline"]["value"] for seed in others]
    assert len(others) == 200
    assert (low, high) == (min(values), max(values))


def test_without_fallbacks_there_is_no_range():
    results = score_responses(task(), samples(4), {"0": Response("A")}).results
    assert results["score_range_over_seeds"] is None
    assert results["random_fallbacks"] == 0


def test_a_seed_can_be_given():
    items = samples(20)
    responses = {item.id: Response("?") for item in items}
    assert (
        score_responses(task(), items, responses, seed=7).results["per_item"]
        == score_responses(task(seed=7), items, responses).results["per_item"]
    )


def test_fields_and_counts():
    items = samples(4)
    responses = {"0": Response("A"), "1": Response("x"), "3": Response("?")}
    results = score_responses(
        task(groups=lambda sample: [("half", str(sample.meta["half"]))], chance=lambda sample: 0.25), items, responses
    ).results
    assert (results["task"], results["scorer"], results["n"], results["scored"], results["missing"]) == ("toy", "official", 4, 3, 1)
    assert results["groups"]["half"]["0"] == {"n": 1, "correct": 1, "value": 100.0}
    assert results["groups"]["half"]["1"]["n"] == 2
    assert results["per_item"]["1"] == {"correct": False, "answer": "x", "reason": "parsed"}
    assert results["per_item"]["3"]["random"] is True
    assert results["reasons"] == {"parsed": 2, "unparsed": 1}
    assert results["chance"] == 0.25
    json.dumps(results, allow_nan=False)


def test_failed_items_count_as_wrong_and_draw_nothing():
    items = samples(3)
    failed = {"1": Score.of(False, None, "error")}
    found = score_responses(task(), items, {"0": Response("?"), "2": Response("?")}, fixed=failed)
    rng = random.Random(42)
    assert [found.scores[name].answer for name in "012"] == [rng.choice("ABCD"), None, rng.choice("ABCD")]
    assert (found.results["scored"], found.results["reasons"]["error"]) == (3, 1)


def test_nothing_scored_has_no_value():
    results = score_responses(task(), samples(2), {}).results
    assert (results["headline"]["value"], results["interval"], results["scored"]) == (None, None, 0)


def test_scores_that_are_not_right_or_wrong_have_no_interval():
    mean = Metric("mean", lambda scores: sum(score.value for score in scores) / len(scores), unit="fraction")
    graded = task(metrics=(mean,), headline="mean", score=lambda sample, response, rng: Score(0.5, None, "parsed", {"total": 1}))
    results = score_responses(graded, samples(2), {"0": Response("x"), "1": Response("y")}).results
    assert (results["headline"]["value"], results["correct"], results["interval"]) == (0.5, None, None)
    assert results["per_item"]["0"]["value"] == 0.5


def test_responses_to_unknown_items_are_refused():
    with pytest.raises(DataError, match="1 responses belong to no item"):
        score_responses(task(), samples(2), {"9": Response("A")})


def test_details_are_added_and_may_name_the_scorer():
    results = score_responses(
        task(details=lambda *_: {"scorer": "rules-only", "floor": 5.0}), samples(1), {"0": Response("A")}
    ).results
    assert (results["scorer"], results["floor"]) == ("rules-only", 5.0)


@pytest.mark.parametrize(
    ("text", "refused"), [("I\u2019m sorry, but no", True), ("  As an AI model", True), ("The sorry king", False), ("", False)]
)
def test_refusals(text, refused):
    assert is_refusal(text) is refused
