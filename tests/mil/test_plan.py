"""The plan: what a block records at its first run with a set of shapes, and what later runs do with it."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.graphs import ANY, FLAG, INT, INTS, block, compiled, const, floats, handler, op, steps
from workbench.mil import ExecutionError, MilError, PackageError, UnsupportedError, load
from workbench.mil.graph import Constant
from workbench.mil.package import protocol
from workbench.mil.plan import MOST_PLANS
from workbench.mil.program import StateCell
from workbench.mil.registry import Tensor
from workbench.mil.types import ListType, TensorType


def half_of(name="x"):
    """Reshapes [n, 4] to [2 n, 2] by its shape at run time."""
    return [
        op("shape", "s", INTS, x=name),
        op("gather", "n", INT, x="s", indices=const(0), axis=const(0)),
        op("mul", "twice", INT, x="n", y=const(2)),
        op("concat", "target", INTS, values=("twice", const(2)), axis=const(0)),
        op("reshape", "halves", x=name, shape="target"),
    ]


def test_what_follows_from_shapes_is_computed_once_for_each_set_of_them():
    program = compiled(block("x", half_of(), "halves target"))
    for rows in (3, 1, 3, 2, 1):
        halves, target = program(floats(rows, 4))
        assert halves.tolist() == floats(rows * 2, 2).tolist() and target.tolist() == [2 * rows, 2]
        assert steps(program) == ["halves"]
    assert len(program._plans) == 3


def test_the_plan_used_longest_ago_goes_and_is_made_again():
    program = compiled(block("x", half_of(), "halves"))
    for rows in (*range(1, MOST_PLANS + 3), 3, 1, 2):
        assert program(floats(rows, 4))[0].shape == (2 * rows, 2)
    assert len(program._plans) == MOST_PLANS
    assert {key[0][0] for key in program._plans} == {1, 2, 3, *range(6, MOST_PLANS + 3)}


def test_ops_of_constants_are_computed_once_and_no_step():
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return x + 1

    with handler("test_count", counted):
        ops = [op("test_count", "a", x="c"), op("test_count", "b", x="a"), op("add", "y", x="x", y="b")]
        program = compiled(block("x", ops, "y b", c=const([1.0, 2.0])))
        for x in (torch.zeros(2), torch.ones(2), torch.zeros(3, 2)):
            y, b = program(x)
            assert torch.equal(y, x + torch.tensor([3.0, 4.0])) and b.tolist() == [3, 4]
    assert len(calls) == 2 and steps(program) == ["y"]


def test_constants_made_of_constants_may_be_many_deep():
    """None needs the interpreter's stack, those too large to be computed at load neither, and one value stays: the last."""
    wide = TensorType("fp32", (1 << 20,))
    for kind in (TensorType("fp32", (2,)), wide):
        ops = [op("relu", f"c{k + 1}", kind, x=f"c{k}") for k in range(3000)]
        c0 = Constant(TensorType("fp32", (2,)), np.array([-1, 2], np.float32))
        program = compiled(block("x", [*ops, op("add", "y", x="x", y="c3000")], "y", c0=c0))
        with pytest.warns(UserWarning) if kind is wide else nullcontext():
            assert program(torch.ones(2))[0].tolist() == [1, 3]
        assert [name for name, cell in program.cells.items() if cell._made] == ["c3000"]


def test_parts_of_several_constants_go_with_their_last_reader():
    """``split`` has two outputs of one computation; each serves one weight."""
    ops = [
        op("split", "parts", [("left", ANY), ("right", ANY)], x="c", axis=const(0), num_splits=const(2)),
        op("relu", "a", x="left"),
        op("add", "b", x="left", y="right"),
        op("concat", "y", values=("x", "a", "b"), axis=const(0)),
    ]
    program = compiled(block("x", ops, "y", c=const([1.0, -2.0, 3.0, -4.0])))
    for _ in range(2):
        assert program(torch.zeros(1))[0].tolist() == [0, 1, 0, 4, -6]
    assert {name for name, cell in program.cells.items() if cell._made} == {"a", "b"}
    assert not any(whole._made for whole, _ in program._wholes)


def test_a_program_of_many_ops():
    ops = [op("add", f"v{k + 1}", x=f"v{k}", y="v0") for k in range(10_000)]
    program = compiled(block("v0", ops, "v10000"))
    assert program(torch.ones(1))[0].item() == program(torch.ones(1))[0].item() == 10_001


def test_values_go_after_their_last_use():
    """In the first run and in replayed ones; also one that two inputs of one op read, one of several outputs, and one that only a
    nested block reads."""
    alive, most = weakref.WeakSet(), []

    def tracked(x: Tensor) -> Tensor:
        most.append(len(alive))
        made = x + 1
        alive.add(made)
        return made

    def pair(x: Tensor) -> tuple:
        return tracked(x), tracked(x)

    taken = block("", [op("test_track", "inside", x="two")], "inside")
    ops = [
        op("test_track", "v0", x="x"),
        *(op("test_track", f"v{k + 1}", x=f"v{k}") for k in range(6)),
        op("add", "sum", x="v6", y="v6"),
        op("test_pair", "pair", [("one", ANY), ("two", ANY)], x="sum"),
        op("cond", "c", pred="flag", blocks=[taken, taken]),
        op("test_track", "y", x="c"),
        op("test_track", "z", x="y"),
    ]
    with handler("test_track", tracked), handler("test_pair", pair):
        program = compiled(block("x flag", ops, "z"))
        for _ in range(3):
            most.clear()
            (z,) = program(torch.zeros(2), torch.tensor(True))
            # Every op sees its own input and nothing else; of the pair one is there when the other is made, then the branch's.
            assert z.tolist() == [18, 18] and most == [0, *[1] * 6, 0, 1, 1, 1, 1]
            assert list(alive) == [z]
            del z


def test_weights_that_come_from_the_run_are_no_constants():
    """MIL wants a recurrent layer's weights constant. Where they are not, the layer follows them all the same."""
    ops = [op("rnn", "r", [("every", ANY), ("last", ANY)], x="x", initial_h="h", weight_ih="w", weight_hh="u")]
    program = compiled(block("x h w u", ops, "last"))
    x, h, u = torch.ones(1, 1, 2), torch.zeros(1, 2), torch.zeros(2, 2)
    for scale in (0.1, 0.2, -0.3):
        w = torch.eye(2) * scale
        assert torch.allclose(program(x, h, w, u)[0], torch.tanh(torch.tensor(scale)).expand(1, 2))


def cond(name, true, false, kind=ANY, pred="flag"):
    return op("cond", name, kind, pred=pred, blocks=[true, false])


def test_the_same_name_in_sibling_blocks_and_one_that_hides_an_outer_one():
    """``v`` is a value of the function, of either branch, and a constant that one branch hides."""
    true = block("", [op("add", "v", x="x", y=const(10.0)), op("add", "w", x="v", y="c")], "w")
    hidden = block("", [op("mul", "c", x="x", y=const(3.0)), op("add", "v", x="c", y="c")], "v")
    ops = [op("mul", "v", x="x", y=const(2.0)), cond("r", true, hidden), op("add", "y", x="r", y="v"), op("add", "z", x="y", y="c")]
    program = compiled(block("x flag", ops, "z", c=const(100.0)))
    for x, flag in ((1, True), (2, False), (3, True), (4, False)):
        wanted = (x + 10 + 100 if flag else 6 * x) + 2 * x + 100
        assert program(torch.tensor(float(x)), torch.tensor(flag))[0].item() == wanted


def test_a_block_that_hides_a_constant_it_has_read_before():
    inner = block("", [op("add", "a", x="x", y="c"), op("mul", "c", x="a", y="a")], "c")
    program = compiled(block("x flag", [cond("y", inner, inner)], "y", c=const(1.0)))
    for x in (1.0, 2.0):
        assert program(torch.tensor(x), torch.tensor(True))[0].item() == (x + 1) ** 2


def test_blocks_that_give_out_what_they_did_not_compute():
    """An outer value, one known by shape, a constant of the function, of the block, one of constants alone, a block's input."""
    inner = block("n v", [op("less", "go", FLAG, x="n", y=const(2))], "go")
    one_round = block("n v", [op("add", "m", INT, x="n", y=const(1))], "m v")
    true = block("", [op("add", "own", x="k", y="k")], "x s c k own", k=const(7.0))
    false = block(
        "", [op("while_loop", "l", [("n", INT), ("v", ANY)], loop_vars=(const(0), "x"), blocks=[inner, one_round])], "v s c c c"
    )
    names = [("o1", ANY), ("o2", INTS), ("o3", ANY), ("o4", ANY), ("o5", ANY)]
    program = compiled(
        block("x flag", [op("shape", "s", INTS, x="x"), cond("r", true, false, names)], "o1 o2 o3 o4 o5", c=const(5.0))
    )
    for rows, flag in ((2, True), (2, False), (3, False), (2, True), (3, True)):
        x = floats(rows, 4)
        found = program(x, torch.tensor(flag))
        assert torch.equal(found[0], x) and found[1].tolist() == [rows, 4]
        assert [value.item() for value in found[2:]] == ([5, 7, 14] if flag else [5, 5, 5])


def test_the_other_branch_may_not_give_another_kind_of_value():
    """Found at the first run; found too where that branch is first taken in a replayed one."""
    program = compiled(
        block(
            "x flag",
            [cond("y", block("", [op("identity", "a", x="x")], "a"), block("", [op("shape", "b", INTS, x="x")], "b"))],
            "y",
        )
    )
    x = floats(2)
    for _ in range(2):
        assert torch.equal(program(x, torch.tensor(True))[0], x)
        with pytest.raises(ExecutionError, match="gave 'y' as torch.int32"):
            program(x, torch.tensor(False))


def test_constants_of_a_branch_that_is_not_taken_are_not_computed():
    """They may be such that cannot be: what guards them is the condition."""
    broken = block("", [op("reshape", "a", TensorType("fp32", (3,)), x=const([1.0, 2.0]), shape=const([3]))], "a")
    program = compiled(block("x flag", [cond("y", block("", [], "x"), broken)], "y"))
    assert program(floats(2), torch.tensor(True))[0].tolist() == [1, 2]
    with pytest.raises(ExecutionError, match="op 'a'"):
        program(floats(2), torch.tensor(False))


def test_lists_of_different_lengths_share_a_plan_and_their_elements():
    kind = ListType(ANY, None)
    ops = [
        op("make_list", "l0", kind, elem_shape=(const(2),), init_length=const(1)),
        op("list_write", "l1", kind, ls="l0", index="k", value="x"),
        op("list_length", "n", INT, ls="l1"),
        op("list_read", "a", ls="l1", index="k"),
        op("expand_dims", "wide", x="a", axes=const([0])),
    ]
    program = compiled(block("x k", ops, "n wide"))
    for place in (0, 3, 1):
        n, wide = program(floats(2) + place, torch.tensor(place, dtype=torch.int32))
        assert n.item() == place + 1 and torch.equal(wide[0], floats(2) + place)
    assert program.cells["l0"].value == [None]


def test_a_state_is_read_as_it_was_before_it_is_written():
    ops = [
        op("read_state", "before", input="s"),
        op("add", "sum", x="before", y="x"),
        op("write_state", "w", [], input="s", data="sum"),
        op("read_state", "after", input="s"),
    ]
    program, state = compiled(block("x s", ops, "before after")), StateCell("fp32", torch.zeros(2))
    kept = []
    for _ in range(3):
        kept.append(program(floats(2), state))
    assert [(before.tolist(), after.tolist()) for before, after in kept] == [
        ([0, 0], [1, 2]),
        ([1, 2], [2, 4]),
        ([2, 4], [3, 6]),
    ]


def test_errors_name_the_op_and_leave_no_plan():
    ops = [op("relu", "a", x="x"), op("gather", "b", x="a", indices="i", axis=const(0)), op("relu", "c", x="b")]
    program = compiled(block("x i", ops, "c"))
    good, bad = torch.tensor([1], dtype=torch.int32), torch.tensor([9], dtype=torch.int32)
    with pytest.raises(ExecutionError, match="'b'"):
        program(floats(3), bad)
    assert not program._plans
    for _ in range(2):
        assert program(floats(3), good)[0].tolist() == [2]
        with pytest.raises(ExecutionError, match="'b'"):
            program(floats(3), bad)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, ExecutionError("told already")])
def test_which_errors_pass_as_they_are(error):
    """In the first run and in a replayed one."""
    fails = []

    def failing(x: Tensor) -> Tensor:
        if fails:
            raise error
        return x.clone()

    with handler("test_fail", failing):
        program = compiled(block("x", [op("relu", "a", x="x"), op("test_fail", "b", x="a")], "b"))
        for _ in range(2):
            fails[:] = [1]
            with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ExecutionError) as caught:
                program(floats(2))
            assert error is KeyboardInterrupt or str(caught.value).startswith("told" if error is not ValueError else "op 'b' (test")
            fails.clear()
            assert program(floats(2))[0].tolist() == [1, 2]


def chain(*ops):
    return block("x", ops, "y")


HOSTILE = {
    "an op type that is not there": chain(op("nonsense", "y", x="x")),
    "an input that is not known": chain(op("relu", "y", x="x", z="x")),
    "an input that is missing": chain(op("add", "y", x="x")),
    "two values for one": chain(op("relu", "y", x=("x", "x"))),
    "none for one": chain(op("relu", "y", x=())),
    "one branch": chain(op("cond", "y", pred=const(True), blocks=[chain()])),
    "three branches": chain(op("cond", "y", pred=const(True), blocks=[block("", [], "x")] * 3)),
    "blocks of an op without": chain(op("relu", "y", x="x", blocks=[block("", [], "x")])),
    "a branch with inputs": chain(op("cond", "y", pred=const(True), blocks=[block("v", [], "v")] * 2)),
    "a branch without outputs": chain(op("cond", "y", pred=const(True), blocks=[block("", [], "")] * 2)),
    "more results than declared": chain(op("split", "s", [("y", ANY)], x="x", axis=const(0), num_splits=const(2))),
    "fewer": chain(op("relu", "s", [("y", ANY), ("z", ANY)], x="x")),
    "no result": block("x", [op("relu", "s", [], x="x")], "x"),
    "an axis that is a tensor": chain(op("softmax", "y", x="x", axis="x")),
    "a float for an integer": chain(op("relu", "y", INTS, x="x")),
    "a loop of another arity": chain(
        op(
            "while_loop",
            "y",
            loop_vars="x",
            blocks=[block("v", [op("greater", "g", FLAG, x=const(1), y=const(0))], "g"), block("v", [], "v v")],
        )
    ),
    "a loop whose condition is no number": chain(
        op("while_loop", "y", loop_vars="x", blocks=[block("v", [], "v"), block("v", [], "v")])
    ),
    "a loop without a condition": chain(op("while_loop", "y", loop_vars="x", blocks=[block("v", [], ""), block("v", [], "v")])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blocks_end_in_our_errors(name):
    with pytest.raises(MilError) as caught:
        compiled(HOSTILE[name])(floats(2, 2))
    unsupported = name.split()[0] in ("an", "two", "none", "one", "three", "blocks") and "tensor" not in name
    assert isinstance(caught.value, UnsupportedError if unsupported else ExecutionError)


def counting(x, total, count):
    """Adds to one state, then gathers at a place that may be wrong, then adds to the other."""
    mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))
    place = mb.cast(x=mb.reduce_max(x=x, keep_dims=False), dtype="int32")
    found = mb.gather(x=x, indices=place, axis=0)
    mb.coreml_update_state(state=count, value=mb.add(x=mb.read_state(input=count), y=np.float16([1])))
    return found


def test_a_prediction_that_fails_leaves_state_and_program_as_they_were(tmp_path):
    states = {"total": ((3,), np.float16), "count": ((1,), np.float16)}
    good, bad = np.float16([0, 1, 2]), np.float16([0, 1, 7])
    program = load(save(counting, {"x": good}, tmp_path, since="iOS18", states=states))
    state = program.make_state()
    for done in range(3):
        with pytest.raises(ExecutionError, match="indices from 7 to 7"):
            program.predict({"x": bad}, state)
        with pytest.raises(ZeroDivisionError):
            program.observe({"x": good}, lambda op, results: 1 / (op.type != "gather"), state)
        assert state.read("total").tolist() == [0, done, 2 * done] and state.read("count").tolist() == [done]
        assert next(iter(program.predict({"x": good}, state).values())) == 2
        assert program._engine.observer is None


def test_a_value_read_before_it_is_defined_is_refused(tmp_path):
    """By another op, by the op itself, and by an op of a branch that then gives its own value the name of the outer one it read."""

    def build(x):
        b = mb.tanh(x=mb.relu(x=x, name="a"), name="b")
        flag = mb.greater(x=mb.reduce_max(x=b, keep_dims=False), y=np.float32(0))
        return mb.cond(pred=flag, _true_fn=lambda: mb.exp(x=mb.sin(x=b)), _false_fn=lambda: mb.cos(x=b))

    path = save(build, {"x": np.float32([1])}, tmp_path)
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    written = file.read_bytes()
    for first, second, inner in (("b", "a", "v"), ("a", "a", "v"), ("x", "b", "v"), ("x", "nowhere", "v"), ("x", "a", "b")):
        spec = protocol().Model()
        spec.ParseFromString(written)
        (body,) = spec.mlProgram.functions["main"].block_specializations.values()
        relu, tanh = (item for item in body.operations if item.type in ("relu", "tanh"))
        relu.inputs["x"].arguments[0].name, tanh.inputs["x"].arguments[0].name = first, second
        (branch, _) = next(item for item in body.operations if item.type == "cond").blocks
        next(item for item in branch.operations if item.type == "exp").outputs[0].name = branch.outputs[0] = inner
        file.write_bytes(spec.SerializeToString())
        with pytest.raises(PackageError, match="before it is defined|nothing defines"):
            load(path)
