"""Golden cases: conv and conv_quantized, against the definition in float64 (scipy's correlation), onnxruntime and torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import scipy.signal
import torch
from coremltools.converters.mil import Builder as mb
from onnx import TensorProto, helper

from tests.mil.building import save
from tests.mil.cases import Case, check
from workbench.mil import load

RNG = np.random.default_rng(0)


def noise(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def defined(sides, strides, dilations, groups=1):
    """conv by scipy: the input padded by ``sides``, correlated with the dilated kernel, every stride-th result kept."""

    def expected(x, weight, bias=None):
        x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *((max(0, before), max(0, after)) for before, after in sides)])
        x = x[
            (
                ...,
                *(slice(max(0, -before), size - max(0, -after)) for size, (before, after) in zip(x.shape[2:], sides, strict=True)),
            )
        ]
        rank = x.ndim - 2
        spread = np.zeros([*weight.shape[:2], *((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True))])
        spread[(..., *(slice(None, None, d) for d in dilations))] = weight
        per = weight.shape[0] // groups
        planes = [
            [
                sum(
                    scipy.signal.correlate(sample[out // per * weight.shape[1] + inner], spread[out, inner], "valid", "direct")
                    for inner in range(weight.shape[1])
                )
                for out in range(weight.shape[0])
            ]
            for sample in x
        ]
        result = np.array(planes)[(..., *(slice(None, None, s) for s in strides))]
        return result if bias is None else result + bias.reshape(-1, *(1,) * rank)

    return expected


def ort(op, inputs, **attributes):
    """One ONNX op by onnxruntime: its own padding arithmetic."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()]
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"], **attributes)],
        "g",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))[0]


def case(label, x, weight, expected, source, opset="iOS15", bias=None, **arguments):
    """Constant weights; ``expected`` takes x, weight and bias."""
    given = {} if bias is None else {"bias": bias}
    return Case(
        "conv",
        opset,
        lambda x: mb.conv(x=x, weight=weight, **given, **arguments),
        {"x": x},
        lambda x: expected(x, weight, bias),
        source,
        label,
    )


def custom(label, size, kernel, pad, strides=None, dilations=None, groups=1, opset="iOS15", bias=True):
    rank = len(size)
    x, weight = noise(2, 4, *size), noise(6, 4 // groups, *kernel)
    steps, apart = strides or [1] * rank, dilations or [1] * rank
    optional = {"strides": strides, "dilations": dilations, "groups": groups if groups > 1 else None}
    arguments = {name: value for name, value in optional.items() if value is not None}
    padding = {"pad_type": "custom", "pad": pad} if any(pad) else {"pad_type": "valid"}
    sides = list(zip(pad[::2], pad[1::2], strict=True))
    source, shift = "scipy", noise(6) if bias else None
    return case(label, x, weight, defined(sides, steps, apart, groups), source, opset, shift, **padding, **arguments)


def same(label, size, kernel, strides, pad_type="same", opset="iOS15"):
    auto = "SAME_UPPER" if pad_type == "same" else "SAME_LOWER"
    return case(
        label,
        noise(1, 3, *size),
        noise(2, 3, *kernel),
        lambda x, weight, _: ort("Conv", {"x": x, "weight": weight}, auto_pad=auto, strides=strides, kernel_shape=kernel),
        "onnxruntime",
        opset,
        pad_type=pad_type,
        strides=strides,
    )


CASES = [
    custom("1d", [9], [3], [0, 0]),
    custom("1d-all", [11], [3], [1, 1], [2], [2], 2),
    custom("2d", [6, 7], [3, 2], [0, 0, 0, 0], bias=False),
    custom("2d-pad", [6, 7], [3, 5], [1, 1, 2, 2]),
    custom("2d-asymmetric", [6, 7], [3, 2], [2, 0, 1, 3], [2, 1], [1, 2]),
    custom("2d-cropping", [8, 7], [2, 2], [-1, 1, 0, -2]),
    custom("2d-groups", [5, 6], [2, 3], [1, 1, 1, 1], [2, 1], groups=2),
    custom("2d-depthwise-ios17", [5, 6], [2, 3], [1, 1, 1, 1], [1, 2], [2, 1], 2, "iOS17"),
    custom("3d", [4, 5, 4], [2, 3, 2], [1, 1, 0, 0, 1, 1], [1, 2, 1]),
    custom("3d-asymmetric", [4, 5, 4], [2, 3, 2], [1, 0, 0, 2, 0, 1], [2, 1, 1], [1, 2, 1], opset="iOS17"),
    custom("pad-larger-than-kernel", [3, 3], [2, 2], [4, 4, 3, 3], [3, 2]),
    same("same-1d-even", [9], [4], [1]),
    same("same-2d-stride", [8, 9], [3, 2], [2, 2]),
    same("same-2d-odd", [7, 6], [3, 5], [1, 1], opset="iOS17"),
    same("same-3d", [4, 5, 6], [2, 3, 4], [2, 1, 3]),
    same("same-stride-beyond-kernel", [7, 7], [1, 2], [3, 4]),
    same("lower-1d", [9], [4], [1], "same_lower", "iOS16"),
    same("lower-2d-stride", [8, 9], [3, 2], [2, 2], "same_lower", "iOS17"),
    same("lower-3d", [4, 5, 6], [2, 3, 4], [2, 1, 3], "same_lower", "iOS18"),
    case(
        "same-dilated",
        noise(1, 2, 9, 8),
        noise(3, 2, 3, 4),
        lambda x, weight, _: torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(weight), padding="same", dilation=(2, 2)),
        "torch",
        pad_type="same",
        dilations=[2, 2],
    ),
    case(
        "pad-is-ignored-unless-custom",
        noise(1, 2, 5, 5),
        noise(3, 2, 3, 3),
        defined([(0, 0), (0, 0)], [1, 1], [1, 1]),
        "scipy",
        pad_type="valid",
        pad=[1, 1, 1, 1],
    ),
    case("defaults", noise(1, 2, 5, 5), noise(3, 2, 3, 3), defined([(0, 0), (0, 0)], [1, 1], [1, 1]), "scipy", "iOS18"),
    Case(
        "conv",
        "iOS15",
        lambda x, weight: mb.conv(
            x=x, weight=weight, bias=np.float32([1, -2, 3]), pad_type="custom", pad=[0, 1, 1, 1], strides=[1, 2]
        ),
        {"x": noise(2, 4, 5, 6), "weight": noise(3, 4, 2, 3)},
        lambda x, weight: defined([(0, 1), (1, 1)], [1, 2], [1, 1])(x, weight, np.float32([1, -2, 3])),
        "scipy",
        "dynamic-weight",
    ),
    Case(
        "conv",
        "iOS17",
        lambda x, weight, bias: mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", pad=[1, 1], groups=2),
        {"x": noise(2, 4, 7), "weight": noise(6, 2, 3), "bias": noise(6)},
        defined([(1, 1)], [1], [1], 2),
        "scipy",
        "dynamic-bias",
    ),
    case(
        "mixed-types",
        noise(1, 3, 6, 6),
        noise(4, 3, 3, 3, dtype=np.float16),
        defined([(1, 1), (0, 0)], [1, 1], [1, 1]),
        "scipy",
        "iOS17",
        noise(4, dtype=np.float16),
        pad_type="custom",
        pad=[1, 1, 0, 0],
    ),
]


def quantized(label, scale, shift, nbits, **arguments):
    rng = np.random.default_rng(4)
    weight = rng.integers(0, 1 << nbits, (4, 2, 3, 2)).astype(np.uint8)

    def expected(x):
        column = lambda value: np.broadcast_to(np.float64(value).reshape(-1, 1, 1, 1), (4, 1, 1, 1))  # noqa: E731
        bias = arguments.get("bias")
        return defined([(0, 0), (0, 0)], [1, 2], [1, 1], 2)(x, weight * column(scale) + column(shift), bias)

    return Case(
        "conv_quantized",
        "iOS15",
        lambda x: mb.conv_quantized(
            x=x,
            weight=weight,
            quantization_type="linear",
            nbits=np.int32(nbits),
            quant_scale=scale,
            quant_bias=shift,
            strides=[1, 2],
            groups=2,
            pad_type="valid",
            **arguments,
        ),
        {"x": noise(1, 4, 5, 6)},
        expected,
        "scipy",
        label,
    )


CASES += [
    quantized("one", np.float32([0.02]), np.float32([-1.5]), 8),
    quantized("scalar", np.float32(0.1), np.float32(-0.25), 3),
    quantized("per-channel", noise(4), noise(4), 5, bias=np.uint8([1, 0, 7, 200])),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_a_table_of_weights_is_refused(tmp_path):
    from workbench.mil import UnsupportedError

    def build(x):
        one = np.float32([1])
        weight = np.zeros((1, 1, 1), np.uint8)
        return mb.conv_quantized(x=x, weight=weight, quantization_type="lut", quant_scale=one, quant_bias=one, pad_type="valid")

    program = load(save(build, {"x": noise(1, 1, 3)}, tmp_path))
    with pytest.raises(UnsupportedError, match="lut"):
        program.predict({"x": noise(1, 1, 3)})


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
@pytest.mark.parametrize("pad", [[1, 1, 0, 0], [1, 0, 0, 2]], ids=["symmetric", "asymmetric"])
def test_fp16_in_every_reading(opset, precision, pad, tmp_path):
    """Stored in fp16: exact but for one rounding of the result, which only native and emulate do."""
    x, weight, bias = noise(1, 3, 6, 6, dtype=np.float16), noise(4, 3, 3, 2, dtype=np.float16), noise(4, dtype=np.float16)

    def build(x):
        x = mb.cast(x=x, dtype="fp16")
        return mb.cast(x=mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", pad=pad), dtype="fp32")

    program = load(save(build, {"x": x.astype(np.float32)}, tmp_path, since=opset), precision=precision)
    (found,) = program.predict({"x": x.astype(np.float32)}).values()
    wanted = defined([tuple(pad[:2]), tuple(pad[2:])], [1, 1], [1, 1])(x, weight, bias)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error < {"native": 5e-4, "emulate": 5e-4, "fp16-weights": 1e-6, "float64": 1e-7}[precision]
    if precision in ("native", "emulate"):
        np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))


def test_sizes_known_at_run_time_only(tmp_path):
    """``same`` is settled anew for every size."""
    weight = noise(2, 3, 3, 2)
    spec = {"x": ((1, 3, None, None), np.float32)}
    path = save(lambda x: mb.conv(x=x, weight=weight, pad_type="same", strides=[2, 2]), spec, tmp_path)
    program = load(path)
    for size in ((5, 6), (6, 6), (9, 5), (5, 6)):
        x = noise(1, 3, *size)
        wanted = ort("Conv", {"x": x, "weight": weight}, auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 2])
        np.testing.assert_allclose(*program.predict({"x": x}).values(), wanted, atol=1e-5)
