"""Tensors made of others or of a number: concat, split, stack, tile, fill, range. Views where that is enough."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from workbench.mil.registry import Context, Family, Ints, Tensor, Tensors
from workbench.mil.types import NUMPY, torch_dtype

joining = Family("tensor_operation")


def _declared(context: Context) -> torch.dtype:
    return torch_dtype(context.output_types[0].dtype, context.half)


@joining.bind("concat", moves=True)
def concat(values: Tensors, axis: int, interleave: bool = False) -> Callable[..., Tensor]:
    """Scalars become a vector. ``interleave``: element i of the first, of the second, and so on, then element i + 1."""
    if values[0].dim() == 0:
        return torch.stack
    if not interleave:
        return lambda values: torch.cat(values, axis)
    axis %= values[0].dim()
    return lambda values: torch.stack(values, axis + 1).flatten(axis, axis + 1)


@joining.op("stack", moves=True)
def stack(values: Tensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


@joining.bind("split", moves=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Callable[[Tensor], Tensors]:
    """Into pieces of ``split_sizes``, or into ``num_splits`` of one size."""
    if split_sizes is not None:
        return lambda x: torch.split(x, split_sizes, axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} elements cannot be split into {num_splits} parts of one size")
    return lambda x: torch.tensor_split(x, num_splits, axis)


@joining.bind("tile", moves=True)
def tile(x: Tensor, reps: Ints, context: Context) -> Callable[[Tensor], Tensor]:
    shape = tuple(size * count for size, count in zip(x.shape, reps, strict=True))
    context.allow(shape, x.dtype)
    if all(size == 1 or count == 1 for size, count in zip(x.shape, reps, strict=True)):
        return lambda x: x.expand(shape)  # nothing is copied
    return lambda x: x.repeat(reps)


@joining.op("fill", moves=True)
def fill(shape: Ints, context: Context, value: float = 0.0) -> Tensor:
    dtype = _declared(context)
    context.allow(shape, dtype)
    return torch.full(shape, value, dtype=dtype, device=context.device)


@joining.op("fill_like", since="iOS16", moves=True)
def fill_like(ref_tensor: Tensor, context: Context, value: float = 0.0) -> Tensor:
    """The type is that of ``value``, not of the tensor."""
    dtype = _declared(context)
    context.allow(tuple(ref_tensor.shape), dtype)
    return torch.full(ref_tensor.shape, value, dtype=dtype, device=context.device)


@joining.op("range_1d")
def range_1d(end: float, start: float, step: float, context: Context) -> Tensor:
    """``start + i * step`` below ``end``. How many is decided in the declared type, as coremltools declares it: in fp32 a range of 0.3
    by 0.1 has 3 elements, in exact arithmetic on the stored values 4."""
    kind = NUMPY[context.output_types[0].dtype]
    kind = kind if issubclass(kind, np.floating) else np.float64  # exact for integers
    if step == 0 or not all(map(math.isfinite, (start, end, step))):
        raise ValueError(f"no range goes from {start} to {end} by {step}")
    count = max(0, math.ceil((kind(end) - kind(start)) / kind(step)))
    dtype = _declared(context)
    context.allow((count,), dtype)
    places = torch.arange(count, dtype=torch.float64, device=context.device)
    return (places * step + start).to(dtype)
