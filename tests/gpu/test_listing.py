"""The listing that `make test-gpu` prints without a GPU, and that the bounds of the contract can be missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import bands, run


def test_every_contract_test_says_what_it_is():
    """Each stands in the listing with a sentence of its own."""
    rows = run.contract()
    assert len(rows) > 15 and all(words.endswith(".") or len(words) > 20 for _, _, words in rows)
    assert len({words for _, _, words in rows}) == len(rows)


@pytest.mark.skipif(not run.missing(), reason="there it runs them")
def test_without_a_gpu_it_lists_and_ends_well():
    """Exit code 0, the list and the reasons, from a Python that has nothing installed."""
    command = [sys.executable, "-I", "-S", "-c"]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from tests.gpu import run; sys.exit(run.main([]))"
    asked = subprocess.run([*command, code], capture_output=True, text=True, check=True, timeout=60)
    assert (
        "not run here" in asked.stdout
        and "missing:\n  an NVIDIA GPU" in asked.stdout
        and "no Python module 'tensorrt'" in asked.stdout
    )
    for name in ("a second opening builds nothing", "graphs give the same", "int8-qdq"):
        assert name in asked.stdout


def test_bands_can_be_missed():
    """A wrong scale, a NaN and another shape are outside of every band; rounding is inside."""
    exact = {"y": np.linspace(-1, 1, 100)}
    single, half = {"y": exact["y"].astype(np.float32)}, {"y": exact["y"].astype(np.float16)}
    eighth = {"y": np.round(exact["y"] * 127) / 127}
    for precision, reading in (("fp32", single), ("fp16", half), ("bf16", half), ("int8-qdq", eighth)):
        bound = bands.allowed(precision, "y", reading, exact)
        assert bands.LEAST <= bound < 0.02
        assert bands.distance(reading["y"] * (1 + bound / 2), reading["y"]) < bound
        for wrong in (exact["y"] * 1.05, np.full(100, np.nan), exact["y"][:50]):
            assert bands.distance(wrong, reading["y"]) > bound
