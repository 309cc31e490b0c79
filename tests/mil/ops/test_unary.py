"""Golden cases: elementwise functions of one tensor."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from scipy import special

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import load

ANY = np.array([[-2.5, -1.5, -0.5], [0.0, 0.5, 1.5], [2.5, 7.25, -80.0]], np.float32)
UNIT = np.array([[-1.0, -0.75, -0.1], [0.0, 0.3, 1.0]], np.float32)
INSIDE = np.array([[-0.99, -0.75, -0.1], [0.0, 0.3, 0.99]], np.float32)
SMALL = np.array([[-3.0, -0.75, -0.1], [0.0, 0.3, 4.0]], np.float32)
POSITIVE = np.array([[1e-6, 0.1, 0.5], [1.0, 3.0, 1000.0]], np.float32)
INTEGERS = np.array([[-7, -1, 0], [1, 2, 30]], np.int32)

FUNCTIONS = {
    "abs": (np.abs, ANY),
    "acos": (np.arccos, UNIT),
    "asin": (np.arcsin, UNIT),
    "atan": (np.arctan, ANY),
    "atanh": (np.arctanh, INSIDE),
    "ceil": (np.ceil, ANY),
    "cos": (np.cos, ANY),
    "cosh": (np.cosh, SMALL),
    "erf": (special.erf, SMALL),
    "exp": (np.exp, SMALL),
    "exp2": (np.exp2, SMALL),
    "floor": (np.floor, ANY),
    "round": (np.rint, ANY),
    "sign": (np.sign, ANY),
    "sin": (np.sin, ANY),
    "sinh": (np.sinh, SMALL),
    "sqrt": (np.sqrt, POSITIVE),
    "square": (np.square, ANY),
    "tan": (np.tan, SMALL),
    "tanh": (np.tanh, SMALL),
}
EPSILON = {
    "inverse": (lambda x, epsilon: 1 / (x + epsilon), 1e-4),
    "log": (lambda x, epsilon: np.log(x + epsilon), 1e-45),
    "rsqrt": (lambda x, epsilon: 1 / np.sqrt(x + epsilon), 1e-12),
}


def exactly(function, dtype=np.float32):
    """``function`` in float64, the result in ``dtype``."""

    def expected(**arrays):
        with np.errstate(all="ignore"):
            return function(*(array.astype(np.float64) for array in arrays.values())).astype(dtype)

    return expected


def halved(function):
    """In fp16: the input rounded to it, the result rounded to it."""
    return lambda x: exactly(function, np.float16)(x=x.astype(np.float16)).astype(np.float32)


def in_half(op, **parameters):
    return lambda x: mb.cast(x=op(x=mb.cast(x=x, dtype="fp16"), **parameters), dtype="fp32")


def plain(name):
    return lambda x: getattr(mb, name)(x=x)


def with_nan(build):
    """x - x is NaN where x is infinite."""
    return lambda x: build(x=mb.add(x=mb.sub(x=x, y=x), y=np.float32(0)))


INFINITE = np.array([np.inf, -np.inf, 1.0], np.float32)

CASES = [
    *(Case(op, "iOS15", plain(op), {"x": x}, exactly(function), "numpy") for op, (function, x) in FUNCTIONS.items()),
    *(
        Case(op, "iOS15", plain(op), {"x": INTEGERS}, inferred(plain(op)), "value_inference", "int32")
        for op in ("abs", "sign", "square")
    ),
    Case(
        "exp2",
        "iOS15",
        plain("exp2"),
        {"x": np.array([-3, -1, 0, 1, 5, 30, 31, 90], np.int32)},
        lambda x: np.clip(np.trunc(2.0**x), None, 2**31 - 1).astype(np.int32),
        "numpy",
        "int32",
    ),
    Case("sign", "iOS15", with_nan(plain("sign")), {"x": INFINITE}, exactly(lambda x: np.sign(x - x)), "numpy", "nan"),
    Case(
        "round",
        "iOS15",
        plain("round"),
        {"x": np.array([0.5, 1.5, 2.5, -0.5, -1.5, 8388609.0], np.float32)},
        inferred(plain("round")),
        "value_inference",
        "half-to-even",
    ),
    Case("sqrt", "iOS15", plain("sqrt"), {"x": np.array([-1.0, np.inf, 0.0], np.float32)}, exactly(np.sqrt), "numpy", "nan"),
    Case(
        "logical_not",
        "iOS15",
        lambda x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=np.float32(0))), dtype="int32"),
        {"x": ANY},
        lambda x: np.logical_not(x > 0),
        "numpy",
    ),
    # Bounds and thresholds.
    *(
        Case("clip", opset, build, {"x": ANY}, lambda x: np.minimum(np.maximum(x, np.float32(-1)), np.float32(2)), "numpy")
        for opset in ("iOS15", "iOS17")
        for build in [lambda x: mb.clip(x=x, alpha=np.float32(-1), beta=np.float32(2))]
    ),
    Case(
        "clip",
        "iOS15",
        lambda x: mb.clip(x=x, alpha=np.float32(2), beta=np.float32(-1)),
        {"x": ANY},
        inferred(lambda x: mb.clip(x=x, alpha=np.float32(2), beta=np.float32(-1))),
        "value_inference",
        "crossed",
    ),
    Case(
        "clip",
        "iOS17",
        in_half(mb.clip, alpha=np.float16(-1), beta=np.float16(np.inf)),
        {"x": ANY},
        lambda x: np.maximum(x, -1),
        "numpy",
        "fp16-infinite",
    ),
    Case(
        "clip",
        "iOS15",
        with_nan(lambda x: mb.clip(x=x, alpha=np.float32(1), beta=np.float32(2))),
        {"x": INFINITE},
        exactly(lambda x: np.clip(x - x, 1, 2)),
        "numpy",
        "nan",
    ),
    Case(
        "threshold",
        "iOS15",
        lambda x: mb.threshold(x=x, alpha=np.float32(0.5)),
        {"x": ANY},
        lambda x: np.maximum(x, np.float32(0.5)),
        "numpy",
    ),
    Case(
        "threshold",
        "iOS15",
        lambda x: mb.threshold(x=x, alpha=np.int32(2)),
        {"x": INTEGERS},
        lambda x: np.maximum(x, 2),
        "numpy",
        "int32",
    ),
    # Epsilon: given, by default (at zero it is all there is), in another type than x.
    *(
        Case(
            op,
            opset,
            lambda x, op=op: getattr(mb, op)(x=x, epsilon=np.float32(0.25)),
            {"x": POSITIVE},
            exactly(lambda x, function=function: function(x, 0.25)),
            "numpy",
            "epsilon",
        )
        for op, (function, _) in EPSILON.items()
        for opset in ("iOS15", "iOS17")
    ),
    *(
        Case(
            op,
            opset,
            plain(op),
            {"x": np.array([0.0, 1e-3, 5.0], np.float32)},
            exactly(lambda x, function=function, default=default: function(x, np.float64(np.float32(default)))),
            "numpy",
            "default",
        )
        for op, (function, default) in EPSILON.items()
        for opset in ("iOS15", "iOS17")
    ),
    *(
        Case(
            op,
            "iOS17",
            lambda x, op=op: getattr(mb, op)(x=x, epsilon=np.float16(0.1)),
            {"x": POSITIVE},
            exactly(lambda x, function=function: function(x, np.float64(np.float16(0.1)))),
            "numpy",
            "fp16-epsilon",
        )
        for op, (function, _) in EPSILON.items()
    ),
    *(
        Case(
            op,
            opset,
            in_half(getattr(mb, op)),
            {"x": np.array([0.0, 0.5, 5.0], np.float32)},
            halved(lambda x, function=function, default=default: function(x, np.float64(np.float16(default)))),
            "numpy",
            f"fp16-{mode}",
            2e-3,
            {"precision": mode},
        )
        for op, (function, default) in EPSILON.items()
        for opset in ("iOS15", "iOS17")
        for mode in ("native", "emulate")
    ),
    *(
        Case(
            op,
            "iOS17",
            in_half(getattr(mb, op), epsilon=np.float32(0.1)),
            {"x": np.array([0.0, 0.5, 5.0], np.float32)},
            halved(lambda x, function=function: function(x, 0.1)),
            "numpy",
            "fp16-with-fp32-epsilon",
            2e-3,
        )
        for op, (function, _) in EPSILON.items()
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("mode", ["native", "emulate"])
def test_functions_in_half_precision(mode, tmp_path):
    """All in one program; ``emulate`` gives the nearest fp16 (one step where the float32 before it was between two)."""

    def build(**inputs):
        return tuple(in_half(getattr(mb, op))(inputs[op]) for op in FUNCTIONS)

    inputs = {op: x.reshape(-1)[:6] for op, (_, x) in FUNCTIONS.items()}
    results = load(save(build, inputs, tmp_path), precision=mode).predict(inputs)
    for (op, (function, _)), found in zip(FUNCTIONS.items(), results.values(), strict=True):
        wanted = halved(function)(x=inputs[op]).astype(np.float16)
        np.testing.assert_array_max_ulp(found.astype(np.float16), wanted, maxulp=1)


def test_scalars_keep_their_rank(tmp_path):
    def build(x):
        return mb.exp(x=mb.reduce_max(x=x)), mb.rsqrt(x=mb.reduce_max(x=x)), mb.clip(x=mb.reduce_max(x=x), alpha=0.0, beta=1.0)

    x = np.array([1.5, -1.0], np.float32)
    found = load(save(build, {"x": x}, tmp_path)).predict({"x": x})
    assert [value.shape for value in found.values()] == [(), (), ()]
    np.testing.assert_allclose(list(found.values()), [np.exp(1.5), 1.5**-0.5, 1.0], rtol=1e-6)
