"""Reductions over some axes, or over all when none are given. Integers stay integers: means, norms and logarithms are truncated."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.mil.ops.unary import to_integers
from workbench.mil.registry import Family, Ints, Tensor

reduction = Family("reduction")
Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _over_axes(name: str, moves: bool = False) -> Callable[[Reduce], Reduce]:
    """Declare a reduction from a function of a tensor, its axes (never none) and whether they are kept with length 1."""

    def register(function: Reduce) -> Reduce:
        @reduction.bind(name, moves=moves)
        def handler(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Callable[[Tensor], Tensor]:
            over = tuple(range(x.ndim)) if axes is None else axes
            if over:
                return lambda x: function(x, over, keep_dims)
            # An empty list of axes reduces nothing, as in numpy and type_inference; torch would reduce all.
            return lambda x: function(x[..., None], (-1,), False)

        return function

    return register


def _truncated(function: Reduce) -> Reduce:
    """A function of floats; for integers computed in float64 and truncated, as value_inference does."""

    def reduce(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if x.is_floating_point():
            return function(x, axes, keep)
        return to_integers(function(x.to(torch.float64), axes, keep), "int32")

    return reduce


@_over_axes("reduce_l1_norm")
def reduce_l1_norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x.abs(), axes, keep)


@_over_axes("reduce_l2_norm")
@_truncated
def reduce_l2_norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.linalg.vector_norm(x, 2, axes, keep)


@_over_axes("reduce_log_sum")
@_truncated
def reduce_log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep).log_()


@_over_axes("reduce_log_sum_exp")
@_truncated
def reduce_log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


@_over_axes("reduce_max", moves=True)
def reduce_max(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.amax(x, axes, keep)


@_over_axes("reduce_mean")
@_truncated
def reduce_mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.mean(x, axes, keep)


@_over_axes("reduce_min", moves=True)
def reduce_min(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.amin(x, axes, keep)


@_over_axes("reduce_prod")
def reduce_prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """torch takes one axis at a time, so several are gathered into one."""
    if len(axes) == 1:
        return torch.prod(x, axes[0], keep)
    reduced = sorted(axis % x.ndim for axis in axes)
    kept = [axis for axis in range(x.ndim) if axis not in reduced]
    result = x.permute(*kept, *reduced).flatten(len(kept)).prod(-1)
    return result.view([1 if axis in reduced else size for axis, size in enumerate(x.shape)]) if keep else result


@_over_axes("reduce_sum")
def reduce_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep)


@_over_axes("reduce_sum_square")
def reduce_sum_square(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x.square(), axes, keep)


@reduction.op("reduce_argmax")
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
    """The first of equals, as numpy; the op's definition leaves it open."""
    return torch.argmax(x, axis, keep_dims)


@reduction.op("reduce_argmin")
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
    return torch.argmin(x, axis, keep_dims)


@reduction.op("reduce_argmax", since="iOS17")
def reduce_argmax_typed(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """``output_dtype`` int32 or uint16: the declared type, to which results are brought."""
    return torch.argmax(x, axis, keep_dims)


@reduction.op("reduce_argmin", since="iOS17")
def reduce_argmin_typed(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return torch.argmin(x, axis, keep_dims)
