"""Shapes: reshape and its kin, and the order of dimensions. Values stay as they are, mostly in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch

from workbench.mil.registry import Bools, Context, Family, Ints, Tensor, Tensors

transformation = Family("tensor_transformation")


@transformation.bind("reshape", moves=True)
def reshape(x: Tensor, shape: Ints) -> Callable[[Tensor], Tensor]:
    """0 keeps the dimension of that place (the ranks are then equal); -1 is what remains."""
    if 0 in shape and len(shape) != x.dim():
        raise ValueError(f"a 0 in {list(shape)} asks for a tensor of rank {len(shape)}, this one has rank {x.dim()}")
    target = tuple(x.shape[place] if size == 0 else size for place, size in enumerate(shape))
    return lambda x: x.reshape(target)


@transformation.bind("reshape", since="iOS17", moves=True)
def reshape_from_the_right(x: Tensor, shape: Ints) -> Callable[[Tensor], Tensor]:
    """0 keeps the dimension at the same distance from the end, and is 1 where there is none."""
    sizes = (1,) * (len(shape) - x.dim()) + tuple(x.shape)[max(0, x.dim() - len(shape)) :]
    target = tuple(kept if size == 0 else size for kept, size in zip(sizes, shape, strict=True))
    return lambda x: x.reshape(target)


@transformation.bind("reshape_like", since="iOS16", moves=True)
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Bools) -> Callable[..., Tensor]:
    """To the parts ``begin:end`` of the shapes of ``ref_tensors``, one after another; a mask drops the end."""
    parts = zip(ref_tensors, begins, ends, end_masks, strict=True)
    target = tuple(size for like, begin, end, mask in parts for size in like.shape[begin : None if mask else end])
    return lambda x, ref_tensors: x.reshape(target)


@transformation.bind("flatten2d", module="tensor_operation", moves=True)
def flatten2d(x: Tensor, axis: int = 1) -> Callable[[Tensor], Tensor]:
    """The dimensions before ``axis``, and those from it on."""
    target = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return lambda x: x.reshape(target)


@transformation.bind("expand_dims", moves=True)
def expand_dims(x: Tensor, axes: Ints) -> Callable[[Tensor], Tensor]:
    """``axes`` are places in the result."""
    shape = list(x.shape)
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return lambda x: x.reshape(shape)


@transformation.bind("squeeze", moves=True)
def squeeze(x: Tensor, context: Context, axes: Ints | None = None) -> Callable[[Tensor], Tensor]:
    """Without the dimensions of ``axes`` (default: all) that are of size 1; others stay. A dimension that the program does not know
    stays too, for it is part of the declared result, also where it is 1 in this run."""
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if axes is not None:
        chosen = {axis % x.dim() for axis in axes}
        ones = [axis for axis in ones if axis in chosen]
    declared = context.output_types[0].shape
    if declared is not None and len(declared) > x.dim() - len(ones):
        for drop in combinations(ones, x.dim() - len(declared)):
            shape = [size for axis, size in enumerate(x.shape) if axis not in drop]
            if all(known in (None, 0, size) for known, size in zip(declared, shape, strict=True)):
                return lambda x: x.reshape(shape)
    return lambda x: x.squeeze(tuple(ones))


@transformation.op("transpose", moves=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@transformation.op("identity", module="tensor_operation", moves=True)
def identity(x: Any) -> Any:
    return x


@transformation.op("shape", module="tensor_operation")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32, device=x.device)
