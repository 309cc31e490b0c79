"""Golden cases: conv_transpose as what it is, the adjoint of a convolution.

The witness applies a convolution (onnxruntime's, with its own padding arithmetic) to every unit input of the size that the transposed
one must give, and multiplies by the transpose of that matrix. torch's own conv_transpose is a second one where it has the mode.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check
from tests.mil.ops.test_convolution import noise, ort
from workbench.mil import load

TORCH = {1: torch.nn.functional.conv_transpose1d, 2: torch.nn.functional.conv_transpose2d, 3: torch.nn.functional.conv_transpose3d}

HALF_WEIGHT = noise(3, 2, 4, dtype=np.float16)


def adjoint(size, groups=1, **attributes):
    """x -> the adjoint of onnxruntime's Conv of inputs [1, C_out, *size], so of what conv_transpose undoes."""

    def expected(x, weight, bias=None):
        channels = weight.shape[1] * groups
        units = np.eye(channels * int(np.prod(size)), dtype=np.float32).reshape(-1, channels, *size)
        rows = ort("Conv", {"x": units, "weight": weight}, group=groups, kernel_shape=weight.shape[2:], **attributes)
        matrix = rows.reshape(len(units), -1).astype(np.float64)
        result = (x.reshape(len(x), -1) @ matrix.T).reshape(len(x), channels, *size)
        return result if bias is None else result + bias.reshape(-1, *(1,) * len(size))

    return expected


def direct(**arguments):
    """torch's conv_transpose in float64."""

    def expected(x, weight, bias=None):
        given = [None if value is None else torch.tensor(value, dtype=torch.float64) for value in (x, weight, bias)]
        return TORCH[x.ndim - 2](*given, **arguments).numpy()

    return expected


def case(label, size, kernel, expected, source, opset="iOS15", groups=1, bias=True, out=6, **arguments):
    x, weight = noise(2, 4, *size), noise(4, out // groups, *kernel)
    given = {"weight": weight} | ({"bias": noise(out)} if bias else {})
    arguments |= {"groups": groups} if groups > 1 else {}
    return Case(
        "conv_transpose",
        opset,
        lambda x: mb.conv_transpose(x=x, **given, **arguments),
        {"x": x},
        lambda x: expected(x, **given),
        source,
        label,
    )


def same(label, size, kernel, strides, shape=None, opset="iOS15", bias=True):
    wanted = shape or [n * s for n, s in zip(size, strides, strict=True)]
    given = {} if shape is None else {"output_shape": np.int32([2, 6, *shape])}
    expected = adjoint(wanted, auto_pad="SAME_UPPER", strides=strides)
    return case(label, size, kernel, expected, "onnxruntime", opset, bias=bias, pad_type="same", strides=strides, **given)


HALF = {"pad_type": "custom", "pad": [1, 1, 1, 1], "strides": [2, 2]}

CASES = [
    case("1d-defaults", [5], [3], direct(), "torch"),
    case(
        "1d-all",
        [5],
        [3],
        direct(stride=3, padding=1, dilation=2, groups=2),
        "torch",
        "iOS17",
        2,
        strides=[3],
        dilations=[2],
        pad_type="custom",
        pad=[1, 1],
    ),
    case("2d", [4, 5], [3, 2], direct(stride=(2, 1)), "torch", bias=False, strides=[2, 1], pad_type="valid"),
    case("2d-pad", [4, 5], [3, 3], direct(stride=2, padding=1), "torch", **HALF),
    case("2d-groups", [4, 5], [3, 2], direct(groups=2, dilation=(1, 3)), "torch", "iOS17", 2, dilations=[1, 3]),
    case("2d-depthwise", [4, 5], [2, 2], direct(groups=4, stride=2), "torch", groups=4, out=4, strides=[2, 2]),
    case(
        "3d",
        [2, 3, 4],
        [2, 3, 2],
        direct(stride=(1, 2, 1), padding=(0, 1, 0)),
        "torch",
        strides=[1, 2, 1],
        pad_type="custom",
        pad=[0, 0, 1, 1, 0, 0],
    ),
    case(
        "asymmetric",
        [3, 4],
        [4, 3],
        adjoint([6, 11], pads=[2, 0, 0, 1], strides=[2, 3]),
        "onnxruntime",
        strides=[2, 3],
        pad_type="custom",
        pad=[2, 0, 0, 1],
    ),
    case(
        "asymmetric-front",
        [3, 4],
        [4, 3],
        adjoint([3, 4], pads=[3, 2, 0, 0]),
        "onnxruntime",
        "iOS17",
        pad_type="custom",
        pad=[3, 0, 2, 0],
    ),
    case(
        "output-padding",
        [3, 4],
        [3, 3],
        direct(stride=2, padding=1, output_padding=1),
        "torch",
        output_shape=np.int32([2, 6, 6, 8]),
        **HALF,
    ),
    case("inferred-shape", [3, 4], [3, 3], direct(stride=2, padding=1), "torch", output_shape=np.int32([2, 6, 5, 7]), **HALF),
    case(
        "valid-output-shape",
        [3, 4],
        [2, 2],
        adjoint([10, 12], strides=[3, 3]),
        "onnxruntime",
        strides=[3, 3],
        pad_type="valid",
        output_shape=np.int32([2, 6, 10, 12]),
    ),
    case(
        "negative-pad",
        [3],
        [2],
        lambda x, weight, bias: np.pad(direct()(x, weight), [(0, 0), (0, 0), (1, 2)]) + bias[:, None],
        "torch",
        pad_type="custom",
        pad=[-1, -2],
    ),
    same("same-1d", [5], [3], [1]),
    same("same-1d-even", [5], [4], [1]),
    same("same-2d", [4, 3], [3, 4], [2, 2]),
    same("same-odd-stride", [4, 3], [4, 5], [3, 2], opset="iOS17"),
    same("same-stride-beyond-kernel", [4, 3], [1, 2], [3, 4]),
    same("same-stride-beyond-kernel-no-bias", [4, 3], [1, 2], [3, 4], bias=False),
    same("same-3d", [2, 3, 2], [2, 3, 4], [2, 1, 3]),
    same("same-output-shape", [4, 3], [3, 4], [2, 2], [7, 5]),
    same("same-output-shape-equal", [4, 3], [3, 4], [2, 2], [8, 6], "iOS17"),
    Case(
        "conv_transpose",
        "iOS17",
        lambda x, weight: mb.conv_transpose(x=x, weight=weight, bias=np.float32([1, -2]), strides=[2]),
        {"x": noise(1, 3, 5), "weight": noise(3, 2, 4)},
        lambda x, weight: direct(stride=2)(x, weight, np.float32([1, -2])),
        "torch",
        "dynamic-weight",
    ),
    Case(
        "conv_transpose",
        "iOS17",
        lambda x: mb.conv_transpose(x=x, weight=HALF_WEIGHT, bias=np.float16([0.5, -2]), strides=[2]),
        {"x": noise(1, 3, 5)},
        lambda x: direct(stride=2)(x, HALF_WEIGHT, np.float16([0.5, -2])),
        "torch",
        "mixed-types",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("native", 5e-4), ("emulate", 5e-4), ("fp16-weights", 1e-6), ("float64", 1e-7)]
)
def test_fp16_in_every_reading(precision, tolerance, tmp_path):
    x, bias = noise(1, 3, 5, dtype=np.float16), noise(2, dtype=np.float16)

    def build(x):
        made = mb.conv_transpose(x=mb.cast(x=x, dtype="fp16"), weight=HALF_WEIGHT, bias=bias, strides=[5], pad_type="same")
        return mb.cast(x=made, dtype="fp32")

    program = load(save(build, {"x": x.astype(np.float32)}, tmp_path), precision=precision)
    (found,) = program.predict({"x": x.astype(np.float32)}).values()
    wanted = adjoint([25], auto_pad="SAME_UPPER", strides=[5])(x.astype(np.float32), HALF_WEIGHT.astype(np.float32), bias)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_every_small_setting_is_a_cut_of_the_full_result():
    """All strides, dilations, kernels and cuts of one dimension, some of which torch's call takes and some not: the definition is a
    sum of shifted kernels, from which ``pad`` is cut or to which it is appended."""
    from itertools import product

    from workbench.mil.ops.convolution import conv_transpose

    rng = np.random.default_rng(5)
    for kernel, stride, dilation, front, back in product((1, 2, 3), (1, 2, 3), (1, 2), (-1, 0, 1, 2, 3), (-2, 0, 1, 3)):
        x, weight, bias = rng.standard_normal((1, 2, 4)), rng.standard_normal((2, 3, kernel)), rng.standard_normal(3)
        full = np.zeros((1, 3, 3 * stride + (kernel - 1) * dilation + 1))
        for place, tap in product(range(4), range(kernel)):
            full[..., place * stride + tap * dilation] += x[..., place] @ weight[..., tap]
        grown = np.pad(full, [(0, 0), (0, 0), (max(0, -front), max(0, -back))])
        wanted = grown[..., max(0, front) : grown.shape[-1] - max(0, back)] + bias[:, None]
        if wanted.shape[-1] <= 0:
            continue
        given = [torch.from_numpy(value) for value in (x, weight, bias)]
        call = conv_transpose(*given, pad=(front, back), pad_type="custom", strides=(stride,), dilations=(dilation,))
        np.testing.assert_allclose(call(*given), wanted, atol=1e-12, err_msg=f"{kernel} {stride} {dilation} {front} {back}")
