"""Products of matrices.

From iOS17 on the constant side may be of another type than the other; the product is computed in the wider type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from workbench.mil.errors import UnsupportedError
from workbench.mil.registry import Family, Tensor, Tensors

family = Family("linear")


def arithmetic(x: Tensor) -> torch.dtype:
    """The type that products are computed in: x's own; float32 for fp16 on a CPU, where torch's products of halves sum in float32 all
    the same and take five to twenty times as long. The result is rounded to the declared type either way, once."""
    return torch.float32 if x.dtype == torch.float16 and x.device.type == "cpu" else x.dtype


def _product(x: Tensor, y: Tensor) -> Tensor:
    dtype = torch.promote_types(arithmetic(x), arithmetic(y))
    x, y = x.to(dtype), y.to(dtype)
    return _integer_product(x, y) if x.is_cuda and not x.is_floating_point() else torch.matmul(x, y)


def _integer_product(x: Tensor, y: Tensor) -> Tensor:
    """For CUDA, which has no product of integer matrices: a sum in int64 that wraps as the type itself does."""
    rows = x if x.dim() > 1 else x[None]
    columns = y if y.dim() > 1 else y[:, None]
    result = (rows.unsqueeze(-1) * columns.unsqueeze(-3)).sum(-2, dtype=torch.int64).to(x.dtype)
    result = result.squeeze(-2) if x.dim() == 1 else result
    return result.squeeze(-1) if y.dim() == 1 else result


@family.op("linear")
@family.op("linear", since="iOS17")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """weight: [out, in]."""
    dtype = torch.promote_types(arithmetic(x), arithmetic(weight))
    if not dtype.is_floating_point:
        result = _product(x, weight.mT)
        return result if bias is None else result + bias
    if x.dtype == weight.dtype == torch.float16 and x.numel() == x.shape[-1]:
        dtype = torch.float16  # one row: reading the weights once is what takes time
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


@family.op("matmul")
@family.op("matmul", since="iOS17")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """As numpy's; a transpose does nothing to a vector."""
    x = x.mT if transpose_x and x.dim() > 1 else x
    y = y.mT if transpose_y and y.dim() > 1 else y
    return _product(x, y)


@family.bind("einsum")
def einsum(values: Tensors, equation: str) -> Callable[..., Tensor]:
    """[B, C, H, W1] with [B, W1, H, W2] to [B, C, H, W2], or the same without B, in any letters; B and H broadcast."""
    letters: dict[str, int] = {}
    sides = equation.split("->")
    pattern = [[letters.setdefault(letter, len(letters)) for letter in term] for term in (*sides[0].split(","), *sides[1:])]
    if pattern not in ([[0, 1, 2, 3], [0, 3, 2, 4], [0, 1, 2, 4]], [[0, 1, 2], [2, 1, 3], [0, 1, 3]]):
        raise UnsupportedError(f"einsum {equation!r}", why="MIL knows nchw,nwhu->nchu and chw,whr->chr, in any letters")
    return lambda values: _product(values[0].transpose(-3, -2), values[1].transpose(-3, -2)).transpose(-3, -2)
