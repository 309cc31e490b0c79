"""Bundles of two runtimes meet in an environment that has neither: its own venv, with the base dependencies alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = ("torch", "mlx", "mlx_vlm", "transformers", "tokenizers", "coremltools", "matplotlib", "httpx_sse")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Bundles made here, with the runtimes: torch, MLX, and torch on shrunken pictures."""
    for runtime in ("torch", "mlx_vlm"):
        pytest.importorskip(runtime, reason="needs a runtime to make the bundles")
    folder = tmp_path_factory.mktemp("runs")
    models = ["demo:vlm@torch", "demo:vlm@mlx", "demo:vlm@torch?max_pixels=2304"]
    command = [sys.executable, "-m", "workbench", "eval", "mmmu-sample", "--limit", "150", "--runs", str(folder), "--json"]
    command += [
        "--record",
        "media",
        "--record",
        "tokens",
        "--follow",
        models[0],
        *(part for each in models for part in ("--model", each)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The ``workbench`` command of a fresh venv with the wheel and its base dependencies. Needs a package index."""
    folder = tmp_path_factory.mktemp("bare")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("parity_workbench-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = f"import importlib.util as u; print([name for name in {RUNTIMES!r} if u.find_spec(name)])"
    assert call(python, folder, "-c", program).stdout.strip() == "[]", "the base install must bring no runtime"
    return folder / "venv" / "bin" / "workbench"


def call(command: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([str(command), *arguments], cwd=where, env=environment, capture_output=True, text=True, check=False)


def test_parity_report_pack_and_verify_without_any_runtime(runs, bare, tmp_path):
    folders = sorted(runs.iterdir(), key=lambda path: ("mlx" in path.name, "max" in path.name))
    torch_run, shrunken, mlx_run = folders
    packed = call(bare, tmp_path, "pack", str(mlx_run), "--out", "mlx.zip")
    assert packed.returncode == 0, packed.stderr
    same = call(bare, tmp_path, "parity", str(torch_run), "mlx.zip", "--json")
    assert same.returncode == 0, same.stdout + same.stderr
    (found,) = json.loads(same.stdout)["comparisons"]
    assert found["verdict"]["name"] == "EQUIVALENT" and found["verdict"]["n"] == 150
    assert {rung["number"]: rung["status"] for rung in found["rungs"]} == {
        1: "same",
        2: "same",
        3: "not run",
        4: "same",
        5: "same",
        6: "information",
    }
    different = call(bare, tmp_path, "parity", str(torch_run), str(shrunken))
    assert different.returncode == 1 and "The first rung that differs is 2 (inputs)" in different.stdout, different.stderr
    written = call(bare, tmp_path, "report", str(torch_run), "mlx.zip", str(shrunken), "--out", "page")
    assert written.returncode == 0, written.stderr
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "EQUIVALENT" in page and "DIFFERENT" in page and "data:image/" in page
    assert call(bare, tmp_path, "view", "page", "--no-open").stdout.strip().endswith("index.html")
    checked = call(bare, tmp_path, "verify", str(torch_run), str(shrunken), "mlx.zip")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_captures_made_apart_compare_without_any_runtime(bare, tmp_path):
    for runtime in ("torch", "mlx_vlm"):
        pytest.importorskip(runtime, reason="needs a runtime to make the captures")
    for machine, settings in (("torch", ["--keep"]), ("mlx", [])):
        command = [sys.executable, "-m", "workbench", "capture", f"demo:vlm@{machine}", "--inputs", "mmstar-sample", "--limit", "3"]
        done = subprocess.run(
            [*command, *settings, "--runs", str(tmp_path / machine)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr
    packed = call(bare, tmp_path, "pack", *map(str, (tmp_path / "mlx").iterdir()), "--out", "mlx.zip")
    assert packed.returncode == 0, packed.stderr
    (reference,) = (tmp_path / "torch").iterdir()
    compared = call(bare, tmp_path, "parity", str(reference), "mlx.zip", "--json")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    (found,) = json.loads(compared.stdout)["comparisons"]
    assert found["verdict"]["name"] == "AGREE" and found["verdict"]["n"] == 3
    tensors = next(rung for rung in found["rungs"] if rung["number"] == 3)
    assert tensors["status"] == "close" and tensors["facts"]["precision"] == "float32"
    assert len(tensors["facts"]["layers"]) == 18 and not tensors["facts"]["unaligned"]
    written = call(bare, tmp_path, "report", str(reference), "mlx.zip", "--out", "layers")
    assert written.returncode == 0, written.stderr
    assert "AGREE" in (tmp_path / "layers" / "index.html").read_text(encoding="utf-8")
    assert call(bare, tmp_path, "verify", str(reference), "mlx.zip").returncode == 0


def test_eval_says_what_to_install(bare, tmp_path):
    done = call(bare, tmp_path, "eval", "mmmu-sample", "--model", "demo:vlm@torch")
    assert done.returncode == 3 and "pip install" in done.stderr
