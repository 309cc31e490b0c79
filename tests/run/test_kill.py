"""A run killed by SIGKILL at random moments ends as if it had never been disturbed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from workbench.run.bundle import Run, find_bundles

pytest.importorskip("torch", reason="runs the bundled model on PyTorch: pip install 'parity-workbench[torch]'")

pytestmark = pytest.mark.slow
ITEMS = 120
COMMAND = [sys.executable, "-m", "workbench", "eval", "mmmu-sample", "--model", "demo:vlm@torch", "--limit", str(ITEMS), "--json"]


def finish(folder):
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["runs"]
    return row, Run(folder / row["run"])


def test_killed_several_times_and_torn(tmp_path):
    generator = random.Random(20261121)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    _, reference = finish(whole)
    kills, seen = 0, 0
    while kills < 5:
        running = subprocess.Popen(COMMAND, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Moments are counted in finished items, not seconds: machines differ in speed, and every kill must hit a run.
        target = seen + generator.randint(3, 14)
        while running.poll() is None:
            journal = next(killed.glob("reports/runs/*/samples.jsonl"), None)
            if journal and journal.read_bytes().count(b"\n") >= target:
                time.sleep(generator.uniform(0, 0.02))
                running.kill()
            time.sleep(0.002)  # looking without a pause takes a core from the run
        running.wait()
        assert running.returncode == -signal.SIGKILL, "the run ended before it was killed"
        kills += 1
        data = journal.read_bytes()
        seen = data.count(b"\n")
        if generator.random() < 0.6:
            last = data.rstrip(b"\n").rpartition(b"\n")[2]
            journal.write_bytes(data + last[: generator.randint(1, len(last) - 1)])
        ((_, manifest),) = find_bundles(killed / "reports/runs")
        assert manifest["status"] == "running" and seen < ITEMS
    row, run = finish(killed)
    assert not row["was_complete"]
    assert [event["event"] for event in run.events()].count("session") == kills + 1
    expected, found = reference.items(), run.items()
    assert list(found) == list(expected) and len(found) == ITEMS
    for name, item in expected.items():
        assert (found[name]["input_hash"], found[name]["output"], found[name]["score"]) == (
            item["input_hash"],
            item["output"],
            item["score"],
        )
    same = ("headline", "groups", "correct", "random_fallbacks", "score_range_over_seeds", "item_errors")
    assert {name: run.results[name] for name in same} == {name: reference.results[name] for name in same}
    again, _ = finish(killed)
    assert again["was_complete"]


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    first = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("reports/runs/*/samples.jsonl")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # holds the bundle, and cannot finish before the second has come
    try:
        second = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and "another process is writing" in second.stderr
    assert first.wait() == 0
    ((folder, manifest),) = find_bundles(tmp_path / "reports/runs")
    assert manifest["status"] == "complete" and len(Run(folder).items()) == ITEMS
