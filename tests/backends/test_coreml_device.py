"""A program in a worker: what comes back, states, values inside, the plan, and that arrays arrive as they left.

The runtime is ``tests.backends.coreml_fake``: as strict as coremltools' binding, computing with ``workbench.mil``. So all of it is
exercised but Apple's own call.
"""

import gc
import shutil

import numpy as np
import pytest

from workbench.backends.coreml_process import DeviceError
from workbench.backends.coreml_reference import ReferenceProgram
from workbench.errors import ItemError, ModelError, UsageError


@pytest.fixture(scope="module")
def program(opened, coreml_plain):
    return opened(coreml_plain)


@pytest.fixture(scope="module")
def counting(opened, coreml_both):
    return opened(coreml_both, "second")


def values(rows=5):
    return np.linspace(-2, 2, rows * 4, dtype=np.float32).reshape(rows, 4)


ONES = {"x": np.ones((2, 3), np.float32), "n": np.array([7])}


def test_same_as_the_reference_in_another_process(program, coreml_plain):
    reference = ReferenceProgram(coreml_plain)
    assert (program.inputs, program.outputs, program.states) == (reference.inputs, reference.outputs, ())
    for rows in (1, 5, 64):
        given = {"x": values(rows)}
        found, wanted = program(given)["y"], reference(given)["y"]
        assert found.dtype == wanted.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
        assert found.flags.writeable and found.flags.c_contiguous


def test_load_first_and_later_calls_are_apart(opened, coreml_plain):
    program = opened(coreml_plain)
    before = program.describe()["timing"]
    assert before["first_seconds"] is None and before["load_seconds"] >= 0 and before["compile_seconds"] == 0  # compiled before
    program({"x": values()})
    first = program.describe()["timing"]
    program({"x": values()})
    later = program.describe()["timing"]
    assert first["first_seconds"] == later["first_seconds"] == first["last_seconds"] != later["last_seconds"]
    assert program.describe()["executor"].endswith("9.0, played by the tests")
    assert (program.evidence, opened(coreml_plain, units="CPU_AND_NE").evidence) == ("device", "device")


def test_a_package_that_was_made_anew_is_compiled_anew(opened, tmp_path):
    from tests.backends.coreml_packages import counter, plain

    before = opened(plain(tmp_path))
    assert before({"x": values()})["y"].shape == (5, 3)
    shutil.rmtree(tmp_path / "program.mlpackage")
    after = opened(counter(tmp_path))
    assert after.describe()["timing"]["compile_seconds"] > 0 and after(ONES, after.make_state())["count"].tolist() == [8]


def test_one_worker_for_all_programs_of_a_unit(program, counting):
    assert program.process is counting.process and program.number != counting.number


def test_states_step_copy_and_go_back(counting):
    state = counting.make_state()
    assert counting.states[0].dtype == "float16"
    np.testing.assert_array_equal(state.read("total"), np.zeros((2, 3), np.float16))
    found = counting(ONES, state)
    assert found["y"].tolist() == [[1.0] * 3] * 2 and found["count"].tolist() == [8] and found["count"].dtype == np.int32
    copied = state.copy()
    counting(ONES, state)
    assert copied.read("total")[0, 0] == 1 and state.read("total")[0, 0] == 2
    given = np.array([[1.5, -2.25, 1e-4]] * 2, np.float16)
    copied.write("total", given)
    assert copied.read("total").dtype == np.float16
    np.testing.assert_array_equal(copied.read("total"), given)
    np.testing.assert_array_equal(counting(ONES, copied)["y"], (given + np.float16(1)).astype(np.float32))
    assert state.read("total")[0, 0] == 2


def test_states_that_nobody_holds_leave_the_worker(counting):
    state = counting.make_state()
    number = state.number
    del state
    gc.collect()
    counting.make_state()
    with pytest.raises(DeviceError, match="KeyError"):
        counting._ask({"op": "read_state", "state": number, "name": "total"}, stage="state")


def test_what_a_state_refuses(counting, program, opened, coreml_both):
    state = counting.make_state()
    with pytest.raises(ItemError, match="no state 'sum'"):
        state.read("sum")
    with pytest.raises(ItemError, match="float32") as caught:
        state.write("total", np.zeros((3, 2), np.float32))
    assert "float16 [2, 3]" in caught.value.why
    with pytest.raises(ItemError, match="has states: total"):
        counting(ONES)
    with pytest.raises(ItemError, match="another program"):
        opened(coreml_both, "second")(ONES, state)
    with pytest.raises(UsageError, match="no states"):
        program.make_state()


def test_values_inside(program, coreml_plain):
    outputs, seen = program.observe({"x": values()}, ["product", "half", "y"])
    _, wanted = ReferenceProgram(coreml_plain).observe({"x": values()}, ["product", "half", "y"])
    assert list(seen) == ["product", "half", "y"] and seen["half"].dtype == np.float16
    for name in seen:
        np.testing.assert_array_equal(seen[name], wanted[name])
    np.testing.assert_array_equal(outputs["y"], seen["y"])


def test_values_inside_a_step_move_its_state(counting):
    state = counting.make_state()
    counting(ONES, state)
    outputs, seen = counting.observe(ONES, ["sum"], state)
    assert seen["sum"][0, 0] == outputs["y"][0, 0] == state.read("total")[0, 0] == 2
    assert counting(ONES, state)["y"][0, 0] == 3


@pytest.mark.parametrize(("name", "word"), [("positive", "bool"), ("nothing", "computes no value 'nothing'")])
def test_values_that_no_device_gives(program, name, word):
    with pytest.raises(ModelError) as caught:
        program.observe({"x": values()}, [name])
    assert word in str(caught.value)


def test_the_plan_names_a_device_for_each_operation(program, counting):
    rows = {row["outputs"][0]: row for row in program.plan()}
    assert rows["product"] == {
        "op": "linear",
        "outputs": ["product"],
        "device": "Neural Engine",
        "supported": ["CPU", "Neural Engine"],
        "cost": 0.25,
    }
    assert rows["y"]["device"] is None and rows["y"]["cost"] is None  # Core ML does not always tell
    assert "const" not in {row["op"] for row in program.plan()}
    assert ["sum"] in [row["outputs"] for row in counting.plan()]


def test_arrays_that_stay_are_sent_once(program, monkeypatch):
    from workbench.backends import coreml_wire

    sent = []
    real = coreml_wire.send

    def send(link, message, arrays, marks):
        sent.append(dict(marks))
        real(link, message, arrays, marks)

    monkeypatch.setattr(coreml_wire, "send", send)
    fixed, other = values() + 0, values() + 1
    for array in (fixed, other):
        array.setflags(write=False)
    wanted = [program({"x": array.copy()})["y"] for array in (fixed, other)]
    for array, want in ((fixed, wanted[0]), (fixed, wanted[0]), (other, wanted[1]), (other, wanted[1]), (fixed, wanted[0])):
        np.testing.assert_array_equal(program({"x": array})["y"], want)
    assert [marks.get("x") for marks in sent] == [None, None, "keep", "same", "keep", "same", "keep"]
    view = np.ones((9, 4), np.float32)[:5]
    view.setflags(write=False)
    program({"x": view})
    assert sent[-1] == {}  # whoever holds the array behind a view may change it


def test_inputs_are_refused_before_they_travel(program, counting):
    for given, word in (
        ({}, "'x' is missing"),
        ({"z": values()}, "no input 'z'"),
        ({"x": np.zeros((65, 4), np.float32)}, r"shape \[65, 4\]"),
        ({"x": np.full((1, 4), np.nan, np.float32)}, "NaN"),
        ({"x": np.array([["a"] * 4])}, "holds"),
    ):
        with pytest.raises(ItemError, match=word):
            program(given)
    with pytest.raises(ItemError, match="fractions"):
        counting({**ONES, "n": np.array([0.5])}, counting.make_state())


def test_large_arrays_there_and_back(opened, coreml_wide):
    program = opened(coreml_wide)
    given = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float32)
    np.testing.assert_array_equal(program({"x": given})["y"], -given)


def test_a_package_too_new_for_this_macos_starts_no_worker(coreml_counter, monkeypatch):
    from workbench.backends import coreml_device, coreml_package, coreml_process

    monkeypatch.setattr(coreml_package, "macos_version", lambda: (14, 7))
    monkeypatch.setattr(coreml_process, "lend", None)
    with pytest.raises(ModelError, match="made for macOS 15 and newer, this is macOS 14.7"):
        coreml_device.DeviceProgram(coreml_counter, None, "ALL")


def test_closing_one_program_leaves_the_others(opened, coreml_plain, program):
    other = opened(coreml_plain)
    other.close()
    other.close()
    assert program({"x": values()})["y"].shape == (5, 3)
    with pytest.raises(DeviceError, match="KeyError"):
        program._ask({"op": "predict", "model": other.number, "state": None}, {"x": values()}, stage="predict")
