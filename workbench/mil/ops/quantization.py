"""Affine quantization at run time: by one scale, or by one for each place of an axis."""

from __future__ import annotations

import torch

from workbench.mil.registry import Dtype, Family, Tensor

quantization = Family("quantization_ops")


def _along(parameter: Tensor, axis: int | None, rank: int) -> Tensor:
    """A vector placed along ``axis`` of a tensor of that rank; a scalar as it is."""
    if parameter.dim() == 0 or axis is None:
        return parameter
    return parameter.view(-1, *(1,) * (rank - 1 - axis % rank))


@quantization.op("quantize", since="iOS17")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: Dtype, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point), halves to even (optimize/_utils.py, quantize_by_scale_and_zp)."""
    levels = torch.round(input / _along(scale, axis, input.dim()))
    if zero_point is not None:
        levels = levels + _along(zero_point, axis, input.dim())
    limits = torch.iinfo(output_dtype)
    return levels.clamp(limits.min, limits.max).to(output_dtype)


@quantization.op("dequantize", since="iOS17")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale * (input - zero_point); the difference is exact in every float type."""
    values = input.to(scale.dtype)
    if zero_point is not None:
        values = values - _along(zero_point, axis, input.dim())
    return values * _along(scale, axis, input.dim())
