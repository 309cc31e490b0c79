"""Item for item against the results of the authors' own scorers (WORKBENCH_SHARED_DATA)."""

import json
import random

import pytest

from workbench.cli.score import read_items, score_files
from workbench.data.predictions import read_predictions
from workbench.tasks.catalogue import load_task
from workbench.tasks.scoring import score_responses
from workbench.types import Response

FILES = [
    ("mmmu", "llava1.5_13b"),
    ("ocrbench", "llava_v0_2023"),
    ("ocrbench", "openflamingo_2023"),
    ("mathvista", "gpt4_2shot_code"),
    ("mathvista", "llavar"),
    ("mathvista", "random_guess"),
]


def official(folder, task, model):
    """(results here, the authors' results)."""
    base = folder / "official" / task
    found = score_files(load_task(task), base / "items.jsonl", base / "predictions" / f"{model}.jsonl", partial=task == "ocrbench")
    return found, json.loads((base / "expected" / f"{model}.json").read_text())


def test_every_shared_file_is_compared(shared_data):
    names = {(path.parts[-3], path.stem) for path in (shared_data / "official").glob("*/predictions/*.jsonl")}
    assert names == set(FILES)


@pytest.mark.parametrize(("task", "model"), FILES)
def test_item_for_item(shared_data, task, model):
    found, expected = official(shared_data, task, model)
    assert {name: item["correct"] for name, item in found["per_item"].items()} == expected["per_item"]
    assert found["correct"] == expected["correct"]
    assert found["scored"] == expected.get("n", expected.get("n_answered"))


def test_mmmu_groups_and_fallbacks(shared_data):
    found, expected = official(shared_data, "mmmu", "llava1.5_13b")
    groups = {**found["groups"]["subject"], **found["groups"]["discipline"]}
    for name, group in expected["groups"].items():
        if name == "Overall":
            assert round(found["headline"]["value"] / 100, 3) == group["acc"]
        else:
            assert (groups[name]["n"], round(groups[name]["value"] / 100, 3)) == (group["num"], group["acc"])
    assert len(groups) == len(expected["groups"]) - 1
    assert found["random_fallbacks"] == expected["random_fallbacks"] == 2
    low, high = found["score_range_over_seeds"]
    assert low <= found["headline"]["value"] <= high


def test_the_order_of_the_answers_and_items_changes_nothing(shared_data):
    base = shared_data / "official/mmmu"
    task = load_task("mmmu")
    samples = list(read_items(task, base / "items.jsonl"))
    responses = read_predictions(base / "predictions/llava1.5_13b.jsonl")
    expected = score_responses(task, samples, responses).results
    random.Random(3).shuffle(samples)
    found = score_responses(task, samples, dict(reversed(responses.items()))).results
    assert found["per_item"] == expected["per_item"]
    assert found["headline"] == expected["headline"]


@pytest.mark.parametrize("model", ["llava_v0_2023", "openflamingo_2023"])
def test_ocrbench_types(shared_data, model):
    found, expected = official(shared_data, "ocrbench", model)
    groups = {name: {"num": group["n"], "correct": group["correct"]} for name, group in found["groups"]["type"].items()}
    assert groups == expected["groups"]
    assert found["headline"]["of"] == 1000
    assert found["headline"]["value"] == expected["correct"]


@pytest.mark.parametrize("model", [model for task, model in FILES if task == "mathvista"])
def test_mathvista_with_and_without_extractions(shared_data, model):
    found, expected = official(shared_data, "mathvista", model)
    assert (found["scorer"], found["floor"]) == ("official", pytest.approx(16.8))
    for axis in ("question_type", "answer_type"):
        groups = {name: (group["correct"], group["n"]) for name, group in found["groups"][axis].items()}
        assert groups == {name: (group["correct"], group["total"]) for name, group in expected["groups"][axis].items()}
    base = shared_data / "official/mathvista"
    task = load_task("mathvista")
    plain = {name: Response(each.text) for name, each in read_predictions(base / f"predictions/{model}.jsonl").items()}
    rules = score_responses(task, read_items(task, base / "items.jsonl"), plain).results
    assert (rules["scorer"], rules["correct"]) == ("rules-only", expected["rules_only_correct"])
