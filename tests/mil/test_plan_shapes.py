"""Shapes that values decide: slices from a computed place, branches, loops, lists. What is bound to shapes follows them, and random
programs of such ops give the same to the bit however they are run: fresh, planned for these or for other shapes, observed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.mil.graphs import ANY, FLAG, FLOATS, INT, INTS, block, compiled, const, floats, op, plan
from workbench.mil.arguments import _Varying
from workbench.mil.types import ListType, TensorType


def from_place():
    masks = {"end": const([0, 0]), "end_mask": const([True, True])}
    begin = op("concat", "begin", INTS, values=("k", const(0)), axis=const(0))
    return [begin, op("slice_by_index", "part", FLOATS, x="x", begin="begin", **masks)]


def by_branch():
    inner = block("", from_place(), "part")
    flag = op("greater", "flag", FLAG, x="k", y=const(0))
    return [flag, op("cond", "part", FLOATS, pred="flag", blocks=[inner, block("", [], "x")])]


def by_branch_of_a_constant():
    return [op("cond", "part", FLOATS, pred=const(True), blocks=[block("", from_place(), "part"), block("", [], "x")])]


def by_loop():
    going = block("n v", [op("less", "go", FLAG, x="n", y="k")], "go")
    shorter = op("slice_by_index", "w", FLOATS, x="v", begin=const([1, 0]), end=const([0, 0]), end_mask=const([True, True]))
    body = block("n v", [op("add", "m", INT, x="n", y=const(1)), shorter], "m w")
    return [op("while_loop", "loop", [("n", INT), ("part", FLOATS)], loop_vars=(const(0), "x"), blocks=[going, body])]


def by_list():
    """Elements that nothing wrote are zeros of a shape that is computed."""
    rows = op("sub", "rows", INT, x=const(5), y="k")
    made = op("make_list", "l", ListType(ANY, 1), elem_shape=("rows", const(4)), init_length=const(1))
    return [rows, made, op("list_read", "zeros", FLOATS, ls="l", index=const(0))]


SOURCES = {
    "slice": from_place,
    "cond": by_branch,
    "cond-of-a-constant": by_branch_of_a_constant,
    "while_loop": by_loop,
    "make_list": by_list,
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_bound_to_shapes_follows_shapes_that_values_decide(name):
    last = "zeros" if name == "make_list" else "part"
    ops = [
        *SOURCES[name](),
        op("expand_dims", "wide", x=last, axes=const([1])),
        op("shape", "s", INTS, x="wide"),
        op("fill", "filled", shape="s", value=const(1.0)),
        op("reshape", "flat", x="wide", shape=const([-1])),
    ]
    program, x = compiled(block("x k", ops, "wide s filled flat")), floats(5, 4)
    for start in (1, 3, 0, 1, 4):
        wide, shape, filled, flat = program(x, torch.tensor(start, dtype=torch.int32))
        wanted = x[start:, None] * (name != "make_list")
        assert torch.equal(wide, wanted) and torch.equal(flat, wanted.flatten()) and torch.equal(filled, torch.ones_like(wanted))
        assert shape.tolist() == [5 - start, 1, 4]
    assert len(program._plans) == 1


def test_an_update_at_a_run_time_place_leaves_shapes_known():
    """A cache written at a position that is given: what follows stays bound."""
    ops = [
        op("concat", "begin", INTS, values=("k", const(0)), axis=const(0)),
        op("concat", "end", INTS, values=("last", const(4)), axis=const(0)),
        op("slice_update", "cache", FLOATS, x="x", update="u", begin="begin", end="end"),
        op("expand_dims", "wide", x="cache", axes=const([0])),
    ]
    program = compiled(block("x u k last", ops, "wide"))
    x, u = floats(5, 4), -floats(1, 4)
    for place in (0, 3, 1):
        (wide,) = program(x, u, *(torch.tensor(n, dtype=torch.int32) for n in (place, place + 1)))
        assert torch.equal(wide[0], torch.cat([x[:place], u, x[place + 1 :]]))
    assert not isinstance(plan(program).steps[-1].function, _Varying)


@pytest.mark.parametrize("precision", ["native", "emulate"])
def test_random_programs_give_the_same_to_the_bit_however_they_are_run(precision):
    """Fresh or planned for these or other shapes, or observed: programs of shapes and branches that values decide."""
    options = {"half": torch.float32, "rounds": True} if precision == "emulate" else {}
    for seed in range(25):
        rng, draws = random.Random(seed), np.random.default_rng(seed)
        body = random_block(rng, "fp16")
        kept = compiled(body, **options)
        for rows in (3, 1, 3, 2, 3, 1):
            half = np.float16(draws.standard_normal((rows, 4)))
            x = torch.from_numpy(half).to(kept.engine.half)
            k = torch.tensor(int(draws.integers(0, 4)), dtype=torch.int32)
            fresh, planned = compiled(body, **options)(x, k), kept(x, k)
            kept.engine.observer = lambda op, results: None
            observed = kept(x, k)
            kept.engine.observer = None
            for one, *others in zip(planned, fresh, observed, strict=True):
                assert all(one.dtype == other.dtype and torch.equal(one, other) for other in others), seed


def random_block(rng, dtype):
    """x [n, 4], k in 0 to 3; every value is [?, 4]."""
    kind = TensorType(dtype, (None, 4))
    ops, values = [], ["x"]

    def add(what, kind=kind, blocks=(), **inputs):
        ops.append(op(what, f"t{len(ops)}", kind, blocks, **inputs))
        return f"t{len(ops) - 1}"

    def row(name):
        return add("reduce_mean", x=name, axes=const([0]), keep_dims=const(True))

    def rest(name):
        size = add("gather", INT, x=add("shape", INTS, x=name), indices=const(0), axis=const(0))
        place = add("minimum", INT, x="k", y=add("sub", INT, x=size, y=const(1)))
        begin = add("concat", INTS, values=(place, const(0)), axis=const(0))
        masks = {"end": const([0, 0]), "end_mask": const([True, True])}
        return add("slice_by_index", x=name, begin=begin, **masks)

    def branch(name, other):
        flag = add("greater", FLAG, x="k", y=const(rng.randrange(4)))
        true = block("", [op("add", "v", kind, x=name, y=name), op("concat", "w", kind, values=("v", other), axis=const(0))], "w")
        return add("cond", blocks=[true, block("", [op("tanh", "v", kind, x=other)], "v")], pred=flag)

    def loop(name, other):
        go = block("n v", [op("less", "go", FLAG, x="n", y="k")], "go")
        grown = [op("add", "m", INT, x="n", y=const(1)), op("concat", "v2", kind, values=("v", other), axis=const(0))]
        ops.append(
            op(
                "while_loop",
                "loop",
                [(f"n{len(ops)}", INT), (f"t{len(ops)}", kind)],
                (go, block("n v", [*grown, op("sin", "v3", kind, x="v2")], "m v3")),
                loop_vars=(const(0), name),
            )
        )
        return f"t{len(ops) - 1}"

    for _ in range(rng.randrange(3, 9)):
        name, other = rng.choice(values), rng.choice(values)
        which = rng.randrange(7)
        if which == 0:
            values.append(add("add", x=name, y=row(other)))
        elif which == 1:
            values.append(add("exp", x=add("concat", values=(row(name), row(other)), axis=const(0))))
        elif which == 2:
            values.append(rest(name))
        elif which == 3:
            values.append(branch(name, row(other)))
        elif which == 4:
            values.append(loop(name, row(other)))
        elif which == 5:
            flat = add("reshape", TensorType(dtype, (None,)), x=name, shape=const([-1]))
            values.append(add("reshape", x=add("sin", TensorType(dtype, (None,)), x=flat), shape=add("shape", INTS, x=name)))
        else:
            amounts = add("concat", INTS, values=("k", const(1), const(0), const(0)), axis=const(0))
            values.append(add("pad", x=add("softmax", x=name, axis=const(0)), pad=amounts))
    return block([("x", kind), ("k", INT)], ops, " ".join(dict.fromkeys((values[-1], rng.choice(values)))))
