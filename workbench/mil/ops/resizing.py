"""Images at another size: upsample and resize.

A resized axis has a grid: where each output point lies among the input's. The modes of the grid, with torch's and TensorFlow's names::

    STRICT_ALIGN_CORNERS   corners on corners             torch align_corners=True, TensorFlow align_corners=True
    ALIGN_CORNERS          the same; one point: the middle
    UNALIGN_CORNERS        centres of equal pixels        torch align_corners=False, TensorFlow half_pixel_centers=True
    DEFAULT                first corner on first corner   TensorFlow with neither
    OFFSET_CORNERS         centres of equal parts of the span (RoI align)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from workbench.mil.errors import ExecutionError, UnsupportedError
from workbench.mil.registry import Context, Family, Ints, Tensor

resizing = Family("image_resizing")


def grid(mode: str, start: Tensor, end: Tensor, count: int) -> Tensor:
    """``count`` points from start to end along a new last axis, in their type; an input of n points goes from 0 to n - 1.

    Source: the notes of iOS15 resize_bilinear; that the points never leave the interval, in crop_resize too: the comments on
    SamplingMode in mlmodel/format/NeuralNetwork.proto of apple/coremltools.
    """
    start, end = start[..., None], end[..., None]
    span = end - start
    number = torch.arange(count, dtype=span.dtype, device=span.device)
    if mode == "ALIGN_CORNERS" and count == 1:
        points = span / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = number * span / max(count - 1, 1)
    elif mode == "DEFAULT":
        points = number * (span + 1) / count
    elif mode == "OFFSET_CORNERS":
        points = (number + 0.5) * span.clamp(min=1) / count
    elif mode == "UNALIGN_CORNERS":
        points = (number + 0.5) * (span + 1) / count - 0.5
    else:
        raise UnsupportedError(f"sampling mode {mode!r} is not known")
    return torch.minimum(torch.maximum(start + points, torch.minimum(start, end)), torch.maximum(start, end))


def _points(mode: str, before: int, after: int) -> Tensor:
    return grid(mode, torch.zeros((), dtype=torch.float64), torch.tensor(before - 1.0, dtype=torch.float64), after)


def _selecting(x: Tensor, chosen: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that takes these elements along each axis; the last axis first: rows are then copied whole."""
    moved = [
        (axis, index.to(x.device))
        for axis, index in sorted(chosen.items(), reverse=True)
        if not torch.equal(index, torch.arange(x.shape[axis]))
    ]

    def select(x: Tensor) -> Tensor:
        for axis, index in moved:
            x = x.index_select(axis, index)
        return x

    return select


def _interpolating(x: Tensor, points: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that interpolates linearly along each axis; in single precision at least, rounded once."""
    steps = []
    for axis, place in sorted(points.items(), reverse=True):  # rows last: they are copied whole
        if torch.equal(place, torch.arange(x.shape[axis], dtype=place.dtype)):
            continue
        low = place.floor().long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        weight = (place - low).float().view(-1, *([1] * (x.dim() - 1 - axis)))
        steps.append((axis, low.to(x.device), high.to(x.device), (1 - weight).to(x.device), weight.to(x.device)))

    def interpolate(x: Tensor) -> Tensor:
        kind = x.dtype
        x = x if kind == torch.float64 else x.float()
        for axis, low, high, first, second in steps:
            # index_select copies: the product in place is not seen outside
            x = x.index_select(axis, low).mul_(first).addcmul_(x.index_select(axis, high), second)
        return x.to(kind) if kind.is_floating_point else x.round().to(kind)

    return interpolate


def _linear(x: Tensor, size: Sequence[int], mode: str, context: Context) -> Callable[[Tensor], Tensor]:
    """The last axes of ``x`` at another size, linearly."""
    shape = (*x.shape[: x.dim() - len(size)], *size)
    context.allow(shape, x.dtype)
    if mode in ("UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS") and len(size) == 2 and x.is_floating_point() and math.prod(x.shape):
        align = mode == "STRICT_ALIGN_CORNERS"
        plane = (1, math.prod(x.shape[:-2]), *x.shape[-2:]) if x.dim() != 4 else x.shape
        return lambda x: F.interpolate(x.reshape(plane), tuple(size), mode="bilinear", align_corners=align).reshape(shape)
    first = x.dim() - len(size)
    return _interpolating(x, {first + k: _points(mode, x.shape[first + k], after) for k, after in enumerate(size)})


def _nearest(x: Tensor, size: Sequence[int], rule: str, context: Context) -> Callable[[Tensor], Tensor]:
    """The last axes of ``x`` at another size, by the nearest element: ``floor``: that at or before DEFAULT's point (torch's nearest);
    ``centre``: the one that holds the centre of the output's pixel (torch's nearest-exact); a grid's mode: the nearest to its point.
    """
    first = x.dim() - len(size)
    context.allow((*x.shape[:first], *size), x.dtype)
    chosen = {}
    for axis, after in enumerate(size, first):
        before, number = x.shape[axis], torch.arange(after)
        if rule == "floor":
            chosen[axis] = number * before // after
        elif rule == "centre":
            chosen[axis] = (2 * number + 1) * before // (2 * after)
        else:
            chosen[axis] = (_points(rule, before, after) + 0.5).floor().long().clamp(max=before - 1)
    return _selecting(x, chosen)


def _scaled(x: Tensor, height: float, width: float, context: Context) -> tuple[int, int]:
    """The size after upsampling. ``floor(length * factor)`` depends on the precision of the product where that is close to an
    integer: the declared size decides."""
    shape = context.output_types[0].shape
    sizes = []
    for axis, factor in ((-2, height), (-1, width)):
        single = int(np.floor(np.float32(x.shape[axis]) * np.float32(factor)))
        double = math.floor(x.shape[axis] * factor)
        sizes.append(double if shape is not None and shape[axis] == double else single)
    return sizes[0], sizes[1]


@resizing.bind("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(
    x: Tensor, context: Context, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Callable[[Tensor], Tensor]:
    """Element i comes from ``floor(i * before / after)``: TensorFlow's rule where neither corners nor centres are aligned (the front
    end emits this op for it), torch's for a given size. Not ``floor(i / factor)``: coremltools' iOS15 tests give 3 elements times
    1.12 as the same 3."""
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width, context), "floor", context)


@resizing.bind("resize_nearest_neighbor", moves=True)
def resize_nearest_neighbor(
    x: Tensor, target_size_height: int, target_size_width: int, context: Context
) -> Callable[[Tensor], Tensor]:
    """Centres of pixels: coremltools' TensorFlow front end emits it for ResizeNearestNeighbor with half_pixel_centers only."""
    return _nearest(x, (target_size_height, target_size_width), "centre", context)


@resizing.bind("upsample_bilinear")
def upsample_bilinear(
    x: Tensor, context: Context, scale_factor_height: float = 1, scale_factor_width: float = 1, align_corners: bool = True
) -> Callable[[Tensor], Tensor]:
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width, context), mode, context)


@resizing.bind("upsample_bilinear", since="iOS16")
def upsample_bilinear_centred(
    x: Tensor,
    context: Context,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Callable[[Tensor], Tensor]:
    """``half_pixel_centers`` is the opposite of ``align_corners`` where it is absent; neither is the DEFAULT grid."""
    if align_corners and half_pixel_centers:
        raise ExecutionError(
            f"op {context.op!r} asks for align_corners and half_pixel_centers", why="no grid has both", fix="give one of them"
        )
    if align_corners or half_pixel_centers is not False:
        mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    else:
        mode = "DEFAULT"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width, context), mode, context)


@resizing.bind("resize_bilinear")
def resize_bilinear(
    x: Tensor, context: Context, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Callable[[Tensor], Tensor]:
    return _linear(x, (target_size_height, target_size_width), sampling_mode, context)


@resizing.bind("resize", since="iOS17")
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    context: Context,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Callable[[Tensor], Tensor]:
    """NEAREST_NEIGHBOR with DEFAULT means the centres of pixels, not DEFAULT's grid: coremltools' TensorFlow front end emits it for
    half_pixel_centers, and its iOS17 tests resize 2 elements to 3 as the first, the second, the second. In the other modes it is the
    element nearest to the point, the later of two. Integers that are interpolated are rounded; coremltools does not say.
    """
    start = x.dim() - resized_dims
    size = [wanted or x.shape[start + place] for place, wanted in enumerate(shape[len(shape) - resized_dims :])]
    if interpolation_mode == "LINEAR":
        return _linear(x, size, sampling_mode, context)
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest(x, size, "centre" if sampling_mode == "DEFAULT" else sampling_mode, context)
    raise UnsupportedError(f"interpolation mode {interpolation_mode!r} is not known", fix="LINEAR, NEAREST_NEIGHBOR")
