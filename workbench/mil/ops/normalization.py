"""Normalization: by given or by measured mean and variance, by length, and across neighbouring channels.

From iOS17 on the parameters may be of another float type than the input; what is mixed is computed in the wider type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from workbench.mil.registry import Family, Ints, Tensor

normalization = Family("normalization")

_HALVES = (torch.float16, torch.bfloat16)


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32: squares and their sums leave its range soon."""
    return x.float() if x.dtype in _HALVES else x


def _alike(x: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """All in the widest type among them."""
    if all(other is None or other.dtype == x.dtype for other in others):
        return (x, *others)
    dtype = x.dtype
    for other in others:
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    return (x.to(dtype), *(None if other is None else other.to(dtype) for other in others))


@normalization.op("batch_norm")
@normalization.op("batch_norm", since="iOS17")
def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    x, mean, variance, gamma, beta = _alike(x, mean, variance, gamma, beta)
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@normalization.op("instance_norm")
@normalization.op("instance_norm", since="iOS17")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each sample by itself: as many groups as channels."""
    x, gamma, beta = _alike(x, gamma, beta)
    return torch.group_norm(x, x.shape[1], gamma, beta, epsilon)


@normalization.op("l2_norm")
@normalization.op("l2_norm", since="iOS17")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three dimensions together."""
    x = _wide(x)
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


@normalization.bind("layer_norm")
@normalization.bind("layer_norm", since="iOS17")
def layer_norm(
    x: Tensor, axes: Ints | None = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Callable[..., Tensor]:
    """gamma and beta hold the axes in the order they have in x, whatever the order they are named in."""
    rank = x.dim()
    over = sorted({axis % rank for axis in axes}) if axes is not None else list(range(rank))
    kept = [axis for axis in range(rank) if axis not in over]
    shape = tuple(x.shape[axis] for axis in over)
    mixed = any(other is not None and other.dtype != x.dtype for other in (gamma, beta))
    scaled = gamma is not None

    def last(x: Tensor, *others: Tensor) -> Tensor:
        if mixed:
            x, *others = _alike(x, *others)
        weight = others[0] if scaled else None
        return F.layer_norm(x, shape, weight, others[-1] if len(others) > scaled else None, epsilon)

    if over == list(range(len(kept), rank)):
        return last
    there = [*kept, *over]
    back = [there.index(axis) for axis in range(rank)]
    return lambda x, *others: last(x.permute(there), *others).permute(back)


@normalization.op("local_response_norm")
@normalization.op("local_response_norm", since="iOS17")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Channels c - size // 2 to c + (size - 1) // 2; those that are not there count as 0, the divisor stays ``size``.
    Where an even size reaches: Metal Performance Shaders, MPSCNNCrossChannelNormalization (torch does the same)."""
    return F.local_response_norm(_wide(x), size, alpha, beta, k)
