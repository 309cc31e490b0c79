"""The wheel carries everything: suites, cards, samples, the demo model; it works in an empty folder, far from the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel unpacked by pip, without the checkout on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("parity_workbench-*.whl")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def run(installed: Path, where: Path, *command: str) -> subprocess.CompletedProcess:
    """Run with the installed copy first on the path (a ``--target`` folder wins over an editable install)."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *command], cwd=where, env=environment, capture_output=True, text=True, check=False)


def test_everything_bundled_is_found_in_the_wheel(installed, tmp_path):
    program = (
        "import json; from workbench import locate; import workbench\n"
        "print(json.dumps([workbench.__file__, str(locate.find('evals/demo.toml')), str(locate.find('datasets/samples/mmmu')), "
        "str(locate.demo_model('vlm'))]))"
    )
    done = run(installed, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    for path in json.loads(done.stdout):
        assert Path(path).is_relative_to(installed), path


def test_the_installed_command_evaluates_in_an_empty_folder(installed, tmp_path):
    pytest.importorskip("torch", reason="needs a runtime: pip install 'parity-workbench[torch]'")
    done = run(installed, tmp_path, "-m", "workbench", "eval", "mmmu-sample", "--model", "demo:vlm@torch", "--limit", "3", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["runs"]
    assert row["n"] == 3 and (tmp_path / row["run"] / "samples.jsonl").read_text().count("\n") == 3
    listed = run(installed, tmp_path, "-m", "workbench", "list", "--json")
    assert len(json.loads(listed.stdout)["runs"]) == 1


def test_third_party_and_licence_texts_are_in_the_wheel(installed):
    names = {path.name for path in installed.rglob("*.dist-info/licenses/*")}
    assert {"LICENSE", "THIRD_PARTY_NOTICES.md"} <= names
