"""The family that the README shows is a whole one: it runs by path, and agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_readmes_family_runs_by_path(tmp_path):
    for runtime in ("torch", "mlx_vlm"):
        pytest.importorskip(runtime, reason="needs torch and mlx-vlm (pip install 'parity-workbench[torch,mlx]')")
    from workbench.capture.zoo.run import run_zoo

    (code,) = re.findall(r"```python\n# my_family\.py.*?\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "my_family.py"
    path.write_text(code, encoding="utf-8")
    run = run_zoo([path], layouts=["hub"], runs=tmp_path / "runs")
    (line,) = run.items().values()
    assert line["row"]["verdict"] == "agrees" and line["row"]["max_relative_error"] <= 2e-5
    assert line["row"]["family"] == "llava" and line["row"]["inputs"] == 1
