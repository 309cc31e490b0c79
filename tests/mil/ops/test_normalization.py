"""Golden cases: normalization, against the formulas in float64, onnxruntime's kernels and coremltools' value_inference."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from tests.mil.ops.test_convolution import noise, ort
from workbench.mil import load


def channels(value, rank):
    return np.asarray(value, np.float64).reshape(-1, *(1,) * (rank - 2))


def batch(x, mean, variance, gamma=1.0, beta=0.0, epsilon=1e-5):
    x, mean, variance, gamma, beta = np.float64(x), *(channels(v, x.ndim) for v in (mean, variance, gamma, beta))
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def instance(x, gamma=1.0, beta=0.0, epsilon=1e-5):
    x, axes = np.float64(x), tuple(range(2, x.ndim))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    return channels(gamma, x.ndim) * normal + channels(beta, x.ndim)


def layer(x, axes=None, gamma=1.0, beta=0.0, epsilon=1e-5):
    x = np.float64(x)
    axes = tuple(range(x.ndim)) if axes is None else tuple(axis % x.ndim for axis in axes)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (np.float64(value).reshape(sizes if np.ndim(value) else ()) for value in (gamma, beta))
    return gamma * (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon) + beta


def response(x, size, alpha=1e-4, beta=0.75, k=1.0):
    x = np.float64(x)
    total = np.zeros_like(x)
    for c in range(x.shape[1]):
        total[:, c] = (x[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1] ** 2).sum(1)
    return x / (k + alpha / size * total) ** beta


def formula(op, label, expected, shape, opset="iOS15", tolerance=2e-6, shift=0.0, options=None, **given):
    return Case(
        op,
        opset,
        lambda x: getattr(mb, op)(x=x, **given),
        {"x": noise(*shape) + np.float32(shift)},
        lambda x: expected(x, **given),
        "definition",
        label,
        tolerance,
        options or {},
    )


def length(x, epsilon=1e-6):
    return x / np.sqrt((np.float64(x) ** 2).sum((-3, -2, -1), keepdims=True) + epsilon)


SCALES = {"gamma": noise(3), "beta": noise(3)}
MOMENTS = {"mean": noise(3), "variance": np.abs(noise(3))}
HALVES = {name: value.astype(np.float16) for name, value in (SCALES | MOMENTS).items()}
MIXED = {"gamma": HALVES["gamma"], "beta": HALVES["beta"], "epsilon": np.float16(0.01)}
EPSILON = np.float32(0.02)
LAYER = {"gamma": noise(3, 5), "beta": noise(3, 5)}

CASES = [
    formula("batch_norm", "1d", batch, (2, 3, 5), **MOMENTS),
    formula("batch_norm", "2d-all", batch, (2, 3, 4, 5), **MOMENTS, **SCALES, epsilon=EPSILON),
    formula("batch_norm", "3d-gamma", batch, (2, 3, 4, 3, 2), **MOMENTS, gamma=SCALES["gamma"]),
    formula("batch_norm", "beta", batch, (1, 3, 4, 5), "iOS16", **MOMENTS, beta=SCALES["beta"]),
    formula("batch_norm", "2d", batch, (2, 3, 4, 5), "iOS17", **MOMENTS, **SCALES),
    formula("batch_norm", "mixed-types", batch, (2, 3, 4, 5), "iOS17", **HALVES, epsilon=np.float16(0.01)),
    formula("instance_norm", "1d", instance, (2, 3, 7)),
    formula("instance_norm", "2d-all", instance, (2, 3, 4, 5), **SCALES, epsilon=EPSILON),
    formula("instance_norm", "gamma", instance, (2, 3, 4, 5), gamma=SCALES["gamma"]),
    formula("instance_norm", "beta-ios17", instance, (2, 3, 6), "iOS17", beta=SCALES["beta"]),
    formula("instance_norm", "mixed-types", instance, (2, 3, 4, 5), "iOS17", **MIXED),
    formula("instance_norm", "one-element", instance, (1, 3, 1, 1), options={"precision": "float64"}, **SCALES),
    # Values of 100 carry a rounding of 4e-6 into results of 1; a variance from squares would carry far more.
    formula("instance_norm", "far-mean", instance, (1, 3, 8, 8), "iOS18", tolerance=2e-5, shift=100.0),
    Case(
        "instance_norm",
        "iOS15",
        lambda x: mb.instance_norm(x=x, **SCALES, epsilon=np.float32(1e-4)),
        {"x": noise(2, 3, 4, 5)},
        lambda x: ort("InstanceNormalization", {"x": x, **SCALES}, epsilon=1e-4),
        "onnxruntime",
        "onnx",
    ),
    formula("layer_norm", "all-axes", layer, (2, 3, 4), axes=[0, 1, 2]),
    formula("layer_norm", "last", layer, (2, 3, 4), axes=[-1], gamma=noise(4), beta=noise(4), epsilon=EPSILON),
    formula("layer_norm", "last-two", layer, (2, 3, 4), axes=[1, -1], gamma=noise(3, 4), beta=noise(3, 4)),
    formula("layer_norm", "first", layer, (5, 4), axes=[0], gamma=noise(5)),
    formula("layer_norm", "channel", layer, (2, 6, 1, 4), "iOS16", axes=[1], gamma=noise(6), beta=noise(6)),
    formula("layer_norm", "first-and-last", layer, (2, 3, 4, 5), axes=[-1, 1], gamma=noise(3, 5), beta=noise(3, 5)),
    formula("layer_norm", "named-backwards", layer, (2, 3, 4), axes=[2, 1], gamma=noise(3, 4), beta=noise(3, 4)),
    formula("layer_norm", "vector", layer, (9,), axes=[0]),
    formula("layer_norm", "ios17", layer, (2, 3, 4), "iOS17", axes=[-1], gamma=noise(4), beta=noise(4)),
    formula("layer_norm", "mixed-types", layer, (2, 5, 3), "iOS17", axes=[-1], **MIXED),
    formula("layer_norm", "mixed-types-channel", layer, (2, 3, 5), "iOS17", axes=[1], **MIXED),
    formula("layer_norm", "ios18", layer, (2, 3, 4), "iOS18", axes=[0, 1], gamma=noise(2, 3)),
    Case(
        "layer_norm",
        "iOS15",
        lambda x: mb.layer_norm(x=x, axes=[1, 3], gamma=LAYER["gamma"], beta=LAYER["beta"]),
        {"x": noise(2, 3, 4, 5)},
        inferred(lambda x: mb.layer_norm(x=x, axes=[1, 3], gamma=LAYER["gamma"], beta=LAYER["beta"])),
        "value_inference",
        "inferred",
    ),
    *(
        Case(
            "l2_norm",
            opset,
            lambda x, given=given: mb.l2_norm(x=x, **given),
            {"x": noise(*shape)},
            inferred(lambda x, given=given: mb.l2_norm(x=x, **given)),
            "value_inference",
            label,
        )
        for label, opset, shape, given in (
            ("rank-3", "iOS15", (2, 3, 4), {}),
            ("rank-4", "iOS15", (2, 3, 4, 5), {"epsilon": np.float32(2)}),
            ("rank-5", "iOS16", (2, 3, 2, 2, 3), {}),
            ("rank-4-ios17", "iOS17", (2, 3, 4, 5), {"epsilon": np.float32(2)}),
        )
    ),
    formula("l2_norm", "mixed-types", length, (2, 3, 4, 5), "iOS17", epsilon=np.float16(2)),
    formula("local_response_norm", "defaults", response, (2, 7, 4), size=np.int32(3)),
    formula(
        "local_response_norm", "2d", response, (2, 7, 4, 3), size=np.int32(5), alpha=np.float32(2), beta=np.float32(0.5), k=EPSILON
    ),
    formula("local_response_norm", "even", response, (2, 7, 4, 3), size=np.int32(4), alpha=np.float32(2)),
    formula("local_response_norm", "beyond", response, (1, 3, 4), "iOS17", size=np.int32(9), alpha=np.float32(2)),
    formula(
        "local_response_norm", "mixed-types", response, (1, 3, 4), "iOS17", size=np.int32(3), alpha=np.float16(2), k=np.float16(3)
    ),
    Case(
        "local_response_norm",
        "iOS15",
        lambda x: mb.local_response_norm(x=x, size=3, alpha=np.float32(1.5), beta=np.float32(0.5), k=np.float32(2)),
        {"x": noise(2, 6, 3, 4)},
        lambda x: ort("LRN", {"x": x}, size=3, alpha=1.5, beta=0.5, bias=2.0),
        "onnxruntime",
        "onnx",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


FP16 = {
    "batch_norm": (batch, MOMENTS | SCALES),
    "instance_norm": (instance, SCALES),
    "layer_norm": (layer, {"axes": [1], **SCALES}),
    "l2_norm": (length, {}),
    "local_response_norm": (response, {"size": np.int32(3), "alpha": np.float32(2)}),
}


@pytest.mark.parametrize("op", FP16)
@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
def test_fp16_in_every_reading(op, precision, tmp_path):
    """Squares of 400 overflow fp16, what they normalize does not. Before iOS17 all inputs are of one type."""
    expected, given = FP16[op]
    x = (400 * noise(2, 3, 4, 5)).astype(np.float16)
    given = {name: np.asarray(v, np.float16) if np.asarray(v).dtype.kind == "f" else v for name, v in given.items()}

    def build(x):
        return mb.cast(x=getattr(mb, op)(x=mb.cast(x=x, dtype="fp16"), **given), dtype="fp32")

    program = load(save(build, {"x": x.astype(np.float32)}, tmp_path), precision=precision)
    (found,) = program.predict({"x": x.astype(np.float32)}).values()
    wanted = expected(x, **given)
    limit = {"native": 2e-3, "emulate": 1e-3, "fp16-weights": 2e-6, "float64": 2e-7}[precision]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit * np.abs(wanted).max())


def test_layer_norm_that_coremltools_cannot_build():
    """Beta without gamma, and no axes: its type inference and its default fail, while a program may well have them."""
    import torch

    from workbench.mil.ops.normalization import layer_norm

    x, beta = noise(2, 3, 4), noise(3)
    given = [torch.from_numpy(value) for value in (x, beta)]
    np.testing.assert_allclose(layer_norm(given[0], (1,), None, given[1])(*given), layer(x, [1], beta=beta), atol=2e-6)
    np.testing.assert_allclose(layer_norm(given[0])(given[0]), layer(x), atol=2e-6)
