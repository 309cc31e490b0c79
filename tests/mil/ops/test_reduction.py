"""Golden cases: reductions."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from scipy import special

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import load

X = np.array([[[1.5, -2.0, 0.5], [3.0, 0.25, -1.0]], [[-4.0, 5.0, 2.5], [0.75, 1.25, 2.0]]], np.float32)
INTEGERS = np.array([[[7, -2, 1], [-3, 5, 2]], [[-4, 9, 6], [1, 1, -8]]], np.int32)
POSITIVE = np.array([[[7, 2, 1], [3, 5, 2]], [[4, 9, 6], [1, 1, 8]]], np.int32)


def log_sum(x, axis, keepdims):
    return np.log(np.sum(x, axis=axis, keepdims=keepdims))


FUNCTIONS = {
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "reduce_log_sum": log_sum,
    "reduce_log_sum_exp": lambda x, axis, keepdims: special.logsumexp(x, axis=axis, keepdims=keepdims),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}
AXES = {
    "all": (None, False),
    "all-kept": (None, True),
    "last": ([-1], False),
    "first-kept": ([0], True),
    "two": ([0, -1], False),
    "two-kept": ([-1, 1], True),
}


def over(op, axes, keep):
    return lambda x: getattr(mb, op)(x=x, keep_dims=keep, **({} if axes is None else {"axes": axes}))


def reduced(function, axes, keep):
    def expected(x):
        with np.errstate(invalid="ignore"):
            return function(x.astype(np.float64), axis=None if axes is None else tuple(axes), keepdims=keep)

    return expected


def truncated(expected):
    """Integers stay integers."""
    return lambda x: np.trunc(expected(x)).astype(np.int32)


CASES = [
    *(
        Case(
            op,
            "iOS15",
            over(op, axes, keep),
            {"x": np.abs(X) if op == "reduce_log_sum" else X},
            reduced(function, axes, keep),
            "numpy",
            label,
        )
        for op, function in FUNCTIONS.items()
        for label, (axes, keep) in AXES.items()
    ),
    *(
        Case(op, "iOS15", over(op, [-1], False), {"x": x}, truncated(reduced(function, [-1], False)), "numpy", "int32")
        for op, function in FUNCTIONS.items()
        for x in [POSITIVE if op == "reduce_log_sum" else INTEGERS]
    ),
    *(
        Case(op, "iOS15", build, {"x": x}, inferred(build), "value_inference", "int32-all")
        for op in FUNCTIONS
        for x in [POSITIVE if op == "reduce_log_sum" else INTEGERS]
        for build in [over(op, None, True)]
    ),
    # A mean of integers is truncated towards zero: -5/2 is -2.
    Case(
        "reduce_mean",
        "iOS15",
        over("reduce_mean", [1], False),
        {"x": np.array([[-2, -3], [3, 2], [2**31 - 1, 2**31 - 1]], np.int32)},
        lambda x: np.array([-2, 2, 2**31 - 1], np.int32),
        "definition",
        "int32-large",
    ),
    # Sums and products of integers wrap.
    *(
        Case(
            op,
            "iOS15",
            over(op, [0], False),
            {"x": np.array([2**31 - 1, 2**31 - 1, 12345], np.int32)},
            inferred(over(op, [0], False)),
            "value_inference",
            "wraps",
        )
        for op in ("reduce_sum", "reduce_prod", "reduce_sum_square")
    ),
    # No axes at all is nothing reduced.
    *(
        Case(
            op, "iOS15", over(op, np.zeros(0, np.int32), False), {"x": np.abs(X)}, reduced(function, [], False), "numpy", "no-axis"
        )
        for op, function in FUNCTIONS.items()
    ),
    # Where the exponentials or the squares of the values themselves would overflow or vanish.
    *(
        Case(op, "iOS15", over(op, [-1], False), {"x": x}, reduced(FUNCTIONS[op], [-1], False), "numpy", label)
        for op, label, x in (
            ("reduce_log_sum_exp", "large", [[1000.0, 1000.0, -1000.0], [-1000.0, -1001.0, -1002.0]]),
            ("reduce_log_sum_exp", "infinite", [[np.inf, 1.0, 2.0], [-np.inf, -np.inf, -np.inf], [-np.inf, 1.0, 2.0]]),
            ("reduce_max", "infinite", [[-np.inf, -np.inf], [np.inf, 0.0]]),
            ("reduce_sum", "infinite", [[-np.inf, 1.0], [np.inf, -np.inf]]),
        )
        for x in [np.array(x, np.float32)]
    ),
    *(
        Case(op, opset, lambda x, op=op, options=options: getattr(mb, op)(x=x, **options), {"x": x}, expected, "numpy", label)
        for op, function in (("reduce_argmax", np.argmax), ("reduce_argmin", np.argmin))
        for opset in ("iOS15", "iOS17")
        for label, x, options, expected in (
            ("default", X, {}, lambda x, function=function: function(x, -1)),
            ("kept", X, {"axis": 1, "keep_dims": True}, lambda x, function=function: function(x, 1)[:, None]),
            ("negative", INTEGERS, {"axis": -3}, lambda x, function=function: function(x, 0)),
            ("ties", X * 0, {"axis": 2}, lambda x, function=function: function(x, 2)),
        )
    ),
    *(
        Case(op, "iOS17", build, {"x": X}, lambda x, function=function: function(x, 1), "numpy", kind)
        for op, function in (("reduce_argmax", np.argmax), ("reduce_argmin", np.argmin))
        for kind in ("uint16", "int32")
        for build in [
            lambda x, op=op, kind=kind: mb.cast(x=getattr(mb, op)(x=x, axis=1, output_dtype=kind), dtype="fp32"),
        ]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize(("mode", "steps"), [("native", 3), ("emulate", 1)])
def test_half_precision(mode, steps, tmp_path):
    """In one program; the squares in a norm do not overflow, and ``emulate`` rounds once."""

    def build(x, norm):
        x, norm = mb.cast(x=x, dtype="fp16"), mb.cast(x=norm, dtype="fp16")
        results = [over(op, [0, 2], False)(x) for op in FUNCTIONS] + [over("reduce_l2_norm", [0], True)(norm)]
        return (*(mb.cast(x=result, dtype="fp32") for result in results), mb.reduce_argmax(x=x, axis=0))

    inputs = {"x": np.abs(X), "norm": np.array([300.0, 400.0], np.float32)}
    *found, best = load(save(build, inputs, tmp_path), precision=mode).predict(inputs).values()
    wanted = [reduced(function, [0, 2], False)(np.abs(X)) for function in FUNCTIONS.values()] + [np.array([500.0])]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=steps * 2.0**-11)
    np.testing.assert_array_equal(best, np.abs(X).argmax(0))


def test_nan_is_the_largest_and_the_smallest(tmp_path):
    def build(x):
        nan = mb.sub(x=x, y=mb.sub(x=x, y=x))  # NaN where x is infinite, else x
        return mb.reduce_max(x=nan), mb.reduce_min(x=nan), mb.reduce_sum(x=nan), mb.reduce_argmax(x=nan), mb.reduce_argmin(x=nan)

    x = np.array([1.0, 5.0, np.inf, -7.0], np.float32)
    *values, most, least = load(save(build, {"x": x}, tmp_path)).predict({"x": x}).values()
    assert np.isnan(values).all() and most == least == 2


def test_sizes_known_at_run_time_only(tmp_path):
    """The same program on two shapes."""
    program = load(
        save(
            lambda x: (over("reduce_prod", [0, 2], True)(x), over("reduce_mean", None, False)(x)),
            {"x": ((None, 3, None), np.float32)},
            tmp_path,
        )
    )
    for shape in ((2, 3, 4), (1, 3, 2), (2, 3, 4)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        product, mean = program.predict({"x": x}).values()
        np.testing.assert_allclose(product, x.prod((0, 2), keepdims=True), rtol=1e-5)
        np.testing.assert_allclose(mean, x.mean(), rtol=1e-5, atol=1e-6)
