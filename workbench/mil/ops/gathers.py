"""Gathers: values taken from a tensor at positions that another tensor holds.

An index counts from the start; a negative one counts from the end. From iOS17 on a negative index is out of range, and what an index
out of range gives is undefined unless ``validate_indices`` asks for an error. Here it then means what it meant before: a negative one
counts from the end, any other is an error. On a GPU, where looking at the values would stall, such an index is taken modulo the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Context, Family, Tensor

gathers = Family("scatter_gather")


def within(indices: Tensor, length: int, strict: bool, context: Context) -> Tensor:
    """The indices along an axis of ``length``, all counted from the start, as int32 or int64.

    Raises ExecutionError where one is out of range; ``strict``: negative ones are.
    """
    if indices.dtype not in (torch.int32, torch.int64):
        indices = indices.long()
    if indices.numel() == 0:
        return indices
    if indices.is_cuda and length and not strict:
        return indices.remainder(length)
    low, high = (int(end) for end in indices.aminmax())
    if high >= length or low < (0 if strict else -length):
        raise ExecutionError(
            f"op {context.op!r} is given indices from {low} to {high} for an axis of length {length}",
            why="validate_indices asks for an error where one is out of range" if strict else "there are no such elements",
        )
    return indices if low >= 0 else torch.where(indices < 0, indices + length, indices)


def rows_at(indices: Tensor, sizes: Sequence[int], first: Tensor, strict: bool, context: Context) -> Tensor:
    """Each vector along the last axis of ``indices`` as one row number of a tensor whose leading axes, of these sizes, are laid out
    as rows. ``first``: the row number over the axes before those, which broadcasts to the shape of the result."""
    rows = first.expand(indices.shape[:-1])
    for place, size in enumerate(sizes):
        rows = rows * size + within(indices[..., place], size, strict, context)
    return rows.reshape(-1)


def batches(sizes: Sequence[int], rank: int, device: torch.device) -> Tensor:
    """The number of each batch, shaped to broadcast over tensors of ``rank`` whose leading axes are these."""
    return torch.arange(math.prod(sizes), device=device).view((*sizes, *([1] * (rank - len(sizes)))))


def _gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int, strict: bool, context: Context) -> Callable[..., Tensor]:
    axis = axis + x.dim() if axis < 0 else axis
    length = x.shape[axis]
    shape = x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1 :]
    if batch_dims == 0:
        if indices.dim() == 1:
            return lambda x, indices: x.index_select(axis, within(indices, length, strict, context))
        return lambda x, indices: x.index_select(axis, within(indices, length, strict, context).reshape(-1)).view(shape)
    if axis < batch_dims:
        raise ExecutionError(f"op {context.op!r} gathers along axis {axis}, which is one of its {batch_dims} batch axes")
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    between = x.shape[batch_dims:axis]
    wide = indices.shape[:batch_dims] + (1,) * len(between) + indices.shape[batch_dims:]
    first = batches(x.shape[:axis], len(wide), x.device)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        rows = first * length + within(indices, length, strict, context).view(wide)
        return x.reshape(before * length, after).index_select(0, rows.reshape(-1)).view(shape)

    return gather


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int, strict: bool, context: Context) -> Callable[..., Tensor]:
    end = batch_dims + indices.shape[-1]
    sizes, count, width = x.shape[batch_dims:end], math.prod(x.shape[:end]), math.prod(x.shape[end:])
    shape = indices.shape[:-1] + x.shape[end:]
    first = batches(x.shape[:batch_dims], indices.dim() - 1, x.device)
    return lambda x, indices: x.reshape(count, width).index_select(0, rows_at(indices, sizes, first, strict, context)).view(shape)


def _gather_along_axis(x: Tensor, indices: Tensor, axis: int, strict: bool, context: Context) -> Tensor:
    return x.gather(axis, within(indices, x.shape[axis], strict, context).long())


@gathers.bind("gather", moves=True)
def gather(x: Tensor, indices: Tensor, context: Context, axis: int = 0) -> Callable[..., Tensor]:
    return _gather(x, indices, axis, 0, False, context)


@gathers.bind("gather", since="iOS16", moves=True)
def gather_batched(x: Tensor, indices: Tensor, context: Context, axis: int = 0, batch_dims: int = 0) -> Callable[..., Tensor]:
    return _gather(x, indices, axis, batch_dims, False, context)


@gathers.bind("gather", since="iOS17", moves=True)
def gather_validated(
    x: Tensor, indices: Tensor, context: Context, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Callable[..., Tensor]:
    return _gather(x, indices, axis, batch_dims, validate_indices, context)


@gathers.op("gather_along_axis", moves=True)
@gathers.op("gather_along_axis", since="iOS16", moves=True)
def gather_along_axis(x: Tensor, indices: Tensor, context: Context, axis: int = 0) -> Tensor:
    """iOS16 takes indices of int16 and uint16 too."""
    return _gather_along_axis(x, indices, axis, False, context)


@gathers.op("gather_along_axis", since="iOS17", moves=True)
def gather_along_axis_validated(
    x: Tensor, indices: Tensor, context: Context, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    return _gather_along_axis(x, indices, axis, validate_indices, context)


@gathers.bind("gather_nd", moves=True)
def gather_nd(x: Tensor, indices: Tensor, context: Context) -> Callable[..., Tensor]:
    return _gather_nd(x, indices, 0, False, context)


@gathers.bind("gather_nd", since="iOS16", moves=True)
def gather_nd_batched(x: Tensor, indices: Tensor, context: Context, batch_dims: int = 0) -> Callable[..., Tensor]:
    return _gather_nd(x, indices, batch_dims, False, context)


@gathers.bind("gather_nd", since="iOS17", moves=True)
def gather_nd_validated(
    x: Tensor, indices: Tensor, context: Context, batch_dims: int = 0, validate_indices: bool = False
) -> Callable[..., Tensor]:
    return _gather_nd(x, indices, batch_dims, validate_indices, context)
