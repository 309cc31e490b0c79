"""Golden cases: lists. The witness is a Python list of numpy arrays."""

from __future__ import annotations

import time

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run, save
from tests.mil.cases import Case, check, close
from workbench.mil import ExecutionError, load

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
NUMBERS = np.int32([7, -3, 5])


def each(n):
    return np.int32(n)


def filled(x, length=4, **options):
    """A list of the rows of ``x``."""
    ls = mb.make_list(init_length=each(length), elem_shape=(each(3),), **options)
    return mb.list_scatter(ls=ls, indices=np.arange(length, dtype=np.int32), value=x)


def all_of(ls, length):
    return mb.list_gather(ls=ls, indices=np.arange(length, dtype=np.int32))


def case(op, build, expected, label, given=ROWS, **options):
    return Case(op, "iOS15", build, {"x": given}, expected, "numpy", label, options=options)


def after_writes(x):
    """Two values of one list: a write leaves the earlier one as it was."""
    first = filled(x)
    second = mb.list_write(ls=first, index=each(1), value=np.float32([9, 8, 7]))
    return all_of(first, 4), all_of(second, 4), mb.list_read(ls=second, index=each(1)), mb.list_read(ls=first, index=each(1))


def grown(x):
    """Writes past the end of a dynamic list: what lies between is zeros."""
    ls = mb.list_write(ls=mb.make_list(elem_shape=(each(3),)), index=each(3), value=mb.list_read(ls=filled(x), index=each(2)))
    return mb.list_length(ls=ls), all_of(ls, 4)


def scattered_past_the_end(x):
    ls = mb.list_scatter(ls=filled(x), indices=np.int32([5, 4]), value=np.float32([[1, 1, 1], [2, 2, 2]]))
    return mb.list_length(ls=ls), all_of(ls, 6)


def loop(x):
    """As a TensorFlow loop over a TensorArray: read, write, gather afterwards."""
    source = filled(x)
    made = mb.make_list(init_length=each(1), elem_shape=(each(3),), dynamic_length=True)

    def body(n, made):
        row = mb.list_read(ls=source, index=n)
        return mb.add(x=n, y=each(1)), mb.list_write(ls=made, index=n, value=mb.mul(x=row, y=row))

    count, made = mb.while_loop(_cond=lambda n, made: mb.less(x=n, y=each(4)), _body=body, loop_vars=(each(0), made))
    return count, mb.list_length(ls=made), all_of(made, 4)


def computed_places(x):
    """Places that the program computes."""
    places = mb.cast(x=mb.sub(x=np.float32([4, 5, 6]), y=mb.list_read(ls=filled(x), index=each(0))), dtype="int32")
    return mb.list_gather(ls=filled(x), indices=places)


CASES = [
    case(
        "make_list",
        lambda x: all_of(mb.make_list(init_length=each(3), elem_shape=(each(3),)), 3),
        lambda x: np.zeros((3, 3), np.float32),
        "zeros",
    ),
    case(
        "make_list",
        lambda x: (
            all_of(mb.make_list(init_length=each(2), elem_shape=(each(1), each(2)), dtype="int32", dynamic_length=False), 2),
            mb.list_length(ls=mb.make_list(init_length=each(6), elem_shape=(each(2),), dynamic_length=False)),
        ),
        lambda x: (np.zeros((2, 1, 2), np.int32), np.int32(6)),
        "fixed-integers",
    ),
    case(
        "make_list",
        lambda x: mb.cast(x=all_of(mb.make_list(init_length=each(2), elem_shape=(each(2),), dtype="bool"), 2), dtype="int32"),
        lambda x: np.zeros((2, 2), np.int32),
        "booleans",
    ),
    case(
        "make_list",
        lambda x: mb.list_gather(
            ls=mb.make_list(init_length=mb.cast(x=mb.reduce_sum(x=x, keep_dims=False), dtype="int32"), elem_shape=(each(2),)),
            indices=np.int32([20, 77]),
        ),
        lambda x: np.zeros((2, 2), np.float32),
        "length-computed",
    ),
    case(
        "list_write",
        lambda x: all_of(
            mb.list_write(ls=mb.make_list(init_length=each(2), elem_shape=("rows", each(3))), index=each(1), value=x), 2
        ),
        lambda x: np.stack([np.zeros_like(x), x]),
        "shape-known-at-run-time",
    ),
    case(
        "list_write",
        after_writes,
        lambda x: (x, np.float32([x[0], [9, 8, 7], x[2], x[3]]), np.float32([9, 8, 7]), x[1]),
        "earlier-value-stays",
    ),
    case("list_write", grown, lambda x: (np.int32(4), np.float32([[0] * 3] * 3 + [x[2]])), "grows"),
    case("list_write", loop, lambda x: (np.int32(4), np.int32(4), x * x), "loop"),
    case(
        "make_list",
        lambda x: mb.add(x=mb.list_read(ls=mb.make_list(elem_shape=(), dtype="int32"), index=each(0)), y=x),
        lambda x: x,
        "scalars",
        NUMBERS,
    ),
    case("list_length", lambda x: mb.list_length(ls=filled(x)), lambda x: np.int32(4), "dynamic"),
    case("list_length", lambda x: mb.list_length(ls=filled(x, dynamic_length=False)), lambda x: np.int32(4), "fixed"),
    case("list_read", lambda x: [mb.list_read(ls=filled(x), index=each(n)) for n in (3, 0)], lambda x: (x[3], x[0]), "rows"),
    case(
        "list_read",
        lambda x: mb.list_read(ls=filled(ROWS), index=mb.reduce_sum(x=x, keep_dims=False)),
        lambda x: ROWS[x.sum()],
        "index-computed",
        np.int32([2, -3, 3]),
    ),
    case(
        "list_gather",
        lambda x: mb.list_gather(ls=filled(x), indices=np.int32([3, 0, 3, 1, 1])),
        lambda x: x[[3, 0, 3, 1, 1]],
        "repeats",
    ),
    case("list_gather", computed_places, lambda x: x[np.int32([4, 5, 6] - x[0])], "places-computed"),
    case("list_gather", lambda x: mb.list_gather(ls=filled(x), indices=np.zeros(0, np.int32)), lambda x: x[:0], "nothing"),
    case(
        "list_scatter",
        lambda x: all_of(mb.list_scatter(ls=filled(x), indices=np.int32([2, 0]), value=np.float32([[1, 1, 1], [2, 2, 2]])), 4),
        lambda x: np.float32([[2] * 3, x[1], [1] * 3, x[3]]),
        "some",
    ),
    case(
        "list_scatter",
        scattered_past_the_end,
        lambda x: (np.int32(6), np.concatenate([x, np.float32([[2] * 3, [1] * 3])])),
        "grows",
    ),
    case(
        "list_scatter",
        lambda x: mb.cast(
            x=all_of(
                mb.list_scatter(
                    ls=mb.make_list(elem_shape=(each(3),), dtype="fp16"),
                    indices=np.int32([0, 1]),
                    value=np.float16([[1, 2, 3], [4, 5, 6]]),
                ),
                2,
            ),
            dtype="fp32",
        ),
        lambda x: np.float32([[1, 2, 3], [4, 5, 6]]),
        "halves",
    ),
    *(
        case(
            "list_gather",
            lambda x: mb.cast(x=all_of(mb.make_list(init_length=each(2), elem_shape=(each(2),), dtype="fp16"), 2), dtype="fp32"),
            lambda x: np.zeros((2, 2), np.float32),
            f"zero-halves-{reading}",
            precision=reading,
        )
        for reading in ("native", "emulate", "fp16-weights")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def fixed(x):
    return filled(x, dynamic_length=False)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda x: mb.list_read(ls=filled(x), index=each(4)), "reads element 4 of a list of 4"),
        (lambda x: mb.list_read(ls=filled(x), index=each(-1)), "reads element -1"),
        (lambda x: mb.list_gather(ls=filled(x), indices=np.int32([0, 9])), "reads element 9"),
        (lambda x: all_of(mb.list_write(ls=fixed(x), index=each(4), value=np.float32([1, 2, 3])), 4), "fixed length 4"),
        (lambda x: all_of(mb.list_write(ls=filled(x), index=each(-1), value=np.float32([1, 2, 3])), 4), r"\[-1\]"),
        (lambda x: mb.list_read(ls=mb.make_list(init_length=each(2), elem_shape=("n",)), index=each(0)), "never written"),
        (lambda x: mb.list_length(ls=mb.list_write(ls=filled(x), index=each(2**30), value=np.float32([1, 2, 3]))), "bytes"),
        (lambda x: mb.list_length(ls=mb.make_list(init_length=each(2**30), elem_shape=(each(3),))), "bytes"),
    ],
)
def test_what_a_list_refuses(build, says, tmp_path):
    with pytest.raises(ExecutionError, match=says):
        run(build, {"x": ROWS}, tmp_path, memory_bytes=1 << 30)


def test_elements_of_any_size_in_one_program(tmp_path):
    """A loaded program sees rows of several lengths: what was compiled for one is not used for another."""

    def build(x):
        ls = mb.make_list(init_length=each(1), elem_shape=("n",))

        def body(n, ls):
            grown = mb.mul(x=x, y=mb.cast(x=mb.add(x=n, y=each(1)), dtype="fp32"))
            return mb.add(x=n, y=each(1)), mb.list_write(ls=ls, index=n, value=grown)

        _, ls = mb.while_loop(_cond=lambda n, ls: mb.less(x=n, y=each(3)), _body=body, loop_vars=(each(0), ls))
        return mb.shape(x=mb.list_read(ls=ls, index=each(1))), mb.mul(x=all_of(ls, 3), y=x)

    program = load(save(build, {"x": ((None,), np.float32)}, tmp_path))
    for size in (4, 2, 7, 4):
        x = np.arange(size, dtype=np.float32)
        shape, found = program.predict({"x": x}).values()
        assert shape.tolist() == [size]
        close(found, np.stack([x * x, 2 * x * x, 3 * x * x]), 0)


def test_a_thousand_writes_copy_no_tensors(tmp_path):
    """Each element is 4 kB: 1,000 writes that copied the list's tensors would move 4 GB."""
    row = np.ones((1024,), np.float32)

    def build(x):
        ls = mb.make_list(init_length=each(1), elem_shape=(each(1024),))
        _, ls = mb.while_loop(
            _cond=lambda n, ls: mb.less(x=n, y=each(1000)),
            _body=lambda n, ls: (
                mb.add(x=n, y=each(1)),
                mb.list_write(ls=ls, index=n, value=mb.mul(x=x, y=mb.cast(x=n, dtype="fp32"))),
            ),
            loop_vars=(each(0), ls),
        )
        return mb.list_length(ls=ls), mb.list_read(ls=ls, index=each(999))

    program = load(save(build, {"x": row}, tmp_path))
    program.predict({"x": row})
    start = time.process_time()
    length, last = program.predict({"x": row}).values()
    assert time.process_time() - start < 0.5
    assert length == 1000
    np.testing.assert_array_equal(last, 999 * row)
    body = program._block.inner[next(iter(program._block.inner))][1]
    assert len(body._plans) == 1  # however long the list is
