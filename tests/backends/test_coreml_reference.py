"""Programs on the reference executor, and the packages that both executors refuse."""

import shutil

import numpy as np
import pytest

from tests.backends.coreml_packages import WEIGHT
from workbench.backends import coreml_package
from workbench.backends.base import TensorSpec
from workbench.backends.coreml_reference import ReferenceProgram
from workbench.errors import ItemError, ModelError, UsageError
from workbench.registry import get_backend

ONES = {"x": np.ones((2, 3), np.float32), "n": np.array([7])}


@pytest.fixture(scope="module")
def program(coreml_plain):
    return ReferenceProgram(coreml_plain)


@pytest.fixture(scope="module")
def counting(coreml_both):
    return ReferenceProgram(coreml_both, "second")


def test_arrays_in_arrays_out(program):
    assert program.inputs == (TensorSpec("x", "float32", (None, 4)),)
    assert program.outputs == (TensorSpec("y", "float32", (None, 3)),) and program.states == ()
    given = np.linspace(-1, 1, 20).reshape(5, 4)
    found = program({"x": given})
    assert list(found) == ["y"] and found["y"].dtype == np.float32 and found["y"].flags.owndata
    np.testing.assert_allclose(found["y"], np.maximum(given @ WEIGHT.T, 0) + 1, rtol=1e-6)
    assert program.describe()["timing"] is None and program.describe()["opset"] == "iOS17"


def test_functions_are_named(counting, coreml_both):
    assert [item.name for item in counting.inputs] == ["x", "n"]
    assert counting.states == (TensorSpec("total", "float16", (2, 3)),)
    assert ReferenceProgram(coreml_both).head.function == "first"
    with pytest.raises(ModelError, match="no function 'third'") as caught:
        ReferenceProgram(coreml_both, "third")
    assert "first, second" in caught.value.why


def test_states_and_their_copies(counting):
    state = counting.make_state()
    counting(ONES, state)
    copied = state.copy()
    counting(ONES, state)
    assert (copied.read("total")[0, 0], state.read("total")[0, 0]) == (1, 2)
    copied.write("total", np.full((2, 3), 5, np.float16))
    assert state.read("total")[0, 0] == 2 and counting(ONES, copied)["y"][0, 0] == 6
    copied.read("total")[:] = 9
    assert copied.read("total")[0, 0] == 6
    with pytest.raises(ItemError, match="no state 'sum'"):
        state.read("sum")
    with pytest.raises(ItemError, match="shape"):
        state.write("total", np.zeros((3, 2), np.float16))


def test_a_step_that_fails_leaves_its_state(counting):
    state = counting.make_state()
    counting(ONES, state)
    with pytest.raises(ItemError):
        counting({**ONES, "n": np.array(["7"])}, state)
    assert state.read("total")[0, 0] == 1


def test_only_the_values_asked_for_are_kept(program, counting):
    given = {"x": np.full((2, 4), 0.3, np.float32)}
    outputs, seen = program.observe(given, ["rectified", "half", "rectified", "y"])
    assert list(seen) == ["rectified", "half", "y"] and seen["half"].dtype == np.float16
    np.testing.assert_array_equal(seen["rectified"] + 1, outputs["y"])
    np.testing.assert_array_equal(program(given)["y"], outputs["y"])
    with pytest.raises(ModelError, match="computes no value 'nothing'") as caught:
        program.observe(given, ["y", "nothing"])
    assert "1 of 2" in caught.value.why
    state = counting.make_state()
    assert counting.observe(ONES, ["sum"], state)[1]["sum"][0, 0] == state.read("total")[0, 0] == 1


def test_readings(coreml_plain, program):
    given = {"x": np.full((1, 4), 1 / 3, np.float32)}
    exact = ReferenceProgram(coreml_plain, reading="float64")
    seen = exact.observe(given, ["product", "half"])[1]
    assert {name: array.dtype.name for name, array in seen.items()} == {"product": "float64", "half": "float64"}
    np.testing.assert_allclose(seen["product"], np.float64(given["x"]) @ np.float64(WEIGHT).T, rtol=1e-15)
    assert exact.describe()["reading"] == "float64"


def test_arrays_that_stay_are_checked_once(program, monkeypatch):
    from workbench.mil import program as mil_program

    checked = []
    real = mil_program.to_tensor
    monkeypatch.setattr(mil_program, "to_tensor", lambda feature, *rest: checked.append(feature.name) or real(feature, *rest))
    fixed = np.full((2, 4), 0.5, np.float32)
    wanted = program({"x": fixed})["y"]
    fixed.setflags(write=False)
    for _ in range(3):
        np.testing.assert_array_equal(program({"x": fixed})["y"], wanted)
    assert checked == ["x", "x"]  # once while it could change, once since
    fixed.setflags(write=True)
    fixed += 1
    assert not np.array_equal(program({"x": fixed})["y"], wanted)


def test_a_small_prediction_costs_little(program):
    """The floor under every step of a decoding loop: checks, the way through the executor and out again."""
    import time

    given = {"x": np.ones((1, 4), np.float32)}
    program(given)
    best = float("inf")
    for _ in range(200):
        began = time.perf_counter()
        program(given)
        best = min(best, time.perf_counter() - began)
    assert best < 0.001


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 4)), "y": 1}, "no input 'y'"),
        ({"x": np.zeros((1, 5))}, "shape"),
        ({"x": np.full((1, 4), np.nan)}, "NaN"),
    ],
)
def test_inputs_that_do_not_fit_are_the_item_s_error(program, given, word):
    with pytest.raises(ItemError, match=word) as caught:
        program(given)
    assert caught.value.reason == "model" and "(" not in (caught.value.fix or "")


def test_states_that_are_missing_or_too_many(program, counting):
    with pytest.raises(ItemError, match="has states: total"):
        counting(ONES)
    with pytest.raises(ItemError, match="no states, and was given one"):
        program({"x": np.zeros((1, 4))}, counting.make_state())
    with pytest.raises(ItemError, match="of another executor"):
        counting(ONES, object())
    with pytest.raises(UsageError, match="has no states"):
        program.make_state()


def changed(path, folder, change):
    """A copy of a package with ``change(spec)`` done to its model file."""
    copy = folder / path.name
    shutil.copytree(path, copy)
    (file,) = copy.rglob("*.mlmodel")
    from workbench.mil.package import parse

    spec = parse(file.read_bytes(), file)
    change(spec)
    file.write_bytes(spec.SerializeToString())
    return copy


def test_a_package_newer_than_this_release(coreml_plain, tmp_path):
    path = changed(coreml_plain, tmp_path, lambda spec: setattr(spec, "specificationVersion", 11))
    with pytest.raises(ModelError, match="newer Core ML than this release knows") as caught:
        get_backend("coreml").open(path, {})
    assert "version 11" in caught.value.why and "pip install --upgrade" in caught.value.fix


@pytest.mark.parametrize(
    ("here", "least", "fix"),
    [((14, 7), "15", "workbench convert MODEL --to coreml --target iOS17"), ((12, 3), "15", "?executor=reference")],
)
def test_a_package_newer_than_this_macos(coreml_both, monkeypatch, here, least, fix):
    head = coreml_package.read(coreml_both, "second")
    head.check_system()  # no Mac: nothing to compare with
    for version in ((15, 0), (16, 0), (26, 1)):
        monkeypatch.setattr(coreml_package, "macos_version", lambda version=version: version)
        head.check_system()
    monkeypatch.setattr(coreml_package, "macos_version", lambda: here)
    with pytest.raises(ModelError, match=f"macOS {least} and newer, this is macOS {here[0]}.{here[1]}") as caught:
        head.check_system()
    assert "iOS18" in caught.value.why and caught.value.fix == fix


def test_an_op_that_is_not_known_is_named(coreml_plain, tmp_path):
    def change(spec):
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        next(op for op in block.operations if op.type == "relu").type = "frobnicate"

    with pytest.raises(ModelError, match="frobnicate") as caught:
        get_backend("coreml").open(changed(coreml_plain, tmp_path, change), {})
    assert "rectified" in caught.value.why


def test_paths_that_hold_no_package(tmp_path, coreml_plain):
    for path, word in (
        (tmp_path / "none.mlpackage", "there is no"),
        (tmp_path / "made.mlmodelc", "is a compiled model"),
        (tmp_path / "empty.mlpackage", "no Manifest.json"),
    ):
        if word != "there is no":
            path.mkdir()
        with pytest.raises(ModelError, match=word):
            get_backend("coreml").open(path, {})
    damaged = tmp_path / "damaged.mlpackage"
    shutil.copytree(coreml_plain, damaged)
    (file,) = damaged.rglob("*.mlmodel")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError, match="damaged"):
        get_backend("coreml").open(damaged, {})


def test_pictures_belong_to_an_app(coreml_plain, tmp_path):
    def change(spec):
        image = spec.description.input[0].type.imageType
        image.width, image.height, image.colorSpace = 4, 4, image.RGB

    with pytest.raises(ModelError) as caught:
        get_backend("coreml").open(changed(coreml_plain, tmp_path, change), {})
    assert "image" in str(caught.value)
