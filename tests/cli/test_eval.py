"""``workbench eval`` as a user types it: several models, suites, own evals, JSON, and doing nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.bundles import line, make_run
from workbench.cli.apart import command_of
from workbench.cli.main import build_parser, main
from workbench.run.bundle import Run

pytest.importorskip("torch", reason="these run the bundled model on PyTorch: pip install 'parity-workbench[torch]'")
DEMO = "demo:vlm@torch"


def parse(*words):
    return build_parser("eval").parse_args(["eval", *words])


def test_a_child_gets_every_flag_but_the_other_models():
    given = parse("demo", "--model", "a:x", "--model", "b:y", "--limit", "3", "--sample-id", "1", "--sample-id", "2", "--fresh")
    given.runs = Path("my runs")
    command = command_of(given, "b:y")
    assert parse(*command[command.index("eval") + 1 :]) == parse(
        *[
            "demo",
            "--model",
            "b:y",
            "--json",
            "--limit",
            "3",
            "--sample-id",
            "1",
            "--sample-id",
            "2",
            "--fresh",
            "--runs",
            "my runs",
        ]
    )


def test_two_runtimes_in_one_command_answer_alike(tmp_path):
    pytest.importorskip("mlx", reason="pip install 'parity-workbench[mlx]'")
    command = [sys.executable, "-m", "workbench", "eval", "demo", "--model", DEMO, "--model", "demo:vlm@mlx", "--limit", "15"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["runs"]
    assert [(row["task"], row["model"]) for row in rows] == [
        (task, model)
        for model in (DEMO, "demo:vlm@mlx")
        for task in ("mmmu-sample", "mmstar-sample", "ocrbench-sample", "mathvista-sample")
    ]
    runs = [Run(tmp_path / row["run"]) for row in rows]
    for first, second in zip(runs[:4], runs[4:], strict=True):
        one, other = first.items(), second.items()
        assert [(name, item["input_hash"]) for name, item in one.items()] == [
            (name, item["input_hash"]) for name, item in other.items()
        ]
        differing = [name for name in one if one[name]["output"]["value"] != other[name]["output"]["value"]]
        assert len(differing) <= 1, differing
    assert runs[0].manifest["evidence"] == "host" and runs[0].results["performance"]["peak_memory_bytes"] > 1e7
    table = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert table.returncode == 0 and table.stderr.count("is complete already") == 8
    assert table.stdout.count("bundle: ") == 8 and "95 % interval" in table.stdout and "next: workbench" in table.stdout


def test_a_runtime_that_is_not_here_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main(["eval", "mmstar-sample", "--model", "tpu:x/y", "--model", DEMO, "--limit", "2"])
    said = capfd.readouterr()
    assert code == 2 and "unknown runtime 'tpu'" in said.err
    assert "demo:vlm@torch" in said.out


def test_the_template_eval_runs_by_path_and_scores_again(tmp_path, capsys, monkeypatch):
    template = Path(__file__).resolve().parents[2] / "evals" / "template_eval.py"
    assert len(template.read_text().splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(template.read_text())
    assert main(["eval", "mine.py", "--model", DEMO, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["n"] == 3 and row["task"] == "my-eval"
    assert main(["score", row["run"], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["headline"] == row["headline"] and again["changed"] == []


def test_scoring_a_run_again_mends_scores_and_leaves_answers(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "mmmu-sample", "--model", DEMO, "--limit", "8", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    journal = tmp_path / row["run"] / "samples.jsonl"
    before = journal.read_text()
    lines = [json.loads(line) for line in before.splitlines()]
    lines[2]["score"] = {**lines[2]["score"], "value": 1 - lines[2]["score"]["value"]}
    journal.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines))
    assert main(["score", row["run"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == [lines[2]["id"]]
    assert journal.read_text() == before


def test_shards_put_together_score_like_the_whole(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def evaluate(*more):
        assert main(["eval", "mmstar-sample", "--model", DEMO, "--batch-size", "16", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["runs"][0]

    parts = [evaluate("--shard", f"{number}/3")["run"] for number in (1, 2, 3)]
    whole = evaluate()
    assert main(["score", *parts, "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)
    for name in ("n", "scored", "correct", "headline", "groups", "interval", "random_fallbacks", "item_errors"):
        assert merged[name] == whole[name], name
    assert merged["missing"] == 0
    assert main(["score", *parts[:2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] > 0
    assert main(["score", parts[0], parts[0]]) == 2 and "another run holds too" in capsys.readouterr().err
    assert main(["score", parts[0], evaluate("--limit", "3", "--max-tokens", "5")["run"]]) == 2
    assert "generation.max_tokens: 32 and 5" in capsys.readouterr().err
    assert main(["score", "mmstar", parts[0]]) == 2 and "is no folder of a run" in capsys.readouterr().err


def test_the_next_command_compares_with_what_was_followed(tmp_path):
    from workbench.cli.eval import next_command

    done = make_run(tmp_path, "onnx:a", [line("1", 1.0)])
    assert next_command([done], ["demo:vlm@torch"]) == f"workbench parity {tmp_path} --reference demo:vlm@torch"
    assert next_command([done], [str(tmp_path)]) == next_command([done]) == f"workbench list runs --runs {tmp_path}"
