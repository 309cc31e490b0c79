"""Convolutions in one, two and three dimensions, and the padding arithmetic that pooling shares.

Everything that depends on shapes alone (how much to pad, which torch call does it) is settled when a handler binds. Symmetric
padding goes into torch's own call; asymmetric padding copies the input once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from workbench.mil.errors import UnsupportedError
from workbench.mil.ops.linear import arithmetic
from workbench.mil.registry import Family, Ints, Tensor

conv = Family("conv")

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def paddings(pad_type: str, sizes: Ints, extents: Ints, strides: Ints, pad: Ints) -> tuple[tuple[int, int], ...]:
    """(before, after) of each spatial dimension. ``extents``: what one window covers, dilation included.

    ``same`` puts the odd element behind, ``same_lower`` in front: message SamePadding of NeuralNetwork.proto, whose arithmetic the
    conv docstring's closing formulas (which know no stride) do not replace; ops/defs/_utils.py, aggregated_pad, has the same total.
    """
    if pad_type == "valid":
        return ((0, 0),) * len(sizes)
    if pad_type == "custom":
        pad = pad or (0, 0) * len(sizes)
        return tuple(zip(pad[::2], pad[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise UnsupportedError(f"pad_type {pad_type!r} is not known", why="known: valid, same, same_lower, custom")
    totals = [
        max(0, (-(-size // stride) - 1) * stride + extent - size)
        for size, extent, stride in zip(sizes, extents, strides, strict=True)
    ]
    if pad_type == "same":
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((total - total // 2, total // 2) for total in totals)


def torch_pad(sides: tuple[tuple[int, int], ...]) -> list[int]:
    """The same amounts in the order of F.pad: last dimension first."""
    return [amount for side in reversed(sides) for amount in side]


def symmetric(sides: tuple[tuple[int, int], ...]) -> bool:
    return all(before == after >= 0 for before, after in sides)


@conv.bind("conv")
@conv.bind("conv", since="iOS17")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints = (),
    pad_type: str = "valid",
    pad: Ints = (),
    dilations: Ints = (),
    groups: int = 1,
) -> Callable[..., Tensor]:
    """From iOS17 on, weight and bias may be of another float type than x and may both come from the run."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    extents = tuple((size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True))
    sides = paddings(pad_type, x.shape[2:], extents, strides, pad)
    direct = symmetric(sides)
    call = partial(
        _CONV[rank],
        stride=strides,
        padding=tuple(before for before, _ in sides) if direct else 0,
        dilation=dilations,
        groups=groups,
    )
    before = None if direct else partial(F.pad, pad=torch_pad(sides))
    dtype = arithmetic(x)
    if before is None and all(item is None or item.dtype == dtype for item in (x, weight, bias)):
        return call

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x if before is None else before(x)
        return call(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    return run


@conv.bind("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    bias: Tensor | None = None,
    nbits: int = 8,
    strides: Ints = (),
    pad_type: str = "valid",
    pad: Ints = (),
    dilations: Ints = (),
    groups: int = 1,
) -> Callable[..., Tensor]:
    """weight * quant_scale + quant_bias, both of one number or one per output channel; bias is added as it stands, for only the
    weights are scaled (backend/nn/op_mapping.py, conv_helper)."""
    if quantization_type.lower() != "linear":
        raise UnsupportedError(
            f"conv_quantized with quantization_type {quantization_type!r}", why="the op has no input for a table"
        )
    column = (-1,) + (1,) * (weight.dim() - 1)
    dtype = arithmetic(x)
    given = None if bias is None else bias.to(dtype)
    call = convolution(x.to(dtype), weight.to(dtype), given, strides, pad_type, pad, dilations, groups)

    def run(x: Tensor, weight: Tensor, quant_scale: Tensor, quant_bias: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight.to(dtype) * quant_scale.to(dtype).view(column) + quant_bias.to(dtype).view(column)
        return call(x.to(dtype), weight, *(() if bias is None else (bias.to(dtype),)))

    return run


@conv.bind("conv_transpose")
@conv.bind("conv_transpose", since="iOS17")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints = (),
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints = (),
    dilations: Ints = (),
    groups: int = 1,
) -> Callable[..., Tensor]:
    """weight: [C_in, C_out / groups, *kernel].

    The full result has (size - 1) * stride + extent elements; the op gives a stretch of it. Where that ends beyond the full result
    (a stride larger than the kernel, or an ``output_shape`` that asks for it), there is only the bias. ``same`` is the gradient of
    the ``same`` convolution that gives x, so its start follows from the output's size (TensorFlow's Conv2DBackpropInput, which the
    front end hands over with its ``output_shape``).
    """
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    extents = tuple((size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True))
    full = [(size - 1) * stride + extent for size, stride, extent in zip(x.shape[2:], strides, extents, strict=True)]
    wanted = None if output_shape is None else tuple(output_shape[2:])
    if pad_type in ("same", "same_lower"):
        wanted = wanted or tuple(size * stride for size, stride in zip(x.shape[2:], strides, strict=True))
        totals = [max(0, length - size) for length, size in zip(full, wanted, strict=True)]
        starts = [total // 2 if pad_type == "same" else total - total // 2 for total in totals]
    else:
        sides = paddings(pad_type, x.shape[2:], extents, strides, pad)
        starts = [before for before, _ in sides]
        wanted = wanted or tuple(length - sum(side) for length, side in zip(full, sides, strict=True))
    # What is cut (or, where negative, appended) in front of and behind the full result.
    cuts = [(start, length - start - size) for start, length, size in zip(starts, full, wanted, strict=True)]
    return _transposed(rank, strides, dilations, groups, cuts, arithmetic(x))


def _transposed(
    rank: int, strides: Ints, dilations: Ints, groups: int, cuts: list[tuple[int, int]], dtype: torch.dtype
) -> Callable[..., Tensor]:
    """The torch call that does all the cutting; else one that cuts what it can, and the rest done by hand."""
    limits = [max(stride, step) for stride, step in zip(strides, dilations, strict=True)]
    common = [max(0, min(cut)) for cut in cuts]
    call = partial(_TRANSPOSED[rank], stride=strides, dilation=dilations, groups=groups)
    if all(0 <= front - back < limit and front >= 0 for (front, back), limit in zip(cuts, limits, strict=True)):
        padding, extra = tuple(front for front, _ in cuts), tuple(front - back for front, back in cuts)

        def direct(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return call(
                x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), padding=padding, output_padding=extra
            )

        return direct
    rest = tuple((common_ - front, common_ - back) for (front, back), common_ in zip(cuts, common, strict=True))
    grows = any(amount > 0 for side in rest for amount in side)
    column = (-1,) + (1,) * rank

    def by_hand(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.to(dtype)
        result = call(x.to(dtype), weight.to(dtype), None if grows else bias, padding=tuple(common))
        if grows:
            result = F.pad(result, torch_pad(rest))
            return result if bias is None else result + bias.view(column)
        for axis, (front, back) in enumerate(rest, 2):
            result = result.narrow(axis, -front, result.shape[axis] + front + back)
        return result

    return by_hand
