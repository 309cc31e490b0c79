"""Every notebook runs from top to bottom, and is committed without outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.convert.converted_models import folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FEWER = {
    "01_first_look": {'record=["media"])': 'record=["media"], limit=120)'},
    "04_speech_recognition": {"N = 36": "N = 12"},
    "05_three_runtimes_one_report": {
        "N = 24": "N = 4",
        'if name != "torch":': 'if name != "torch" and (model, name) != ("stt", "TensorRT fp16"):',  # whose conversion costs most
    },
}
"""What a copy says instead, so that less goes through the same cells; ``WORKBENCH_WHOLE_TESTS=1`` (``make bench``) leaves it."""


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    pytest.importorskip("nbmake", reason="needs nbmake (pip install 'parity-workbench[dev]')")
    for runtime in ("torch", "mlx_vlm"):
        pytest.importorskip(runtime, reason=f"the notebook runs {runtime}")
    (tmp_path / "notebooks").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "notebooks" / path.name))  # runs and reports go beside the copy
    if path.stem in FEWER and not os.environ.get("WORKBENCH_WHOLE_TESTS"):
        text = copy.read_text(encoding="utf-8")
        for code, less in FEWER[path.stem].items():
            many, few = (json.dumps(each, ensure_ascii=False)[1:-1] for each in (code, less))
            assert many in text
            text = text.replace(many, few)
        copy.write_text(text, encoding="utf-8")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": paths, "WORKBENCH_CACHE": str(folder())}
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-q", "-p", "no:cacheprovider", str(copy)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert list(tmp_path.glob("reports/**/index.html")), "the notebook says it writes a report"
