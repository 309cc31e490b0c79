"""A loaded program leaves alone what it was given, what it gave, and what lies on disk; and it starts quietly."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.editing import weight_file
from workbench.mil import load
from workbench.mil.package import protocol
from workbench.mil.program import PRECISIONS

WEIGHT = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)


def unchanged(x: Any) -> Any:
    """Outputs that lie in memory of others: the input, a constant, a part of another output."""
    y = mb.add(x=x, y=np.float32(1))
    return mb.identity(x=x, name="same"), mb.reshape(x=y, shape=(64, 2), name="shaped"), y, mb.identity(x=WEIGHT, name="held")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save(unchanged, {"x": X}, tmp_path)


def digest(package: Path) -> str:
    files = sorted(path for path in package.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_outputs_belong_to_the_caller(precision: str, package: Path) -> None:
    before, program = digest(package), load(package, precision=precision)
    given = X.copy()
    first = program.predict({"x": given})
    wanted = {name: value.copy() for name, value in first.items()}
    given[:] = 7
    program.predict({"x": X + 5})
    for name, value in first.items():
        np.testing.assert_array_equal(value, wanted[name])
    for value in first.values():
        value[...] = np.nan
    again = program.predict({"x": X})
    for name, value in wanted.items():
        np.testing.assert_array_equal(again[name], value)
    np.testing.assert_array_equal(again["held"], WEIGHT)
    assert digest(package) == before


def test_states_belong_to_whoever_made_them(tmp_path: Path) -> None:
    def build(x: Any, total: Any) -> Any:
        old = mb.read_state(input=total)
        new = mb.coreml_update_state(state=total, value=mb.add(x=old, y=x))
        return mb.identity(x=old, name="old"), mb.identity(x=new, name="new")

    program = load(save(build, {"x": np.ones(3, np.float16)}, tmp_path, since="iOS18", states={"total": ((3,), np.float16)}))
    one, other = program.make_state(), program.make_state()
    given = np.array([1, 2, 3], np.float16)
    first = program.predict({"x": given}, state=one)
    given[:] = 100
    first["new"][:] = 50
    np.testing.assert_array_equal(one.read("total"), [1, 2, 3])
    np.testing.assert_array_equal(other.read("total"), [0, 0, 0])
    second = program.predict({"x": [1, 1, 1]}, state=one)
    np.testing.assert_array_equal(second["old"], [1, 2, 3])
    np.testing.assert_array_equal(second["new"], [2, 3, 4])
    one.write("total", [9, 9, 9])
    np.testing.assert_array_equal(second["new"], [2, 3, 4])
    np.testing.assert_array_equal(first["old"], [0, 0, 0])


def test_a_program_outlives_its_files(package: Path) -> None:
    program, wanted = load(package), load(package).predict({"x": X})
    shutil.rmtree(package)
    assert not weight_file(package).exists()
    for name, value in program.predict({"x": X}).items():
        np.testing.assert_array_equal(value, wanted[name])


def test_two_programs_of_one_package_are_independent(package: Path) -> None:
    one, other = load(package), load(package, precision="float64")
    one.predict({"x": X})["held"][:] = 0
    np.testing.assert_array_equal(other.predict({"x": X})["held"], WEIGHT)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "default::UserWarning"},
    )


def test_what_is_imported_when() -> None:
    heavy = "[name for name in ('torch', 'coremltools', 'PIL', 'numpy') if name in sys.modules]"
    done = python(f"import sys, workbench.mil; print({heavy}); from workbench.mil import load; print({heavy})")
    assert done.returncode == 0, done.stderr
    nothing, some = done.stdout.splitlines()
    assert nothing == "[]" and "torch" in some and "coremltools" not in some and "PIL" not in some


def test_loading_and_running_prints_nothing(package: Path) -> None:
    done = python(
        f"import numpy as np; from workbench.mil import load; p = load({str(package)!r}); p.predict({{'x': np.ones((2, 64))}})"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_level_of_the_converters_log_is_left_as_it_was() -> None:
    logger = logging.getLogger("coremltools")
    before = logger.level
    try:
        logger.setLevel(logging.INFO)
        protocol()
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import workbench.mil

    with pytest.raises(AttributeError, match="'Programme'"):
        _ = workbench.mil.Programme
