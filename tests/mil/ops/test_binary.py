"""Golden cases: elementwise functions of two tensors, and select."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import load

COLUMN = np.array([[[-7.5, 2.0, 0.25]], [[7.5, -2.0, 3.0]]], np.float32)
ROWS = np.array([[2.0], [-3.0], [0.5]], np.float32)
NUMBERS = {"x": COLUMN, "y": ROWS}
"""[2, 1, 3] and [3, 1]: both broadcast, to [2, 3, 3]."""
INTEGERS = {
    "x": np.array([[-7, 7, -8, 8, 0, 9]], np.int32),
    "y": np.array([[2], [-2], [3], [-3], [1]], np.int32),
}
ARITHMETIC = {
    "add": operator.add,
    "floor_div": operator.floordiv,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": operator.mod,
    "mul": operator.mul,
    "real_div": operator.truediv,
    "sub": operator.sub,
}
COMPARISONS = {
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "not_equal": np.not_equal,
}
LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
SPECIAL = np.array([np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 5.5], np.float32)


def plain(name):
    return lambda x, y: getattr(mb, name)(x=x, y=y)


def as_integers(build):
    """Booleans cannot be given out."""
    return lambda **given: mb.cast(x=build(**given), dtype="int32")


def positive(x):
    return mb.greater(x=x, y=np.float32(0))


def quietly(function):
    def expected(x, y):
        with np.errstate(all="ignore"):
            return function(x, y)

    return expected


def written_out(function):
    """Of float64, whose rounding does not matter here."""
    return lambda x, y: function(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)


CASES = [
    *(Case(op, "iOS15", plain(op), NUMBERS, written_out(function), "numpy") for op, function in ARITHMETIC.items()),
    *(
        Case(op, "iOS15", plain(op), INTEGERS, inferred(plain(op)), "value_inference", "int32")
        for op in ARITHMETIC
        if op != "real_div"
    ),
    *(
        Case(op, "iOS15", as_integers(plain(op)), inputs, quietly(function), "numpy", label)
        for op, function in COMPARISONS.items()
        for inputs, label in (
            ({"x": COLUMN, "y": np.array([2.0, 2.0, 3.0], np.float32)}, "fp32"),
            ({"x": INTEGERS["x"], "y": INTEGERS["x"].T}, "int32"),
        )
    ),
    *(
        Case(
            op, "iOS15", as_integers(lambda x, y, op=op: getattr(mb, op)(x=positive(x), y=positive(y))), NUMBERS, expected, "numpy"
        )
        for op, function in LOGICAL.items()
        for expected in [lambda x, y, function=function: function(x > 0, y > 0)]
    ),
    # A scalar on either side.
    *(
        Case(op, "iOS15", build, {"x": COLUMN}, expected, "numpy", label)
        for op in ("sub", "real_div", "mod", "floor_div", "maximum")
        for function in [ARITHMETIC[op]]
        for build, expected, label in (
            (
                lambda x, op=op: getattr(mb, op)(x=x, y=np.float32(-2)),
                lambda x, function=function: function(x, np.float32(-2)),
                "scalar-y",
            ),
            (
                lambda x, op=op: getattr(mb, op)(x=np.float32(-2), y=x),
                lambda x, function=function: function(np.float32(-2), x),
                "scalar-x",
            ),
        )
    ),
    # Division of integers: towards zero, never up or down; by zero: 0, and the rest is unharmed.
    Case(
        "real_div",
        "iOS15",
        plain("real_div"),
        INTEGERS,
        lambda x, y: np.trunc(x / y.astype(np.float64)).astype(np.int32),
        "numpy",
        "int32",
    ),
    *(
        Case(
            op,
            "iOS15",
            plain(op),
            {"x": np.array([-5, 0, 5, 6, -(2**31)], np.int32), "y": np.array([0, 0, 0, 4, -1], np.int32)},
            expected,
            source,
            "int32-by-zero",
        )
        for op, expected, source in (
            ("floor_div", quietly(operator.floordiv), "numpy"),
            ("mod", quietly(operator.mod), "numpy"),
            # The least int32 over -1 does not fit: it wraps, as in numpy's other division.
            ("real_div", lambda x, y: np.array([0, 0, 0, 1, -(2**31)], np.int32), "definition"),
        )
    ),
    *(
        Case(op, "iOS15", plain(op), {"x": SPECIAL[:, None], "y": SPECIAL[None]}, quietly(function), "numpy", "special")
        for op, function in ARITHMETIC.items()
    ),
    # pow.
    Case(
        "pow",
        "iOS15",
        plain("pow"),
        {"x": np.array([[-2.0], [0.0], [0.5], [3.0]], np.float32), "y": np.array([-1.0, 0.0, 0.5, 2.0, 3.0], np.float32)},
        quietly(operator.pow),
        "numpy",
    ),
    *(
        Case("pow", "iOS15", build, {"x": np.abs(COLUMN)}, lambda x, y=y: x.astype(np.float64) ** y, "numpy", f"constant-{y}")
        for y in (0.5, 2.0, -1.0, 1.7)
        for build in [lambda x, y=y: mb.pow(x=x, y=np.float32(y))]
    ),
    Case(
        "pow",
        "iOS15",
        plain("pow"),
        {"x": np.array([[-3], [0], [2], [46341]], np.int32), "y": np.array([0, 1, 2, 5], np.int32)},
        quietly(operator.pow),
        "numpy",
        "int32",
    ),
    Case(
        "pow",
        "iOS15",
        plain("pow"),
        {"x": np.array([-1, 1, 2, -2], np.int32), "y": np.array([-3, -2, -1, -1], np.int32)},
        lambda x, y: np.trunc(x.astype(np.float64) ** y).astype(np.int32),
        "numpy",
        "int32-negative",
    ),
    # select.
    Case(
        "select",
        "iOS15",
        lambda x, a, b: mb.select(cond=positive(x), a=a, b=b),
        {"x": COLUMN[:, 0], "a": np.array([[1.0], [2.0]], np.float32), "b": np.array([10.0, 20.0, 30.0], np.float32)},
        lambda x, a, b: np.where(x > 0, a, b),
        "numpy",
        "broadcast",
    ),
    Case(
        "select",
        "iOS15",
        lambda x: mb.select(cond=positive(x), a=x, b=np.float32(-np.inf)),
        {"x": COLUMN},
        lambda x: np.where(x > 0, x, -np.inf),
        "numpy",
        "scalar",
    ),
    Case(
        "select",
        "iOS15",
        lambda x, a: mb.select(cond=mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0)), a=a, b=np.int32(7)),
        {"x": COLUMN, "a": INTEGERS["x"]},
        lambda x, a: np.where(x.sum() > 0, a, 7),
        "numpy",
        "int32-scalar-cond",
    ),
    Case(
        "select",
        "iOS15",
        lambda x, y: mb.cast(x=mb.select(cond=positive(x), a=positive(y), b=mb.logical_not(x=positive(y))), dtype="int32"),
        {"x": COLUMN, "y": COLUMN[::-1].copy()},
        lambda x, y: np.where(x > 0, y > 0, ~(y > 0)),
        "numpy",
        "bool",
    ),
    Case(
        "select",
        "iOS15",
        lambda x, y: mb.select(cond=mb.equal(x=y, y=np.int32(0)), a=np.int32(-1), b=mb.floor_div(x=x, y=y)),
        {"x": INTEGERS["x"][0], "y": np.array([0, 2, 0, 3, 0, -2], np.int32)},
        lambda x, y: np.array([-1 if b == 0 else a // b for a, b in zip(x.tolist(), y.tolist(), strict=True)], np.int32),
        "numpy",
        "discards-division-by-zero",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_nan_wins_maximum_and_minimum(tmp_path):
    def build(x):
        nan = mb.sub(x=x, y=x)  # NaN where x is infinite, else 0
        return mb.maximum(x=nan, y=np.float32(1)), mb.minimum(x=np.float32(1), y=nan), mb.select(cond=positive(x), a=nan, b=x)

    x = np.array([np.inf, 2.0, -1.0], np.float32)
    found = list(load(save(build, {"x": x}, tmp_path)).predict({"x": x}).values())
    np.testing.assert_array_equal(found, [[np.nan, 1, 1], [np.nan, 0, 0], [np.nan, 0, -1]])


@pytest.mark.parametrize("mode", ["native", "emulate"])
def test_half_precision(mode, tmp_path):
    """Both round once: the results are equal to numpy's own fp16, and 60000 + 60000 overflows."""

    def build(x, y):
        x, y = mb.cast(x=x, dtype="fp16"), mb.cast(x=y, dtype="fp16")
        results = [getattr(mb, op)(x=x, y=y) for op in ARITHMETIC]
        results.append(mb.cast(x=mb.less(x=x, y=y), dtype="fp16"))
        return tuple(mb.cast(x=result, dtype="fp32") for result in results)

    inputs = {"x": np.array([0.1, -7.3, 60000, 5], np.float32), "y": np.array([0.30001, 2.1, 60000, -0.7], np.float32)}
    found = load(save(build, inputs, tmp_path), precision=mode).predict(inputs).values()
    x, y = (value.astype(np.float16) for value in inputs.values())
    with np.errstate(over="ignore"):
        wanted = [function(x, y) for function in ARITHMETIC.values()] + [(x < y).astype(np.float16)]
    assert np.isinf(wanted[0][2])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other.astype(np.float32))
