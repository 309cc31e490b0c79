"""Graphs as other front ends write them: channels last, padding apart from the convolution, folded normalisation, TensorArray loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run
from tests.mil.whole.comparing import relative

CLOSE = 2e-6


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(x: torch.Tensor, size: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """TensorFlow's padding SAME of [n, c, h, w]: ceil(n / stride) places; where the total is odd, the end has one more."""
    edges: list[int] = []
    for length in reversed(x.shape[2:]):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        edges += [total // 2, total - total // 2]
    return F.pad(x, edges, value=value)


def first(x: Any) -> Any:
    return mb.transpose(x=x, perm=[0, 3, 1, 2])


def last(x: Any) -> Any:
    return mb.transpose(x=x, perm=[0, 2, 3, 1])


@pytest.mark.parametrize("since", ["iOS15", "iOS17"])
@pytest.mark.parametrize("size", [(17, 14), (16, 21)], ids=str)
def test_a_network_with_channels_last(tmp_path: Path, since: str, size: tuple[int, int]) -> None:
    """As TensorFlow's front end writes one: every convolution between two transposes, bias and normalisation as mul and add of
    vectors, padding SAME with stride 2 and apart, max pooling, a mean over the middle axes, a matrix stored transposed."""
    x = normal(2, *size, 3)
    one, two, deep = normal(8, 3, 5, 5, seed=1), normal(6, 8, 3, 3, seed=2), normal(12, 1, 3, 3, seed=3)
    scale, shift, table = normal(8, seed=4), normal(8, seed=5), normal(5, 12, seed=6)

    def build(x: Any) -> Any:
        x = last(mb.conv(x=first(x), weight=one, strides=[2, 2], pad_type="same"))
        x = mb.add(x=mb.mul(x=scale.reshape(1, 1, 1, 8), y=x), y=shift)
        x = mb.relu6(x=x)
        x = mb.pad(x=x, pad=[0, 0, 1, 2, 2, 1, 0, 0], mode="constant", constant_val=0.0)
        x = last(mb.conv(x=first(x), weight=two, pad_type="valid"))
        x = last(mb.conv(x=first(x), weight=deep, groups=6, strides=[1, 1], dilations=[2, 2], pad_type="same"))
        x = last(mb.max_pool(x=first(x), kernel_sizes=[3, 3], strides=[2, 2], pad_type="same"))
        x = mb.reduce_mean(x=x, axes=[1, 2], keep_dims=False)
        return mb.softmax(x=mb.matmul(x=x, y=table, transpose_y=True), axis=-1)

    (found,) = run(build, {"x": x}, tmp_path, since=since)
    y = torch.from_numpy(x).permute(0, 3, 1, 2).double()
    weights = [torch.from_numpy(each).double() for each in (one, two, deep, scale, shift, table)]
    y = F.conv2d(same(y, 5, 2), weights[0], stride=2)
    y = F.relu6(y * weights[3].view(1, 8, 1, 1) + weights[4].view(1, 8, 1, 1))
    y = F.conv2d(F.pad(y, (2, 1, 1, 2)), weights[1])
    y = F.conv2d(same(y, 5, 1), weights[2], groups=6, dilation=2)
    y = F.max_pool2d(same(y, 3, 2, -torch.inf), 3, 2)
    wanted = (y.mean((2, 3)) @ weights[5].T).softmax(-1)
    assert relative([found], [wanted]) <= CLOSE


def test_convolutions_whose_weights_are_computed(tmp_path: Path) -> None:
    """Depthwise and grouped, with weights that are inputs of the program, by turns with other values."""
    x, deep, wide, bias = normal(1, 6, 9, 8), normal(6, 1, 3, 3, seed=1), normal(4, 3, 2, 2, seed=2), normal(4, seed=3)

    def build(x: Any, deep: Any, wide: Any) -> Any:
        x = mb.conv(x=x, weight=mb.mul(x=deep, y=0.5), groups=6, pad_type="same")
        return mb.conv(x=x, weight=wide, bias=bias, groups=2, strides=[2, 1], pad_type="valid")

    (found,) = run(build, {"x": x, "deep": deep, "wide": wide}, tmp_path)
    x, deep, wide, bias = (torch.from_numpy(each).double() for each in (x, deep, wide, bias))
    assert relative([found], [F.conv2d(F.conv2d(x, deep / 2, padding=1, groups=6), wide, bias, (2, 1), groups=2)]) <= CLOSE


def test_matrices_in_every_position(tmp_path: Path) -> None:
    """One product, written as linear, as matmul with its constant first or second, plain or transposed, and batched."""
    x, weight = normal(2, 3, 6), normal(4, 6, seed=1)

    def build(x: Any) -> Any:
        turned = mb.transpose(x=x, perm=[0, 2, 1])
        return (
            mb.linear(x=x, weight=weight),
            mb.matmul(x=x, y=weight, transpose_y=True),
            mb.matmul(x=x, y=np.ascontiguousarray(weight.T)),
            mb.transpose(x=mb.matmul(x=weight, y=turned), perm=[0, 2, 1]),
            mb.matmul(x=turned, y=np.stack([weight.T] * 2), transpose_x=True),
            mb.transpose(x=mb.matmul(x=weight.T[None], y=x, transpose_x=True, transpose_y=True), perm=[0, 2, 1]),
            mb.linear(x=x, weight=weight, bias=np.zeros(4, np.float32)),
        )

    for found in run(build, {"x": x}, tmp_path):
        assert relative([found], [np.einsum("btc,oc->bto", x.astype(np.float64), weight.astype(np.float64))]) <= CLOSE


def test_a_loop_over_a_tensor_array(tmp_path: Path) -> None:
    """A recurrent network as TensorFlow's dynamic_rnn: steps read by gather, results written to a list and stacked afterwards."""
    steps, batch, size = 7, 2, 5
    x, start = normal(batch, steps, 3), np.zeros((batch, size), np.float32)
    inward, around = normal(3, size, seed=1), 0.3 * normal(size, size, seed=2)

    def build(x: Any) -> Any:
        timed = mb.transpose(x=x, perm=[1, 0, 2])
        made = mb.make_list(init_length=1, elem_shape=(batch, size), dynamic_length=True)

        def go_on(number: Any, state: Any, made: Any) -> Any:
            return mb.less(x=number, y=np.int32(steps))

        def one_round(number: Any, state: Any, made: Any) -> Any:
            now = mb.squeeze(x=mb.gather(x=timed, indices=mb.expand_dims(x=number, axes=[0]), axis=0), axes=[0])
            state = mb.tanh(x=mb.add(x=mb.matmul(x=now, y=inward), y=mb.matmul(x=state, y=around)))
            return mb.add(x=number, y=np.int32(1)), state, mb.list_write(ls=made, index=number, value=state)

        number, state, made = mb.while_loop(_cond=go_on, _body=one_round, loop_vars=(np.int32(0), start, made))
        stacked = mb.list_gather(ls=made, indices=np.arange(steps).astype(np.int32))
        return mb.transpose(x=stacked, perm=[1, 0, 2]), state, mb.list_length(ls=made)

    stacked, state, length = run(build, {"x": x}, tmp_path)
    held, wanted = start.astype(np.float64), []
    for step in range(steps):
        held = np.tanh(x[:, step].astype(np.float64) @ inward + held @ around)
        wanted.append(held)
    assert relative([stacked, state], [np.stack(wanted, 1), held]) <= CLOSE and length == steps


def test_slices_with_masks_and_negative_strides(tmp_path: Path) -> None:
    x = np.arange(5 * 6 * 7 * 4, dtype=np.float32).reshape(5, 6, 7, 4)
    none = [False] * 4

    def build(x: Any) -> Any:
        def cut(begin: list[int], end: list[int], **options: Any) -> Any:
            return mb.slice_by_index(x=x, begin=begin, end=end, **options)

        return (
            cut([0, 1, 0, 0], [0, -1, 7, 4], begin_mask=[True, False, True, True], end_mask=[True, False, True, True]),
            cut([-1, 5, 2, 0], [0, 0, 3, 4], stride=[-1, -2, 1, 1], end_mask=[True, True, False, False]),
            cut([3, 0, -2, 1], [4, 0, 7, 2], squeeze_mask=[True, False, False, True], end_mask=[False, True, False, False]),
            cut(
                [0, 0, 0, 0],
                [5, 6, 7, 4],
                stride=[2, 3, 4, -1],
                begin_mask=[False, False, False, True],
                end_mask=[False] * 3 + [True],
            ),
            cut([-4, -100, 0, 0], [100, 4, 7, 4], begin_mask=none),
        )

    wanted = [x[:, 1:-1], x[::-1, 5::-2, 2:3], x[3, :, -2:7, 1], x[::2, ::3, ::4, ::-1], x[-4:, :4]]
    found = run(build, {"x": x}, tmp_path)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_integers_booleans_and_five_axes(tmp_path: Path) -> None:
    """Outputs of every kind, through axes that only the ranks 4 and 5 have, and a scalar."""
    x = normal(2, 3, 4, 5, 2)

    def build(x: Any) -> Any:
        turned = mb.transpose(x=x, perm=[4, 0, 2, 1, 3])
        merged = mb.reshape(x=turned, shape=[2, 8, 15])
        places = mb.reduce_argmax(x=merged, axis=-1, keep_dims=False)
        return (
            places,
            mb.greater(x=turned, y=0.5),
            mb.cast(x=mb.reduce_sum(x=mb.cast(x=mb.less(x=x, y=0.0), dtype="int32"), axes=[0, 2], keep_dims=False), dtype="fp32"),
            mb.reduce_max(x=x, axes=[0, 1, 2, 3, 4], keep_dims=False),
            mb.mod(x=mb.add(x=places, y=np.int32(-7)), y=np.int32(4)),
            mb.not_equal(x=places, y=np.int32(3)),
        )

    found = run(build, {"x": x}, tmp_path, since="iOS16")
    turned = x.transpose(4, 0, 2, 1, 3)
    places = turned.reshape(2, 8, 15).argmax(-1)
    wanted = [places, turned > 0.5, (x < 0).sum((0, 2)).astype(np.float32), x.max(), (places - 7) % 4, places != 3]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0].dtype == np.int32 and np.shape(found[3]) == ()


def test_what_nobody_reads_and_what_depends_on_nothing(tmp_path: Path) -> None:
    """Work whose result nobody reads, an input nobody reads, one returned as it is, and an output that depends on no input."""
    x, unused = normal(3, 4), np.arange(6, dtype=np.int32)

    def build(x: Any, unused: Any) -> Any:
        mb.real_div(x=x, y=mb.sub(x=x, y=x))
        fixed = mb.add(x=mb.const(val=np.float32([1, 2])), y=np.float32(0.5))
        return (
            mb.identity(x=x),
            fixed,
            mb.fill(shape=mb.shape(x=x), value=2.0),
            mb.range_1d(start=np.int32(2), end=np.int32(9), step=np.int32(3)),
        )

    same_x, fixed, filled, counted = run(build, {"x": x, "unused": unused}, tmp_path)
    np.testing.assert_array_equal(same_x, x)
    np.testing.assert_array_equal(fixed, [1.5, 2.5])
    np.testing.assert_array_equal(filled, np.full((3, 4), 2.0))
    np.testing.assert_array_equal(counted, [2, 5, 8])
