"""Golden cases: quantize and dequantize, against their formulas in numpy and against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from coremltools.converters.mil import Builder as mb
from onnx import TensorProto, helper

from tests.mil.building import save
from tests.mil.cases import Case, check
from tests.mil.ops.test_convolution import noise
from workbench.mil import load

TYPES = {"int8": np.int8, "uint8": np.uint8}


def placed(value, axis, rank):
    return value if np.ndim(value) == 0 else np.reshape(value, [-1 if d == axis % rank else 1 for d in range(rank)])


def quantized(x, scale, output_dtype, zero_point=0, axis=0):
    limits = np.iinfo(TYPES[output_dtype])
    levels = np.rint(np.float64(x) / placed(scale, axis, x.ndim)) + np.float64(placed(zero_point, axis, x.ndim))
    return np.clip(levels, limits.min, limits.max).astype(TYPES[output_dtype])


def dequantized(levels, scale, zero_point=0, axis=0):
    rank = levels.ndim
    return (np.float64(levels) - np.float64(placed(zero_point, axis, rank))) * np.float64(placed(scale, axis, rank))


def ort(op, values, axis):
    """QuantizeLinear or DequantizeLinear by onnxruntime."""
    types = {np.float32: TensorProto.FLOAT, np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8}
    values = [np.asarray(value) for value in values]
    inputs = [helper.make_tensor_value_info(str(n), types[v.dtype.type], v.shape) for n, v in enumerate(values)]
    out = types[values[2].dtype.type] if op == "QuantizeLinear" else TensorProto.FLOAT
    node = helper.make_node(op, [item.name for item in inputs], ["y"], axis=axis)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", out, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {str(n): v for n, v in enumerate(values)})[0]


def quantize(label, x, opset="iOS17", source="numpy", **given):
    """The integers leave the program as int32, for an output cannot be int8."""
    if source == "numpy":
        expected = lambda x: quantized(x, **given).astype(np.int32)  # noqa: E731
    else:
        expected = lambda x: ort("QuantizeLinear", [x, given["scale"], given["zero_point"]], given.get("axis", 0)).astype(np.int32)  # noqa: E731
    return Case(
        "quantize", opset, lambda x: mb.cast(x=mb.quantize(input=x, **given), dtype="int32"), {"x": x}, expected, source, label
    )


def dequantize(label, levels, opset="iOS17", source="numpy", **given):
    """The integers enter the program as int32."""
    kind = levels.dtype
    if source == "numpy":
        expected = lambda x: dequantized(x.astype(kind), **given)  # noqa: E731
    else:
        expected = lambda x: ort("DequantizeLinear", [x.astype(kind), given["scale"], given["zero_point"]], given.get("axis", 0))  # noqa: E731
    return Case(
        "dequantize",
        opset,
        lambda x: mb.dequantize(input=mb.cast(x=x, dtype=str(kind)), **given),
        {"x": levels.astype(np.int32)},
        expected,
        source,
        label,
    )


X = noise(2, 3, 4, 5)
HALVES = np.arange(-12, 12, dtype=np.float32).reshape(4, 6) / 2
WIDE = np.float32([[-1e30, -300, -129, -128.4], [127.5, 128, 255.5, 1e30], [-0.5, 0.5, 1.5, 2.5], [-np.inf, np.inf, 0, -0.0]])
SCALES = np.float32([0.02, 0.5, 0.013])
ALL_SIGNED = np.arange(-128, 128).astype(np.int8).reshape(4, 64)
ALL_UNSIGNED = np.arange(256).astype(np.uint8).reshape(4, 64)

CASES = [
    quantize("int8", X, scale=np.float32(0.02), output_dtype="int8"),
    quantize("uint8", X, scale=np.float32(0.02), output_dtype="uint8", zero_point=np.uint8(128)),
    quantize("int8-zero-point", X, scale=np.float32(0.017), output_dtype="int8", zero_point=np.int8(-7)),
    quantize("halves-to-even", HALVES, scale=np.float32(1), output_dtype="int8"),
    quantize("halves-to-even-before-the-shift", HALVES, scale=np.float32(1), output_dtype="uint8", zero_point=np.uint8(101)),
    quantize("saturates", WIDE, scale=np.float32(1), output_dtype="int8", zero_point=np.int8(3)),
    quantize("saturates-unsigned", WIDE, scale=np.float32(1), output_dtype="uint8", zero_point=np.uint8(200)),
    quantize("axis-1", X, scale=SCALES, output_dtype="int8", axis=1, zero_point=np.int8([1, -100, 0])),
    quantize("axis-last", X, "iOS18", scale=np.abs(noise(5)), output_dtype="uint8", axis=-1),
    quantize("axis-0", X, scale=np.float32([0.01, -0.02]), output_dtype="int8", axis=0),
    quantize("onnx", X, source="onnxruntime", scale=np.float32(0.017), output_dtype="int8", zero_point=np.int8(-7)),
    quantize("onnx-axis", X, source="onnxruntime", scale=SCALES, output_dtype="uint8", axis=1, zero_point=np.uint8([1, 0, 255])),
    dequantize("int8", ALL_SIGNED, scale=np.float32(0.02)),
    dequantize("uint8", ALL_UNSIGNED, scale=np.float32(0.02), zero_point=np.uint8(255)),
    dequantize("int8-zero-point", ALL_SIGNED, "iOS18", scale=np.float32(-0.3), zero_point=np.int8(-128)),
    dequantize("axis-0", ALL_UNSIGNED, scale=np.abs(noise(4)), axis=0, zero_point=np.uint8([0, 255, 7, 128])),
    dequantize("axis-last", ALL_SIGNED, scale=noise(64), axis=-1),
    dequantize("onnx", ALL_UNSIGNED, source="onnxruntime", scale=np.float32(0.017), zero_point=np.uint8(130)),
    dequantize(
        "onnx-axis", ALL_SIGNED, source="onnxruntime", scale=np.abs(noise(4)), axis=0, zero_point=np.int8([0, -128, 7, 127])
    ),
    Case(
        "dequantize",
        "iOS17",
        lambda x: mb.mul(x=x, y=mb.dequantize(input=ALL_SIGNED, scale=np.float32(0.1), zero_point=np.int8(5))),
        {"x": noise(4, 64)},
        lambda x: x * dequantized(ALL_SIGNED, np.float32(0.1), np.int8(5)),
        "numpy",
        "constant",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
def test_fp16_in_every_reading(precision, tmp_path):
    """Through int8 and back. Scales that are powers of two leave nothing to round, so every reading agrees exactly."""
    x = (noise(2, 3, 4) * 8).astype(np.float16)
    scale, zero = np.float16([0.0625, 0.25, 0.125]), np.int8([3, 0, -9])

    def build(x):
        levels = mb.quantize(input=mb.cast(x=x, dtype="fp16"), scale=scale, zero_point=zero, axis=1, output_dtype="int8")
        return mb.cast(x=mb.dequantize(input=levels, scale=scale, zero_point=zero, axis=1), dtype="fp32")

    program = load(save(build, {"x": x.astype(np.float32)}, tmp_path, since="iOS17"), precision=precision)
    (found,) = program.predict({"x": x.astype(np.float32)}).values()
    np.testing.assert_array_equal(found, dequantized(quantized(x, scale, "int8", zero, 1), scale, zero, 1))
