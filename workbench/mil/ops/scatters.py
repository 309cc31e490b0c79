"""Scatters: updates written into, or combined with, a tensor at positions that another tensor holds.

Where several updates meet at one position each is applied in turn; for ``update`` the order is not defined. What an index out of range
does is told in workbench.mil.ops.gathers.

A saved op without a mode adds: ``default_inputs`` of coremltools says so, although the text of iOS15 scatter says ``update``.
"""

from __future__ import annotations

import math

import torch

from workbench.mil.errors import UnsupportedError
from workbench.mil.ops.gathers import rows_at, within
from workbench.mil.registry import Context, Family, Tensor

scatters = Family("scatter_gather")

_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _combined(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    """``updates`` combined into ``data`` along ``axis`` at ``indices``, which have the shape of ``updates``."""
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, indices, updates if mode == "add" else -updates)
    if mode in _REDUCTIONS:
        return data.scatter_reduce(axis, indices, updates, _REDUCTIONS[mode])
    if mode == "div":  # one division by the product, in double precision: as exact as one division after another
        divisors = torch.ones_like(data, dtype=torch.float64).scatter_reduce(axis, indices, updates.double(), "prod")
        quotients = data.double() / divisors
        return (quotients if data.is_floating_point() else quotients.trunc()).to(data.dtype)
    raise UnsupportedError(f"scatter mode {mode!r} is not known", fix="add, div, max, min, mul, sub, update")


def _slices_combined(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    """The same where ``indices`` has one dimension and each index takes a whole slice of ``updates``."""
    if mode == "update":
        return data.index_copy(axis, indices.long(), updates)
    if mode in ("add", "sub"):
        return data.index_add(axis, indices, updates, alpha=1 if mode == "add" else -1)
    shape = [1] * data.dim()
    shape[axis] = -1
    return _combined(data, axis, indices.long().view(shape).expand_as(updates), updates, mode)


def _scatter(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, strict: bool, context: Context) -> Tensor:
    axis = axis + data.dim() if axis < 0 else axis
    if indices.dim() != 1:
        updates = updates.reshape(*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :])
        indices = indices.reshape(-1)
    return _slices_combined(data, axis, within(indices, data.shape[axis], strict, context), updates, mode)


def _scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, strict: bool, context: Context
) -> Tensor:
    return _combined(data, axis, within(indices, data.shape[axis], strict, context).long(), updates, mode)


def _scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str, strict: bool, context: Context) -> Tensor:
    depth = indices.shape[-1]
    count, width = math.prod(data.shape[:depth]), math.prod(data.shape[depth:])
    rows = rows_at(indices, data.shape[:depth], indices.new_zeros((), dtype=torch.int64), strict, context)
    return _slices_combined(data.reshape(count, width), 0, rows, updates.reshape(rows.numel(), width), mode).view(data.shape)


@scatters.op("scatter")
def scatter(data: Tensor, indices: Tensor, updates: Tensor, context: Context, axis: int = 0, mode: str = "add") -> Tensor:
    return _scatter(data, indices, updates, axis, mode, False, context)


@scatters.op("scatter", since="iOS17")
def scatter_validated(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    context: Context,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    return _scatter(data, indices, updates, axis, mode, validate_indices, context)


@scatters.op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, context: Context, axis: int = 0, mode: str = "add"
) -> Tensor:
    """coremltools' ``value_inference`` always writes the updates, whatever the mode; the text says what each mode does."""
    return _scatter_along_axis(data, indices, updates, axis, mode, False, context)


@scatters.op("scatter_along_axis", since="iOS17")
def scatter_along_axis_validated(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    context: Context,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    return _scatter_along_axis(data, indices, updates, axis, mode, validate_indices, context)


@scatters.op("scatter_nd")
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, context: Context, mode: str = "add") -> Tensor:
    return _scatter_nd(data, indices, updates, mode, False, context)


@scatters.op("scatter_nd", since="iOS17")
def scatter_nd_validated(
    data: Tensor, indices: Tensor, updates: Tensor, context: Context, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    return _scatter_nd(data, indices, updates, mode, validate_indices, context)
