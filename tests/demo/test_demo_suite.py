"""What `make demo` claims: the bundled model on MLX is equivalent to itself on PyTorch, on the 1,600 items of the demo suite.

A quarter of each task is asked here, all of them where ``WORKBENCH_WHOLE_TESTS`` is set (``make bench``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for runtime in ("torch", "mlx_vlm"):
    pytest.importorskip(runtime, reason="the demo suite runs on both runtimes")

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE, CANDIDATE = "demo:vlm@torch", "demo:vlm@mlx"
A_TASK = 400 if os.environ.get("WORKBENCH_WHOLE_TESTS") else 100


def workbench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "workbench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_torch_and_mlx_are_equivalent_on_the_pooled_suite(tmp_path):
    models = ("--model", REFERENCE, "--model", CANDIDATE)
    recorded = ("--record", "tokens", "--follow", REFERENCE, "--limit", str(A_TASK))
    done = workbench("eval", "demo", *models, *recorded, "--runs", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    compared = workbench("parity", str(tmp_path), "--reference", REFERENCE, "--margin", "2.0", "--gate", "--json")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    (found,) = json.loads(compared.stdout)["comparisons"]
    assert (found["verdict"]["name"], found["verdict"]["n"]) == ("EQUIVALENT", 4 * A_TASK)
    tasks = {each["name"]: each for each in found["strata"] if each["axis"] == "task"}
    assert {name: each["n"] for name, each in tasks.items()} == dict.fromkeys(
        ("mathvista-sample", "mmmu-sample", "mmstar-sample", "ocrbench-sample"), A_TASK
    )
    rungs = {rung["number"]: rung for rung in found["rungs"]}
    assert (rungs[1]["status"], rungs[2]["status"]) == ("same", "same")
    assert rungs[4]["facts"]["items"] == 4 * A_TASK and rungs[4]["facts"]["kl_mean"] < 1e-6
    assert workbench("verify", *(str(path) for path in tmp_path.iterdir())).returncode == 0
