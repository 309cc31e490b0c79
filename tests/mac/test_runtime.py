"""What the worker and Apple's runtime owe each other, on programs of a few operations."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from tests.backends.coreml_packages import WEIGHT
from tests.mac.conftest import MAC, RUNTIME
from workbench.backends.coreml_process import DeviceFailure
from workbench.errors import ItemError, ModelError

ONES = {"x": np.ones((2, 3), np.float32), "n": np.array([7])}


def test_sizes_that_vary(device, coreml_plain, units):
    """A program with a range of shapes gives the right numbers at its ends and between."""
    program = device(coreml_plain, None, units)
    for rows in (1, 7, 64, 7):
        given = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4)
        np.testing.assert_allclose(program({"x": given})["y"], np.maximum(given @ WEIGHT.T, 0) + 1, rtol=2e-3, atol=2e-3)


def test_functions_of_one_package(device, coreml_both, units):
    """Both functions of a multifunction package load by name (macOS 15) and are what they were."""
    first, second = device(coreml_both, "first", units), device(coreml_both, "second", units)
    assert [spec.name for spec in first.outputs] == ["y"] and [spec.name for spec in second.outputs] == ["y", "count"]
    assert second(ONES, second.make_state())["count"].tolist() == [8]


def test_states_are_read_written_and_copied(device, coreml_counter, units):
    """fp16 states cross the binding as float32 and come back the same; a copy goes its own way."""
    program = device(coreml_counter, None, units)
    state = program.make_state()
    given = np.array([[1.5, -2.25, 0.0999755859375]] * 2, np.float16)
    state.write("total", given)
    np.testing.assert_array_equal(state.read("total"), given)
    copied = state.copy()
    np.testing.assert_allclose(program(ONES, state)["y"], given.astype(np.float32) + 1, atol=2e-3)
    np.testing.assert_array_equal(copied.read("total"), given)
    assert state.read("total").dtype == np.float16 and not np.array_equal(state.read("total"), given)


def test_values_inside_come_out(device, coreml_plain, units):
    """A copy of the package with more outputs compiles and loads, fp16 values among them."""
    program = device(coreml_plain, None, units)
    given = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    _, seen = program.observe({"x": given}, ["product", "half"])
    np.testing.assert_allclose(seen["product"], given @ WEIGHT.T, atol=2e-3)
    assert seen["half"].dtype == np.float16
    np.testing.assert_allclose(seen["half"], seen["product"], atol=2e-3)


def test_what_fits_is_told_before_core_ml_is_asked(device, coreml_plain, units):
    """Wrong names, shapes and types are the item's error and leave the worker alive."""
    program = device(coreml_plain, None, units)
    for given in ({}, {"x": np.zeros((65, 4))}, {"z": np.zeros((1, 4))}):
        with pytest.raises(ItemError):
            program(given)
    assert program({"x": np.zeros((1, 4))})["y"].shape == (1, 3)


def test_an_abort_is_recorded(device, coreml_plain, units):
    """A worker that gets SIGABRT in the middle of its work is a result with unit, signal and stage, within seconds."""
    from workbench.backends.coreml_process import Process

    program = device(coreml_plain, None, units)
    process = Process(units, RUNTIME)
    os.kill(process.child.pid, signal.SIGABRT)
    began = time.monotonic()
    with pytest.raises(DeviceFailure) as caught:
        process.ask({"op": "open", "path": str(coreml_plain), "changed": 0, "function": None}, stage="load", seconds=60)
    assert time.monotonic() - began < 30
    record = caught.value.record()
    assert (record["units"], record["how"], record["signal"], record["stage"]) == (units, "aborted", "SIGABRT", "load")
    assert program({"x": np.zeros((1, 4))})["y"].shape == (1, 3)  # another worker, untouched


def test_a_package_that_core_ml_cannot_compile(device, coreml_plain, units, tmp_path):
    """An operation that Core ML does not know ends in an error that says so; neither a hang nor an abort."""
    import shutil

    from workbench.backends.coreml_device import DeviceProgram
    from workbench.mil.package import parse

    copy = tmp_path / "odd.mlpackage"
    shutil.copytree(coreml_plain, copy)
    (file,) = copy.rglob("*.mlmodel")
    spec = parse(file.read_bytes(), file)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    next(op for op in block.operations if op.type == "relu").type = "frobnicate"
    file.write_bytes(spec.SerializeToString())
    with pytest.raises((ModelError, ItemError), match="frobnicate|Core ML"):  # the fake runtime notices when it first predicts
        DeviceProgram(copy, None, units, runtime=RUNTIME)({"x": np.zeros((1, 4))})


@pytest.mark.skipif(not MAC, reason="asks the system")
def test_this_system_is_told_apart():
    """The macOS version is read, and packages for a newer one are refused with it."""
    from workbench.backends.coreml_package import macos_version

    assert macos_version() >= (12, 0)
