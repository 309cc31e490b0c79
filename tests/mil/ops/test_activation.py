"""Golden cases: activation functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb
from scipy import special

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import load
from workbench.mil.errors import ExecutionError
from workbench.mil.registry import find_handler

X = np.array([[-100.0, -6.5, -1.0, -0.25, 0.0], [0.25, 1.0, 6.5, 25.0, 100.0]], np.float32)
NEAR = np.linspace(-4, 4, 33, dtype=np.float32)
"""Where the curves bend, and small enough that the tolerance tells an approximation from the exact function."""
IMAGE = np.linspace(-3, 3, 2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
SLOPES = np.array([0.1, -0.5, 2.0], np.float32)
OFFSETS = np.array([0.5, 3.0, -2.0], np.float32)


def of_torch(function, *arguments, **options):
    """torch's own function, in float64."""
    return lambda x: function(torch.from_numpy(x.astype(np.float64)), *arguments, **options).numpy()


def written(function):
    """A definition, in float64."""
    return lambda x: function(x.astype(np.float64))


def channels(values):
    return values.astype(np.float64)[:, None, None]


def with_parameters(op, kind, **values):
    parameters = {name: np.asarray(value, kind) for name, value in values.items()}
    return lambda x: getattr(mb, op)(x=x, **{name: value if value.ndim else kind(value) for name, value in parameters.items()})


PLAIN = {
    "relu": (of_torch(torch.relu), "torch"),
    "relu6": (of_torch(F.relu6), "torch"),
    "sigmoid": (written(special.expit), "scipy"),
    "silu": (of_torch(F.silu), "torch"),
    "softplus": (written(lambda x: np.logaddexp(0, x)), "numpy"),
    "softsign": (of_torch(F.softsign), "torch"),
}
# op -> (its parameters, the result of x and the parameters in float64)
WITH_PARAMETERS = {
    "clamped_relu": ({"alpha": 0.3, "beta": 5.0}, lambda x, alpha, beta: np.minimum(beta, np.where(x >= 0, x, alpha * x))),
    "elu": ({"alpha": 0.7}, lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x))),
    "leaky_relu": ({"alpha": 0.1}, lambda x, alpha: np.where(x >= 0, x, alpha * x)),
    "linear_activation": ({"alpha": 0.3, "beta": -1.7}, lambda x, alpha, beta: alpha * x + beta),
    "scaled_tanh": ({"alpha": 1.7, "beta": 0.3}, lambda x, alpha, beta: alpha * np.tanh(beta * x)),
    "sigmoid_hard": ({"alpha": 0.2, "beta": 0.4}, lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1)),
    "thresholded_relu": ({"alpha": 1.0}, lambda x, alpha: np.where(x >= alpha, x, 0)),
}
PER_CHANNEL = {
    "prelu": ({"alpha": SLOPES}, lambda x, alpha: np.where(x > 0, x, channels(alpha) * x)),
    "softplus_parametric": (
        {"alpha": SLOPES, "beta": OFFSETS},
        lambda x, alpha, beta: channels(alpha) * np.logaddexp(0, channels(beta) * x),
    ),
}


def computed(function, kind, values):
    """The definition with the parameters as ``kind`` holds them."""
    parameters = {name: np.asarray(value, kind).astype(np.float64) for name, value in values.items()}
    return lambda x: function(x.astype(np.float64), **parameters)


GELU = {
    None: of_torch(F.gelu),
    "EXACT": written(lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2)))),
    "TANH_APPROXIMATION": of_torch(F.gelu, approximate="tanh"),
    "SIGMOID_APPROXIMATION": written(lambda x: x * special.expit(1.702 * x)),
}

CASES = [
    *(
        Case(op, "iOS15", build, {"x": x}, expected, source, label)
        for op, (expected, source) in PLAIN.items()
        for label, x in (("far", X), ("near", NEAR))
        for build in [lambda x, op=op: getattr(mb, op)(x=x)]
    ),
    *(
        Case(op, opset, with_parameters(op, kind, **values), {"x": x}, computed(function, kind, values), "numpy", kind.__name__)
        for table, x in ((WITH_PARAMETERS, X), (WITH_PARAMETERS, NEAR), (PER_CHANNEL, IMAGE))
        for op, (values, function) in table.items()
        for opset, kind in (("iOS15", np.float32), ("iOS17", np.float16))
    ),
    *(
        Case(
            "gelu",
            "iOS15",
            (lambda x, mode=mode: mb.gelu(x=x, mode=mode)) if mode else (lambda x: mb.gelu(x=x)),
            {"x": NEAR},
            expected,
            "torch and scipy",
            mode or "default",
        )
        for mode, expected in GELU.items()
    ),
    *(
        Case(
            "prelu",
            "iOS15",
            lambda x: mb.prelu(x=x, alpha=np.full(3, 0.3, np.float32)),
            {"x": IMAGE.reshape(shape)},
            lambda x: np.where(x > 0, x, np.float32(0.3) * x),
            "numpy",
            f"rank-{len(shape)}",
        )
        for shape in ((2, 3, 4), (2, 3, 2, 2, 1))
    ),
    Case(
        "softplus_parametric",
        "iOS15",
        with_parameters("softplus_parametric", np.float32, alpha=SLOPES, beta=OFFSETS),
        {"x": IMAGE.reshape(2, 3, 4) * 100},
        computed(
            lambda x, alpha, beta: alpha[:, None] * np.logaddexp(0, beta[:, None] * x),
            np.float32,
            {"alpha": SLOPES, "beta": OFFSETS},
        ),
        "numpy",
        "large-rank-3",
    ),
    # A negative upper bound: the documented formula, where value_inference adds the bound twice.
    Case(
        "clamped_relu",
        "iOS15",
        with_parameters("clamped_relu", np.float32, alpha=0.5, beta=-2.0),
        {"x": X},
        computed(WITH_PARAMETERS["clamped_relu"][1], np.float32, {"alpha": 0.5, "beta": -2.0}),
        "definition",
        "negative-bound",
    ),
    *(
        Case(
            "softmax",
            "iOS15",
            build,
            {"x": IMAGE * 40},
            written(lambda x, axis=axis: special.softmax(x, axis)),
            "scipy",
            f"axis{axis}",
        )
        for axis in (0, 1, 3, -2)
        for build in [lambda x, axis=axis: mb.softmax(x=x, axis=axis)]
    ),
    Case(
        "softmax",
        "iOS15",
        lambda x: mb.softmax(x=x),
        {"x": IMAGE},
        inferred(lambda x: mb.softmax(x=x)),
        "value_inference",
        "default",
    ),
    Case(
        "softmax",
        "iOS15",
        lambda x: mb.softmax(x=x, axis=-1),
        {"x": np.array([[-np.inf, 1.0, 2.0], [-np.inf, -np.inf, -np.inf], [1e30, 1e30, 0.0]], np.float32)},
        of_torch(torch.softmax, -1),
        "torch",
        "masked",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize(("mode", "steps"), [("native", 4), ("emulate", 1)])
def test_half_precision(mode, steps, tmp_path):
    """Every activation on fp16 with fp32 parameters (iOS17), in one program, within ``steps`` fp16 steps of the exact result:
    ``emulate`` rounds once. An upper bound that fp16 cannot hold is no bound."""
    x = np.array([[-6.5, -1.0, -0.25, 0.0], [0.25, 1.0, 6.5, 11.0]], np.float32)

    def build(x):
        x = mb.cast(x=x, dtype="fp16")
        results = [getattr(mb, op)(x=x) for op in PLAIN]
        results += [with_parameters(op, np.float32, **values)(x) for op, (values, _) in WITH_PARAMETERS.items()]
        results += [mb.gelu(x=x, mode=name) for name in GELU if name]
        results += [mb.softmax(x=x), mb.clamped_relu(x=x, alpha=np.float32(1), beta=np.float32(1e30))]
        return tuple(mb.cast(x=result, dtype="fp32") for result in results)

    wanted = [expected for expected, _ in PLAIN.values()]
    wanted += [computed(function, np.float32, values) for values, function in WITH_PARAMETERS.values()]
    wanted += [expected for name, expected in GELU.items() if name]
    wanted += [written(lambda x: special.softmax(x, -1)), lambda x: x]
    found = load(save(build, {"x": x}, tmp_path, since="iOS17"), precision=mode).predict({"x": x}).values()
    for one, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, expected(x), rtol=steps * 2.0**-11, atol=steps * 2.0**-12)


def test_per_channel_parameters_of_the_other_float_type(tmp_path):
    def build(x):
        x = mb.cast(x=x, dtype="fp16")
        results = [with_parameters(op, np.float32, **values)(x) for op, (values, _) in PER_CHANNEL.items()]
        return tuple(mb.cast(x=result, dtype="fp32") for result in results)

    found = load(save(build, {"x": IMAGE}, tmp_path, since="iOS17")).predict({"x": IMAGE}).values()
    for one, (values, function) in zip(found, PER_CHANNEL.values(), strict=True):
        np.testing.assert_allclose(one, computed(function, np.float32, values)(IMAGE), rtol=4e-3, atol=4e-3)


def test_nan_passes_through(tmp_path):
    def build(x):
        nan = mb.sub(x=x, y=x)
        results = [getattr(mb, op)(x=nan) for op in PLAIN]
        return (*results, *(with_parameters(op, np.float32, **values)(nan) for op, (values, _) in WITH_PARAMETERS.items()))

    x = np.array([np.inf, 1.0], np.float32)
    for value in load(save(build, {"x": x}, tmp_path)).predict({"x": x}).values():
        np.testing.assert_array_equal(np.isnan(value), [True, False])


def test_an_unknown_gelu_is_refused():
    with pytest.raises(ExecutionError, match="no mode 'QUICK'"):
        find_handler("gelu", "iOS15").function(torch.zeros(2), "QUICK")
