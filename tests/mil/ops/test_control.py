"""Golden cases: branches and loops. The witness is the same program in Python and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, close
from workbench.mil import load

NUMBERS = np.array([1.0, -2.0, 3.0], np.float32)


def number(n):
    return np.int32(n)


def positive(x):
    return mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float32(0))


def loop(below, body, *start):
    """``while start[0] < below: start = body(*start)``."""
    return mb.while_loop(_cond=lambda n, *_: mb.less(x=n, y=below), _body=body, loop_vars=start)


def branches(x):
    return mb.cond(pred=positive(x), _true_fn=lambda: mb.mul(x=x, y=np.float32(2)), _false_fn=lambda: mb.sub(x=x, y=np.float32(1)))


def branches_in_branches(x):
    """Three results a branch; the outer value, a constant of the block, and a constant of the function."""
    known = mb.add(x=np.float32([1, 2, 3]), y=np.float32([10, 20, 30]))

    def inner():
        return mb.cond(
            pred=mb.greater(x=mb.reduce_max(x=x, keep_dims=False), y=np.float32(2)),
            _true_fn=lambda: (x, known, mb.const(val=np.float32([7, 8, 9]))),
            _false_fn=lambda: (mb.mul(x=x, y=known), x, known),
        )

    return mb.cond(pred=positive(x), _true_fn=inner, _false_fn=lambda: (known, known, mb.add(x=x, y=known)))


def branched(x):
    known = np.float32([11, 22, 33])
    if x.sum() <= 0:
        return known, known, x + known
    return (x, known, np.float32([7, 8, 9])) if x.max() > 2 else (x * known, x, known)


def captures(x):
    def body(n, v):
        return mb.add(x=n, y=number(1)), mb.add(x=mb.mul(x=v, y=np.float32(0.5)), y=x)

    return loop(number(5), body, number(0), x)


def nested(x):
    """A loop in a loop in a branch: the inner one reads the outer one's variables, the function's values and constants."""
    scale = mb.mul(x=np.float32(2), y=np.float32(0.25))

    def outer(n, v):
        def inner(k, w):
            return mb.add(x=k, y=number(1)), mb.add(x=mb.mul(x=w, y=scale), y=mb.mul(x=x, y=mb.cast(x=n, dtype="fp32")))

        _, w = loop(n, inner, number(0), v)
        return mb.add(x=n, y=number(1)), w

    return mb.cond(pred=positive(x), _true_fn=lambda: loop(number(4), outer, number(0), x)[1], _false_fn=lambda: x)


def nested_by_hand(x):
    v = x
    for n in range(4):
        for _ in range(n):
            v = v * np.float32(0.5) + x * n
    return v


def branch_in_a_loop(x):
    def body(n, v):
        even = mb.equal(x=mb.mod(x=n, y=number(2)), y=number(0))
        return mb.add(x=n, y=number(1)), mb.cond(pred=even, _true_fn=lambda: mb.add(x=v, y=x), _false_fn=lambda: mb.mul(x=v, y=v))

    return loop(number(5), body, number(0), x)[1]


def branch_in_a_loop_by_hand(x):
    v = x
    for n in range(5):
        v = v + x if n % 2 == 0 else v * v
    return v


def grows(x):
    """A loop variable of another shape each round."""

    def body(n, v):
        return mb.add(x=n, y=number(1)), mb.concat(
            values=[v, mb.expand_dims(x=mb.reduce_sum(x=v, axes=[0], keep_dims=False), axes=[0])], axis=0
        )

    return loop(number(20), body, number(0), mb.expand_dims(x=x, axes=[0]))[1]


def grows_by_hand(x):
    v = x[None]
    for _ in range(20):
        v = np.concatenate([v, v.sum(axis=0, keepdims=True)])
    return v


def outputs_of_every_kind(x):
    """What a round gives out: an outer value, a constant of the block, a folded one, another variable, its own, a list. (The
    builder wants what is constant to start as it stays.)"""
    folded = mb.add(x=np.float32([1, 1, 1]), y=np.float32([1, 2, 3]))
    ls = mb.make_list(init_length=number(3), elem_shape=(number(3),))

    def body(n, a, b, c, d, e, ls):
        kept = mb.list_write(ls=ls, index=n, value=mb.add(x=a, y=mb.mul(x=b, y=d)))
        return mb.add(x=n, y=number(1)), x, mb.const(val=np.float32([5, 6, 7])), folded, mb.identity(x=a), e, kept

    zeros = mb.mul(x=x, y=np.float32(0))
    *values, ls = loop(number(3), body, number(0), zeros, np.float32([5, 6, 7]), folded, x, zeros, ls)
    return *values, mb.list_gather(ls=ls, indices=np.int32([0, 1, 2]))


def every_kind_by_hand(x):
    zeros, fixed = np.zeros_like(x), np.float32([5, 6, 7])
    return np.int32(3), x, fixed, np.float32([2, 3, 4]), x, zeros, np.stack([fixed * x, x, x + fixed * x])


def swaps(x):
    """Both variables change at once."""

    def body(n, a, b):
        return mb.add(x=n, y=number(1)), b, mb.add(x=a, y=b)

    return loop(number(7), body, number(0), x, mb.mul(x=x, y=np.float32(2)))


def swaps_by_hand(x):
    a, b = x, 2 * x
    for _ in range(7):
        a, b = b, a + b
    return np.int32(7), a, b


def twice(x):
    """The round count comes from the input; the second loop starts where the first ended."""
    below = mb.cast(x=mb.reduce_max(x=x, keep_dims=False), dtype="int32")

    def body(n, v):
        return mb.add(x=n, y=number(1)), mb.add(x=v, y=np.float32(1))

    _, v = loop(below, body, number(0), x)
    return loop(mb.add(x=below, y=below), body, number(0), v)


def case(op, build, expected, label, given=NUMBERS, **options):
    return Case(op, "iOS15", build, {"x": given}, expected, "python", label, options=options)


CASES = [
    *(case("cond", branches, lambda x: x * 2 if x.sum() > 0 else x - 1, f"{sign}", NUMBERS * sign) for sign in (1, -1)),
    *(
        case("cond", branches_in_branches, branched, f"nested-{n}", given)
        for n, given in enumerate((NUMBERS, -NUMBERS, NUMBERS / 3 + 1))
    ),
    *(case("cond", nested, lambda x: nested_by_hand(x) if x.sum() > 0 else x, f"loops-{sign}", NUMBERS * sign) for sign in (1, -1)),
    case("cond", branch_in_a_loop, branch_in_a_loop_by_hand, "in-a-loop", NUMBERS / 8),
    case("while_loop", captures, lambda x: (np.int32(5), x * sum(0.5**n for n in range(6))), "captures"),
    case("while_loop", grows, grows_by_hand, "grows"),
    case("while_loop", outputs_of_every_kind, every_kind_by_hand, "outputs-of-every-kind"),
    case("while_loop", swaps, swaps_by_hand, "swaps"),
    case("while_loop", twice, lambda x: (np.int32(2 * x.max()), x + 3 * x.max()), "rounds-computed"),
    case("while_loop", twice, lambda x: (np.int32(0), x), "no-round", np.float32([0, 0.5, -1])),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_one_program_many_shapes_and_both_branches(tmp_path):
    """Inputs of several shapes and signs in turn: no call sees what an earlier one compiled or computed."""

    def build(x):
        total = mb.cond(pred=positive(x), _true_fn=lambda: grows(x), _false_fn=lambda: mb.expand_dims(x=x, axes=[0]))
        return total, swaps(x)[2], branch_in_a_loop(mb.mul(x=x, y=np.float32(0.125)))

    program = load(save(build, {"x": ((None,), np.float32)}, tmp_path))
    for size, sign in ((3, 1), (2, -1), (5, 1), (3, -1), (2, 1), (3, 1), (5, -1)):
        x = sign * np.arange(1, size + 1, dtype=np.float32)
        wanted = (grows_by_hand(x) if sign > 0 else x[None], swaps_by_hand(x)[2], branch_in_a_loop_by_hand(x / 8))
        for one, other in zip(program.predict({"x": x}).values(), wanted, strict=True):
            close(one, other, 2e-6)


def test_a_loop_keeps_what_was_captured_and_what_it_was_given(tmp_path):
    """The inputs, and values that a loop reads and gives out, are the same afterwards."""

    def build(x):
        doubled = mb.mul(x=x, y=np.float32(2))

        def body(n, v):
            return mb.add(x=n, y=number(1)), mb.add(x=v, y=doubled)

        first = loop(number(3), body, number(0), doubled)[1]
        return first, doubled, loop(number(2), body, number(0), first)[1]

    x = NUMBERS.copy()
    program = load(save(build, {"x": x}, tmp_path))
    for _ in range(3):
        for one, other in zip(program.predict({"x": x}).values(), (8 * x, 2 * x, 12 * x), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(x, NUMBERS)
