"""States: two of them, read and written within one program and over calls, seen and set from outside."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import InputError, load
from workbench.mil.graph import walk

ROW = np.float32([1, 2, 3])
HALVES = {"total": ((3,), np.float16), "count": ((1,), np.float16)}


def accumulate(x, total, count):
    """Both states, each read before its write and after."""
    before = mb.read_state(input=total)
    after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=mb.cast(x=x, dtype="fp16")))
    counted = mb.coreml_update_state(state=count, value=mb.add(x=mb.read_state(input=count), y=np.float16(1)))
    again = mb.read_state(input=total)
    return [mb.cast(x=value, dtype="fp32") for value in (before, after, counted, again)]


def twice(x, total):
    """Written twice in one call: the value read between the writes stays what it was."""
    first = mb.coreml_update_state(state=total, value=mb.cast(x=x, dtype="fp16"))
    mb.coreml_update_state(state=total, value=mb.mul(x=first, y=np.float16(2)))
    return mb.cast(x=first, dtype="fp32"), mb.cast(x=mb.read_state(input=total), dtype="fp32")


def in_a_branch(x, total):
    """Written in a branch of a condition, and read in a loop."""
    old = mb.read_state(input=total)
    positive = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float32(0))
    mb.cond(
        pred=positive,
        _true_fn=lambda: mb.coreml_update_state(state=total, value=mb.add(x=old, y=mb.cast(x=x, dtype="fp16"))),
        _false_fn=lambda: mb.coreml_update_state(state=total, value=mb.mul(x=old, y=np.float16(0.5))),
    )
    _, summed = mb.while_loop(
        _cond=lambda n, v: mb.less(x=n, y=np.int32(3)),
        _body=lambda n, v: (mb.add(x=n, y=np.int32(1)), mb.add(x=v, y=mb.read_state(input=total))),
        loop_vars=(np.int32(0), np.zeros(3, np.float16)),
    )
    return mb.cast(x=summed, dtype="fp32")


class Memory:
    """``expected(state, x)`` gives the outputs of one call and changes ``state``, a dictionary of float64 arrays."""

    def __init__(self, op, build, states, expected, label):
        self.op, self.opset, self.build, self.states, self.expected, self.label = op, "iOS18", build, states, expected, label

    def __str__(self):
        return f"{self.op}-{self.label}"


def accumulated(state, x):
    before = state["total"]
    state["total"], state["count"] = before + x, state["count"] + 1
    return before, state["total"], state["count"], state["total"]


def written_twice(state, x):
    state["total"] = 2 * x
    return x, 2 * x


def branched(state, x):
    state["total"] = state["total"] + x if x.sum() > 0 else state["total"] * 0.5
    return (3 * state["total"],)


CASES = [
    Memory("read_state", accumulate, HALVES, accumulated, "two-states"),
    Memory("write_state", twice, {"total": HALVES["total"]}, written_twice, "written-twice"),
    Memory("write_state", in_a_branch, {"total": HALVES["total"]}, branched, "in-a-branch"),
]


@pytest.mark.parametrize("precision", ["native", "emulate"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, precision, tmp_path):
    """Small whole numbers, so fp16 is exact: equality, over several calls, of two states used in turns."""
    program = load(save(case.build, {"x": ROW}, tmp_path, since="iOS18", states=case.states), precision=precision)
    assert case.op in {op.type for op in walk(program.function.block)}
    mine = [(program.make_state(), {name: np.zeros(shape) for name, (shape, _) in case.states.items()}) for _ in range(2)]
    for factor, (held, state) in zip((1, 4, 2, -8, 2), (*mine, *mine, mine[0]), strict=True):
        found = list(program.predict({"x": ROW * factor}, state=held).values())
        wanted = case.expected(state, ROW.astype(np.float64) * factor)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        for name, value in state.items():
            np.testing.assert_array_equal(held.read(name), value)
            assert held.read(name).dtype == np.float16


def test_states_are_read_and_written_from_outside(tmp_path):
    program = load(save(accumulate, {"x": ROW}, tmp_path, since="iOS18", states=HALVES))
    state = program.make_state()
    assert state.names == ["total", "count"]
    assert [feature.name for feature in program.inputs] == ["x"]
    start = np.float32([10, 20, 30])
    state.write("total", start)
    start[:] = 0  # a copy was taken
    first = list(program.predict({"x": ROW}, state=state).values())
    np.testing.assert_array_equal(first[0], [10, 20, 30])
    np.testing.assert_array_equal(first[1], [11, 22, 33])
    seen = state.read("total")
    seen[:] = -1  # so was here
    np.testing.assert_array_equal(state.read("total"), [11, 22, 33])
    with pytest.raises(InputError, match="has the shape"):
        state.write("total", np.zeros(2))
    with pytest.raises(InputError, match="states: total, count"):
        state.read("nothing")
    with pytest.raises(InputError, match="make_state"):
        program.predict({"x": ROW})


def test_an_input_kept_as_a_state_is_a_copy(tmp_path):
    def build(x, total):
        return mb.cast(x=mb.coreml_update_state(state=total, value=x), dtype="fp32")

    given = ROW.astype(np.float16)
    program = load(save(build, {"x": given}, tmp_path, since="iOS18", states={"total": HALVES["total"]}))
    state = program.make_state()
    (found,) = program.predict({"x": given}, state=state).values()
    given[:] = 9
    found[:] = 9
    np.testing.assert_array_equal(state.read("total"), ROW)


def test_a_state_changed_in_one_call_of_the_observed_program(tmp_path):
    """Op by op, the same values as at once."""
    program = load(save(accumulate, {"x": ROW}, tmp_path, since="iOS18", states=HALVES))
    observed, plain = program.make_state(), program.make_state()
    seen = []
    for _ in range(2):
        one = program.observe({"x": ROW}, lambda op, results: seen.append(op.type), state=observed)
        other = program.predict({"x": ROW}, state=plain)
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
    assert seen.count("write_state") == 4
