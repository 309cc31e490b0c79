"""A tensor reduced to the few numbers that tell whether fp16 can hold it; the tensor itself is not kept.

measure(torch.tensor([1.0, -7e4]))      # Measured(count=2, nan=0, infinite=0, low=-70000.0, high=1.0, ...)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from workbench.mil.numerics import INFINITE_FROM, VANISHES_TO


@dataclass(frozen=True)
class Measured:
    """``low`` and ``high``: of the finite values. ``beyond``: finite values that fp16 makes infinite. ``nonzero`` and ``lost``: finite
    values that are not 0, and those of them that fp16 makes 0. ``zeros``: values that are 0."""

    count: int = 0
    nan: int = 0
    infinite: int = 0
    low: float = math.inf
    high: float = -math.inf
    beyond: int = 0
    nonzero: int = 0
    lost: int = 0

    @property
    def largest(self) -> float:
        """The largest finite magnitude; 0 when there is none."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def zeros(self) -> int:
        return self.count - self.nan - self.infinite - self.nonzero

    def __or__(self, other: Measured) -> Measured:
        return Measured(
            self.count + other.count,
            self.nan + other.nan,
            self.infinite + other.infinite,
            min(self.low, other.low),
            max(self.high, other.high),
            self.beyond + other.beyond,
            self.nonzero + other.nonzero,
            self.lost + other.lost,
        )


def measure(value: Any) -> Measured | None:
    """Of a tensor, or of all tensors of a list; None for what holds no numbers."""
    if isinstance(value, list | tuple):
        parts = [part for part in map(measure, value) if part is not None]
        whole = Measured()
        for part in parts:
            whole |= part
        return whole if parts else None
    if not isinstance(value, torch.Tensor) or value.dtype == torch.bool or value.is_complex():
        return None
    value = value.detach()
    if value.numel() == 0:
        return Measured()
    if value.is_floating_point() and value.dtype.itemsize == 1:
        value = value.float()
    if not value.is_floating_point():
        low, high = (float(item) for item in torch.aminmax(value))
        return Measured(value.numel(), low=low, high=high, nonzero=int(torch.count_nonzero(value)))
    return _floats(value)


def _floats(value: torch.Tensor) -> Measured:
    count = value.numel()
    low, high = (float(item) for item in torch.aminmax(value))
    nan = infinite = 0
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = torch.isfinite(value)
        nan = int(torch.isnan(value).sum())
        value = value[finite]
        infinite = count - nan - value.numel()
        if value.numel() == 0:
            return Measured(count, nan, infinite)
        low, high = (float(item) for item in torch.aminmax(value))
    nonzero = int(torch.count_nonzero(value))
    if value.dtype == torch.float16:
        return Measured(count, nan, infinite, low, high, 0, nonzero, 0)
    size = value.abs()
    beyond = int((size >= INFINITE_FROM).sum()) if max(-low, high) >= INFINITE_FROM else 0
    lost = int((size <= VANISHES_TO).sum()) - (value.numel() - nonzero)
    return Measured(count, nan, infinite, low, high, beyond, nonzero, lost)
