"""Golden cases: padding, and the moves between space, depth and batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, load

RANDOM = np.random.default_rng(1)
X = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)
DEEP = RANDOM.standard_normal((2, 8, 3, 2)).astype(np.float32)
WIDE = RANDOM.standard_normal((4, 3, 4, 6)).astype(np.float32)
NUMPY_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def padded(x, pad, mode="constant", **value):
    """numpy's padding of the last dimensions."""
    pairs = np.zeros((x.ndim, 2), int)
    pairs[x.ndim - len(pad) // 2 :] = np.reshape(pad, (-1, 2))
    return np.pad(x, pairs, NUMPY_MODES[mode], **value)


def pad(x, amounts, mode, opset="iOS15", **value):
    constants = {} if mode is None else {"mode": mode}
    numpy_value = {"constant_values": value["constant_val"]} if value else {}
    return Case(
        "pad",
        opset,
        lambda x: mb.pad(x=x, pad=np.array(amounts, np.int32), **constants, **value),
        {"x": x},
        lambda x: padded(x, amounts, mode or "constant", **numpy_value),
        "numpy",
        f"{mode} {x.dtype} rank {x.ndim} {amounts}",
    )


PADS = [
    pad(X, (1, 2), None),
    pad(X, (1, 2, 3, 0), "constant", constant_val=np.float32(-1.5)),
    pad(X, (0, 1, 2, 0, 0, 0, 1, 1), "constant", constant_val=np.float32(-np.inf)),
    pad(X.astype(np.float16), (1, 0, 0, 2), "constant", "iOS16", constant_val=np.float16(0.1)),
    pad(X[0, 0, 0], (4, 1), "reflect"),
    pad(X, (2, 1), "reflect"),
    pad(X, (3, 1, 2, 4), "reflect"),
    pad(X, (1, 2, 0, 3, 4, 0), "reflect"),
    pad(X, (1, 0, 0, 0, 1, 2, 0, 4), "reflect"),
    pad(X[None], (0, 0, 1, 1, 2, 0, 0, 0, 1, 2), "reflect"),
    pad(X.astype(np.float16), (1, 1, 2, 2), "reflect", "iOS16"),
    pad(X[0, 0, 0], (5, 2), "replicate"),
    pad(X, (1, 2, 3, 4), "replicate"),
    pad(X, (2, 1, 1, 0, 0, 0, 3, 1), "replicate"),
    pad(X[0], (0, 0, 0, 0), "replicate"),
    Case("pad", "iOS15", lambda x: mb.pad(x=x, pad=[1, 1, 2, 0], mode="reflect"), {"x": X}, inferred(lambda x: mb.pad(x=x, pad=[1, 1, 2, 0], mode="reflect")), "value_inference"),
]  # fmt: skip


def spread(x, block):
    """Depth to space, written out from TensorFlow's definition: channel = (row * block + column) * depth + channel of the result."""
    n, c, h, w = x.shape
    depth = c // block**2
    out = np.empty((n, depth, h * block, w * block), x.dtype)
    for row, column, channel in np.ndindex(block, block, depth):
        out[:, channel, row::block, column::block] = x[:, (row * block + column) * depth + channel]
    return out


def gathered(x, block):
    """Space to depth: the inverse, written out."""
    n, c, h, w = x.shape
    out = np.empty((n, c * block**2, h // block, w // block), x.dtype)
    for row, column, channel in np.ndindex(block, block, c):
        out[:, (row * block + column) * c + channel] = x[:, channel, row::block, column::block]
    return out


def batched(x, block, paddings):
    """TensorFlow's SpaceToBatchND over the last two dimensions, written out."""
    x = np.pad(x, ((0, 0), (0, 0), *paddings))
    parts = [x[:, :, row :: block[0], column :: block[1]] for row in range(block[0]) for column in range(block[1])]
    return np.concatenate(parts)


def unbatched(x, block, crops):
    """TensorFlow's BatchToSpaceND over the last two dimensions, written out."""
    n = len(x) // (block[0] * block[1])
    out = np.empty((n, x.shape[1], x.shape[2] * block[0], x.shape[3] * block[1]), x.dtype)
    for row, column in np.ndindex(*block):
        first = (row * block[1] + column) * n
        out[:, :, row :: block[0], column :: block[1]] = x[first : first + n]
    (top, bottom), (left, right) = crops
    return out[:, :, top : out.shape[2] - bottom, left : out.shape[3] - right]


def shuffled(x, factor):
    return torch.nn.functional.pixel_shuffle(torch.from_numpy(x), factor).numpy()


def unshuffled(x, factor):
    return torch.nn.functional.pixel_unshuffle(torch.from_numpy(x), factor).numpy()


def half(x):
    return x.astype(np.float16)


BLOCKS = [
    Case("depth_to_space", "iOS15", lambda x: mb.depth_to_space(x=x, block_size=2), {"x": DEEP}, lambda x: spread(x, 2), "definition (TensorFlow)"),
    Case("depth_to_space", "iOS16", lambda x: mb.depth_to_space(x=x, block_size=2), {"x": half(DEEP)}, lambda x: spread(x, 2), "definition (TensorFlow)", "fp16"),
    Case("space_to_depth", "iOS15", lambda x: mb.space_to_depth(x=x, block_size=2), {"x": WIDE}, lambda x: gathered(x, 2), "definition (TensorFlow)"),
    Case("space_to_depth", "iOS15", lambda x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2), {"x": WIDE}, lambda x: x, "there and back"),
    Case("pixel_shuffle", "iOS15", lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), {"x": DEEP}, lambda x: shuffled(x, 2), "torch"),
    Case("pixel_shuffle", "iOS16", lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), {"x": half(DEEP)}, lambda x: shuffled(x, 2), "torch", "fp16"),
    Case("pixel_unshuffle", "iOS16", lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)), {"x": WIDE}, lambda x: unshuffled(x, 2), "torch"),
] + [
    Case("space_to_batch", "iOS15", lambda x, b=block, p=edges: mb.space_to_batch(x=x, block_shape=np.array(b, np.int32), paddings=np.array(p, np.int32)), {"x": WIDE}, lambda x, b=block, p=edges: batched(x, b, p), "definition (TensorFlow)", f"{block} {edges}")
    for block, edges in (((2, 3), ((0, 0), (0, 0))), ((2, 2), ((1, 1), (2, 0))), ((3, 2), ((0, 2), (1, 1))))
] + [
    Case("batch_to_space", "iOS15", lambda x, b=block, p=edges: mb.batch_to_space(x=x, block_shape=np.array(b, np.int32), crops=np.array(p, np.int32)), {"x": WIDE}, lambda x, b=block, p=edges: unbatched(x, b, p), "definition (TensorFlow)", f"{block} {edges}")
    for block, edges in (((2, 2), ((0, 0), (0, 0))), ((1, 2), ((0, 1), (2, 3))), ((4, 1), ((3, 0), (0, 0))))
]  # fmt: skip
CASES = PADS + BLOCKS
CASES += [
    replace(case, label=f"{case.label} {reading}", options={"precision": reading})
    for case in CASES
    for reading in ("emulate", "fp16-weights")
    if case.opset == "iOS16" and "16" in case.label
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("name, expected", [
    ("depth_to_space", [[[1, 5, 2, 6], [9, 13, 10, 14]], [[3, 7, 4, 8], [11, 15, 12, 16]]]),
    ("pixel_shuffle", [[[1, 3, 2, 4], [5, 7, 6, 8]], [[9, 11, 10, 12], [13, 15, 14, 16]]]),
])  # fmt: skip
def test_the_example_that_tells_the_two_orders_apart(name, expected, tmp_path):
    """Printed at ReorganizeDataLayerParams in coremltools mlmodel/format/NeuralNetwork.proto, commit e0e2f42."""
    size = {"depth_to_space": "block_size", "pixel_shuffle": "upscale_factor"}[name]
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 8, 1, 2)
    program = load(save(lambda x: getattr(mb, name)(x=x, **{size: 2}), {"x": x}, tmp_path))
    (found,) = program.predict({"x": x}).values()
    np.testing.assert_array_equal(found[0], expected)


def test_more_is_never_reflected_than_there_is(tmp_path):
    program = load(save(lambda x: mb.pad(x=x, pad=[0, 5], mode="reflect"), {"x": X}, tmp_path))
    with pytest.raises(ExecutionError, match="reflects more"):
        program.predict({"x": X})


def test_padding_that_would_not_fit_is_refused(tmp_path):
    amounts = lambda x: mb.mul(x=mb.concat(values=(mb.shape(x=x), mb.shape(x=x)), axis=0), y=np.int32(1 << 12))  # noqa: E731
    program = load(save(lambda x: mb.pad(x=x, pad=amounts(x)), {"x": ((None, None), np.float32)}, tmp_path), memory_bytes=1 << 20)
    with pytest.raises(ExecutionError, match="bytes"):
        program.predict({"x": X[0, 0]})
