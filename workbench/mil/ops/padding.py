"""Padding, and the moves between space, depth and batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F

from workbench.mil.registry import Context, Family, Ints, Tensor

padding = Family("tensor_transformation")


@padding.bind("pad", module="tensor_operation", moves=True)
def pad(x: Tensor, pad: Ints, context: Context, mode: str = "constant", constant_val: float = 0.0) -> Callable[[Tensor], Tensor]:
    """``pad``: (before, after) for each of the last dimensions, the outermost first."""
    if len(pad) % 2 or len(pad) > 2 * x.dim() or min(pad, default=0) < 0:
        raise ValueError(f"{list(pad)} is no padding of a tensor of rank {x.dim()}")
    amounts = [(0, 0)] * (x.dim() - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
    context.allow(tuple(size + before + after for size, (before, after) in zip(x.shape, amounts, strict=True)), x.dtype)
    if mode == "constant":
        innermost_first = [amount for pair in reversed(amounts) for amount in pair]
        return lambda x: F.pad(x, innermost_first, value=constant_val)
    if mode == "reflect" and any(max(pair) >= size for pair, size in zip(amounts, x.shape, strict=True) if any(pair)):
        raise ValueError(f"{list(pad)} reflects more than a tensor of shape {list(x.shape)} has")
    return lambda x: _edges(x, amounts, mode)


def _edges(x: Tensor, amounts: list[tuple[int, int]], mode: str) -> Tensor:
    """torch pads the edges of the last three dimensions only: those at once, the ones before them one by one."""
    inner = min(3, x.dim())
    if any(map(any, amounts[-inner:])):
        last = [amount for pair in reversed(amounts[-inner:]) for amount in pair]
        padded = F.pad(x.reshape(1, -1, *x.shape[-inner:]), last, mode=mode)
        x = padded.reshape(*x.shape[:-inner], *padded.shape[2:])
    for axis, pair in enumerate(amounts[:-inner]):
        if any(pair):
            shape = x.shape
            padded = F.pad(x.reshape(1, shape[:axis].numel(), shape[axis], -1), (0, 0, *pair), mode=mode)
            x = padded.reshape(*shape[:axis], padded.shape[2], *shape[axis + 1 :])
    return x


@padding.op("depth_to_space", moves=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channel ``(row in block, column in block, channel)``, unlike pixel_shuffle: the example at ReorganizeDataLayerParams in
    coremltools mlmodel/format/NeuralNetwork.proto."""
    n, c, h, w = x.shape
    b = block_size
    parts = x.reshape(n, b, b, c // (b * b), h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@padding.op("space_to_depth", moves=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of depth_to_space."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@padding.op("pixel_shuffle", moves=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@padding.op("pixel_unshuffle", since="iOS16", moves=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


@padding.op("space_to_batch", moves=True)
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints, context: Context) -> Tensor:
    """Batch ``(row in block, column in block, batch)``: TensorFlow's SpaceToBatchND, whose front end emits the op."""
    high, wide = block_shape
    top, bottom, left, right = paddings
    n, c, h, w = x.shape
    h, w = h + top + bottom, w + left + right
    context.allow((n, c, h, w), x.dtype)
    parts = F.pad(x, (left, right, top, bottom)).reshape(n, c, h // high, high, w // wide, wide)
    return parts.permute(3, 5, 0, 1, 2, 4).reshape(n * high * wide, c, h // high, w // wide)


@padding.op("batch_to_space", moves=True)
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """The inverse of space_to_batch."""
    high, wide = block_shape
    top, bottom, left, right = crops
    n, c, h, w = x.shape
    parts = x.reshape(high, wide, n // (high * wide), c, h, w)
    whole = parts.permute(2, 3, 4, 0, 5, 1).reshape(n // (high * wide), c, h * high, w * wide)
    return whole[:, :, top : h * high - bottom, left : w * wide - right]
