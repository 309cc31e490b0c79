"""``workbench score``: one table of what can be wrong, and what a good call prints."""

import argparse
import json

import pytest

from workbench.cli import score
from workbench.errors import WorkbenchError

ITEMS = {
    "mmmu": [
        {"id": f"validation_Art_{k}", "question_type": "multiple-choice", "options": "['x', 'y']", "answer": "A"}
        for k in range(1, 4)
    ],
    "mmstar": [{"index": k, "answer": "B", "category": "math", "l2_category": "geometry"} for k in range(3)],
    "ocrbench": [{"dataset": "IIIT5K", "question_type": "Regular Text Recognition", "answer": ["one"]} for _ in range(3)],
    "mathvista": [
        {"pid": str(k), "question_type": "free_form", "answer_type": "integer", "choices": None, "precision": None, "answer": "4"}
        for k in range(3)
    ],
}
IDS = {
    "mmmu": [f"validation_Art_{k}" for k in range(1, 4)],
    "mmstar": [0, 1, 2],
    "ocrbench": [0, 1, 2],
    "mathvista": ["0", "1", "2"],
}
RIGHT = {"mmmu": "A", "mmstar": "(B)", "ocrbench": "It is ONE.", "mathvista": "4"}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def predictions(task, texts=None):
    return [{"id": name, "response": text} for name, text in zip(IDS[task], texts or [RIGHT[task]] * 3, strict=False)]


def run(*words):
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, words)])
    return args.run(args)


def score_json(capsys, tmp_path, task, lines, *more, items=None):
    rows = write(tmp_path / "items.jsonl", items or ITEMS[task])
    assert run(task, "--items", rows, "--predictions", write(tmp_path / "p.jsonl", lines), "--json", *more) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.mark.parametrize("task", ITEMS)
def test_every_benchmark_with_only_the_columns_that_scoring_reads(capsys, tmp_path, task):
    results = score_json(capsys, tmp_path, task, predictions(task))
    assert (results["task"], results["n"], results["scored"], results["correct"]) == (task, 3, 3, 3)
    assert results["headline"]["value"] == (3 if task == "ocrbench" else 100.0)
    assert results["scorer"] == ("rules-only" if task == "mathvista" else "official")
    assert set(results) >= {"groups", "per_item", "random_fallbacks", "score_range_over_seeds", "reasons", "interval"}
    assert list(results["per_item"]) == [str(name) for name in IDS[task]]


@pytest.mark.parametrize("task", ITEMS)
def test_parquet_items_give_the_same(capsys, tmp_path, task):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = score_json(capsys, tmp_path, task, predictions(task))
    rows = [{**row, "image": {"bytes": b"never read", "path": None}} for row in ITEMS[task]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "items.parquet")
    run(task, "--items", tmp_path / "items.parquet", "--predictions", tmp_path / "p.jsonl", "--json")
    assert json.loads(capsys.readouterr().out) == expected


def test_fallbacks_come_with_their_range(capsys, tmp_path):
    results = score_json(capsys, tmp_path, "mmmu", predictions("mmmu", ["(A)", "nothing", ""]))
    assert results["random_fallbacks"] == 2
    assert results["score_range_over_seeds"] == [pytest.approx(100 / 3), 100.0]
    assert [item["reason"] for item in results["per_item"].values()] == ["parsed", "unparsed", "empty"]


def test_odd_answers_are_still_json(capsys, tmp_path):
    items = [{"id": f"validation_Art_{k}", "question_type": "open", "options": "[]", "answer": "7"} for k in range(1, 4)]
    lines = predictions("mmmu", ["nan", "inf", '\ud800 {"a": 1}'])
    results = score_json(capsys, tmp_path, "mmmu", lines, items=items)
    assert results["per_item"]["validation_Art_1"]["answer"] == ["nan"]


def test_partial_scores_what_is_there_and_says_what_is_not(capsys, tmp_path):
    results = score_json(capsys, tmp_path, "ocrbench", predictions("ocrbench")[:2], "--partial")
    assert (results["n"], results["scored"], results["missing"], results["headline"]["of"]) == (3, 2, 1, 1000)


def test_extractions_make_mathvista_official(capsys, tmp_path):
    lines = [{**line, "response": "four", "extraction": "4"} for line in predictions("mathvista")]
    results = score_json(capsys, tmp_path, "mathvista", lines)
    assert (results["scorer"], results["correct"], results["floor"]) == ("official", 3, 0.0)


def test_the_table_names_score_interval_and_groups(capsys, tmp_path):
    rows, lines = write(tmp_path / "i.jsonl", ITEMS["mmmu"]), write(tmp_path / "p.jsonl", predictions("mmmu", ["A", "B", "hm"])[:3])
    assert run("mmmu", "--items", rows, "--predictions", lines) == 0
    text = capsys.readouterr().out
    parts = ("mmmu (scorer official", "95 % interval", "Wilson", "random fallbacks", "200 other seeds", "Overall-Art and Design")
    assert [part for part in (*parts, "1 unparsed") if part not in text] == []


def test_without_items_the_tasks_own_data_are_used(capsys, tmp_path):
    task = score.load_task("evals/template_eval.py")
    lines = [{"id": sample.id, "response": sample.target} for sample in task.load().samples]
    assert run("evals/template_eval.py", "--predictions", write(tmp_path / "p.jsonl", lines), "--json") == 0
    assert json.loads(capsys.readouterr().out)["headline"]["value"] == 100.0


GOOD = predictions("mmmu")


@pytest.mark.parametrize(
    ("task", "items", "lines", "message"),
    [
        ("mmmuu", ITEMS["mmmu"], GOOD, "unknown task 'mmmuu'"),
        ("mmmu", ITEMS["mmmu"], [*GOOD, GOOD[0]], "1 item has more than one prediction"),
        ("mmmu", ITEMS["mmmu"], [*GOOD, {"id": "validation_Art_9", "response": "A"}], "1 prediction has no item"),
        ("mmmu", ITEMS["mmmu"], GOOD[:1], "2 items have no prediction"),
        ("mmmu", ITEMS["mmmu"], [GOOD[0], '{"id": "valid'], "line 2 of 'p.jsonl'"),
        ("mmmu", ITEMS["mmmu"], [], "holds no predictions"),
        ("mmmu", [{"id": "a", "question_type": "open", "answer": "x"}], GOOD, "lacks the column 'options'"),
        ("mmmu", [*ITEMS["mmmu"], ITEMS["mmmu"][1]], GOOD, "ids of items.jsonl occur more than once"),
        ("mmmu", [*ITEMS["mmmu"], "{"], GOOD, "line 4 of 'items.jsonl'"),
        ("mmmu", [], GOOD, "holds no rows"),
        ("mmstar", ITEMS["mmmu"], GOOD, "lacks the column 'index'"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_printed(capsys, tmp_path, task, items, lines, message):  # noqa: PLR0917
    rows, answers = write(tmp_path / "items.jsonl", items), write(tmp_path / "p.jsonl", lines)
    with pytest.raises(WorkbenchError, match=message) as caught:
        run(task, "--items", rows, "--predictions", answers)
    assert caught.value.exit_code == 2
    assert caught.value.why or caught.value.fix or "holds no" in message
    assert capsys.readouterr().out == ""


def test_files_that_are_not_there(tmp_path):
    rows = write(tmp_path / "items.jsonl", ITEMS["mmmu"])
    with pytest.raises(WorkbenchError, match="no predictions were given"):
        run("mmmu", "--items", rows)
    with pytest.raises(WorkbenchError, match="no predictions file"):
        run("mmmu", "--items", rows, "--predictions", tmp_path / "none.jsonl")
    with pytest.raises(WorkbenchError, match="no rows file"):
        run("mmmu", "--items", tmp_path / "none.jsonl", "--predictions", write(tmp_path / "p.jsonl", GOOD))


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(WorkbenchError, match="is not a run"):
        run(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(WorkbenchError, match="a run holds its own items"):
        run(tmp_path, "--partial")


def test_a_run_folder_is_scored_again(tmp_path, monkeypatch, capsys):
    import sys
    import types

    rows, lines = write(tmp_path / "i.jsonl", ITEMS["mmstar"]), write(tmp_path / "p.jsonl", predictions("mmstar"))
    results = score.score_files(score.load_task("mmstar"), rows, lines)
    seen = []
    fake = types.ModuleType("workbench.run.rescore")
    fake.rescore = lambda folder, profile: seen.append((folder, profile)) or {**results, "changed": ["1"]}
    monkeypatch.setitem(sys.modules, "workbench.run.rescore", fake)
    (tmp_path / "manifest.json").write_text("{}")
    assert run(tmp_path) == 0
    assert seen == [(tmp_path, None)]
    assert "1 items score differently" in capsys.readouterr().out
