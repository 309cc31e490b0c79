"""Pooling over windows of one, two or three spatial dimensions.

torch's own pooling does what it can (symmetric padding of at most half a window); for the rest the input is padded once and, for
averages, the divisor of every window is made when the handler binds. ``ceil_mode`` is torch's: a last window that begins in the input or
in the padding before it counts, and its part beyond all padding enters no average (docstring of avg_pool, iOS15).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from workbench.mil.errors import UnsupportedError
from workbench.mil.ops.convolution import paddings, symmetric, torch_pad
from workbench.mil.registry import Family, Ints, Tensor

pool = Family("pool")

_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGEST: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

Sides = tuple[tuple[int, int], ...]


def _sides(x: Tensor, kernel: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool) -> tuple[Sides, Sides]:
    """(the padding the op declares, the same with what the last windows of ``ceil_mode`` reach beyond it)."""
    sizes = tuple(x.shape[2:])
    sides = paddings(pad_type.lower(), sizes, kernel, strides, pad)
    if not ceil_mode:
        return sides, sides
    longer = []
    for size, extent, stride, (before, after) in zip(sizes, kernel, strides, sides, strict=True):
        windows = -(-(size + before + after - extent) // stride) + 1
        # ops/defs/_utils.py, spatial_dimensions_out_shape: without padding the window stays, though it covers nothing.
        if (windows - 1) * stride >= size + (before + after) / 2:
            if before + after == 0:
                raise UnsupportedError(
                    f"ceil_mode with kernel {extent}, stride {stride}, size {size}: the last window covers nothing",
                    why="what it holds is not defined",
                )
            windows -= 1
        longer.append((before, max(after, (windows - 1) * stride + extent - size - before)))
    return sides, tuple(longer)


def _direct(sides: Sides, kernel: Ints) -> bool:
    """Whether torch's call takes the padding."""
    return symmetric(sides) and all(before <= extent // 2 for (before, _), extent in zip(sides, kernel, strict=True))


def _divisors(x: Tensor, kernel: Ints, strides: Ints, counted: Sides, padded: Sides) -> Tensor:
    """Kernel size over the number of elements that each window averages: those within ``counted`` around the input."""
    ratio = torch.ones((), dtype=torch.float64)
    for size, extent, stride, (front, back), (before, after) in zip(x.shape[2:], kernel, strides, counted, padded, strict=True):
        begins = torch.arange(0, size + before + after - extent + 1, stride, dtype=torch.float64) - before
        inside = (begins + extent).clamp(max=size + back) - begins.clamp(min=-front)
        ratio = ratio.unsqueeze(-1) * (extent / inside.clamp(min=1))
    return ratio.to(device=x.device, dtype=x.dtype)


@pool.bind("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints = (),
    pad: Ints = (),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Callable[..., Tensor]:
    rank = x.dim() - 2
    strides = strides or (1,) * rank
    sides, padded = _sides(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    if _direct(sides, kernel_sizes):
        return partial(
            _AVERAGE[rank],
            kernel_size=kernel_sizes,
            stride=strides,
            padding=tuple(before for before, _ in sides),
            ceil_mode=padded != sides,
            count_include_pad=not exclude_padding_from_average,
        )
    call = partial(_AVERAGE[rank], kernel_size=kernel_sizes, stride=strides)
    counted = ((0, 0),) * rank if exclude_padding_from_average else sides
    if counted == padded:
        return lambda x: call(F.pad(x, torch_pad(padded)))
    ratio = _divisors(x, kernel_sizes, strides, counted, padded)
    return lambda x: call(F.pad(x, torch_pad(padded))) * ratio


@pool.bind("max_pool")
def max_pool(
    x: Tensor, kernel_sizes: Ints, pad_type: str, strides: Ints = (), pad: Ints = (), ceil_mode: bool = False
) -> Callable[..., Tensor]:
    """Padding is never the largest."""
    rank = x.dim() - 2
    strides = strides or (1,) * rank
    sides, padded = _sides(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    call = partial(_LARGEST[rank], kernel_size=kernel_sizes, stride=strides)
    if _direct(sides, kernel_sizes):
        return partial(call, padding=tuple(before for before, _ in sides), ceil_mode=padded != sides)
    return lambda x: call(F.pad(x, torch_pad(padded), value=-torch.inf))


@pool.bind("l2_pool")
def l2_pool(
    x: Tensor, kernel_sizes: Ints, pad_type: str, strides: Ints = (), pad: Ints = (), ceil_mode: bool = False
) -> Callable[..., Tensor]:
    """The root of the sum of squares, not of their mean: Accelerate, BNNS.PoolingType.l2Norm."""
    rank = x.dim() - 2
    strides = strides or (1,) * rank
    padded = _sides(x, kernel_sizes, strides, pad_type, pad, ceil_mode)[1]
    amounts = torch_pad(padded)
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype  # squares leave half precision soon
    count = float(torch.Size(kernel_sizes).numel())
    call = partial(_AVERAGE[rank], kernel_size=kernel_sizes, stride=strides)
    pads = any(amounts)

    def run(x: Tensor) -> Tensor:
        squares = x.to(wide).square()
        return (call(F.pad(squares, amounts) if pads else squares) * count).sqrt()

    return run
