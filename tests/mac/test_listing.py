"""The listing that `make test-mac` prints off a Mac, and that the bounds of the contract can be missed."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest

from tests.mac import bands, run


def test_every_contract_test_says_what_it_is():
    """Each stands in the listing with a sentence of its own."""
    rows = run.contract()
    assert len(rows) > 12 and all(words.endswith(".") or len(words) > 20 for _, _, words in rows)
    assert len({words for _, _, words in rows}) == len(rows)


@pytest.mark.skipif(platform.system() == "Darwin", reason="there it runs them")
def test_off_a_mac_it_lists_and_ends_well():
    """Exit code 0, the list, and the reason."""
    asked = subprocess.run([sys.executable, "-m", "tests.mac.run"], capture_output=True, text=True, check=True, timeout=60)
    assert "not run here: needs macOS" in asked.stdout
    for name in ("an abort is recorded", "steps follow each other", "CPU_AND_NE"):
        assert name in asked.stdout


def test_bands_can_be_missed():
    """A wrong scale, a NaN and another shape are outside of every band; rounding is inside."""
    exact = {"y": np.linspace(-1, 1, 100)}
    half = {"y": exact["y"].astype(np.float16)}
    single = {"y": exact["y"].astype(np.float32)}
    for precision, reading in (("fp32", single), ("fp16", half)):
        for units in run.UNITS:
            bound = bands.allowed("y", precision, units, exact, [reading])
            assert bands.distance(reading["y"], exact["y"]) <= bound < 0.01
            assert bands.distance(exact["y"] * 1.05, exact["y"]) > bound
            assert bands.distance(np.full(100, np.nan), exact["y"]) > bound
            assert bands.distance(exact["y"][:50], exact["y"]) > bound
    assert bands.allowed("y", "fp32", "CPU_ONLY", exact, [single]) < bands.allowed("y", "fp32", "ALL", exact, [single])
