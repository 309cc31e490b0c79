"""Compressed weights: quantised, palettised, pruned, and these joined. Their inputs are constants, so each is computed once.

A weight is computed in its declared type in every reading, whatever carries it: its values are those of coremltools' decompression.
"""

from __future__ import annotations

import math

import torch

from workbench.mil.blob import unpack
from workbench.mil.registry import Context, Dtype, Family, Ints, Tensor
from workbench.mil.types import torch_dtype

packed = Family("constexpr_ops")
compressed = Family("compression")


@packed.op("constexpr_affine_dequantize", since="iOS16")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int, context: Context) -> Tensor:
    """``scale * (quantized_data - zero_point)``, each one number or one per index of ``axis``; in fp32 whatever is declared, rounded
    once (coremltools optimize/_utils.py, dequantize_by_scale_and_zp)."""
    shape = [1] * quantized_data.dim()
    shape[axis] = -1
    values = quantized_data.to(torch.float32, copy=True)
    values.sub_(_along(zero_point.to(torch.float32), shape)).mul_(_along(scale.to(torch.float32), shape))
    return values.to(_declared(context))


@packed.op("constexpr_cast", since="iOS16")
@compressed.op("constexpr_cast", since="iOS18")
def constexpr_cast(source_val: Tensor, output_dtype: Dtype) -> Tensor:
    """fp16 stored, fp32 meant."""
    return source_val.to(output_dtype)


@packed.op("constexpr_lut_to_dense", since="iOS16", moves=True)
def packed_lut_to_dense(indices: Tensor, lut: Tensor, shape: Ints) -> Tensor:
    """One table; the indices are packed into bytes, from the least significant bit on."""
    bits = lut.numel().bit_length() - 1
    places = _unpacked(indices, bits, math.prod(shape))
    _within(places, lut.numel())
    return torch.index_select(lut, 0, places.to(torch.int32)).reshape(shape)


@packed.op("constexpr_sparse_to_dense", since="iOS16", moves=True)
def packed_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints) -> Tensor:
    """One bit of the mask a value, from the least significant bit on."""
    return sparse_to_dense(nonzero_data, _unpacked(mask, 1, math.prod(shape)).reshape(shape))


@compressed.op("constexpr_blockwise_shift_scale", since="iOS18")
def blockwise_shift_scale(data: Tensor, scale: Tensor, context: Context, offset: Tensor | None = None) -> Tensor:
    """``scale * (data - offset)``, one scale and offset a block; both steps in the declared type, each rounded to it. The size of a block
    is the quotient of the shapes."""
    dtype = _declared(context, -1)
    values = data.to(dtype, copy=True)
    blocks = values.view([size for d, s in zip(data.shape, scale.shape, strict=True) for size in (s, d // s)])
    each = [size for s in scale.shape for size in (s, 1)]
    if offset is not None:
        blocks.sub_(offset.to(dtype).reshape(each))
    blocks.mul_(scale.to(dtype).reshape(each))
    return values


@compressed.op("constexpr_lut_to_dense", since="iOS18", moves=True)
def lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: int | None = None) -> Tensor:
    """A table a block of ``indices``, [tables along each axis, entries, vector]; a vector's values follow one another along
    ``vector_axis``."""
    *tables, entries, vector = lut.shape
    _within(indices, entries)
    places = indices.to(torch.int32, copy=True)
    if math.prod(tables) > 1:
        first = torch.arange(math.prod(tables), dtype=torch.int32, device=places.device) * entries
        blocks = places.view([size for d, t in zip(indices.shape, tables, strict=True) for size in (t, d // t)])
        blocks.add_(first.reshape([size for t in tables for size in (t, 1)]))
    values = torch.index_select(lut.reshape(-1, vector), 0, places.view(-1))
    if vector == 1 or vector_axis is None:
        return values.reshape(indices.shape)
    axis = vector_axis % indices.dim()
    shape = [size * vector if number == axis else size for number, size in enumerate(indices.shape)]
    return values.reshape(*indices.shape, vector).movedim(-1, axis + 1).reshape(shape)


@compressed.op("constexpr_sparse_to_dense", since="iOS18", moves=True)
def sparse_to_dense(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """The values in row-major order where the mask is 1, else 0."""
    where = mask != 0
    found = torch.count_nonzero(where).item()
    if found != nonzero_data.numel():
        raise ValueError(f"the mask has {found:,} ones, there are {nonzero_data.numel():,} values")
    return torch.zeros(mask.shape, dtype=nonzero_data.dtype, device=mask.device).masked_scatter_(where, nonzero_data)


@compressed.op("constexpr_lut_to_sparse", since="iOS18", moves=True)
def lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """(the mask, grown along ``vector_axis`` by the length of the vectors; the values that remain)."""
    if lut.numel() == lut.shape[-2]:  # one table of single values: no matter where they lie
        return indices_mask, lut_to_dense(indices_nonzero_data, lut.reshape(1, -1, 1))
    dense = lut_to_dense(sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    vector = lut.shape[-1]
    mask = indices_mask if vector == 1 else indices_mask.repeat_interleave(vector, vector_axis)
    return mask, torch.masked_select(dense, mask != 0)


@compressed.op("constexpr_sparse_blockwise_shift_scale", since="iOS18")
def sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, context: Context, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(the mask as it is; the values that remain, each scaled by the block that it lies in)."""
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, context, offset)
    return data_mask, torch.masked_select(dense, data_mask != 0)


def _declared(context: Context, output: int = 0) -> torch.dtype:
    """The type of an output as the program declares it, not as the reading carries it."""
    return torch_dtype(context.output_types[output].dtype)


def _within(indices: Tensor, entries: int) -> None:
    largest = int(indices.max()) if indices.numel() else 0
    if largest >= entries:
        raise ValueError(f"an index is {largest}, a table has {entries} entries")


def _along(value: Tensor, shape: list[int]) -> Tensor:
    return value.reshape(shape) if value.numel() > 1 else value.reshape(())


def _unpacked(stored: Tensor, bits: int, count: int) -> Tensor:
    if stored.numel() * 8 - count * bits not in range(8):
        raise ValueError(f"{count:,} values of {bits} bits are declared, {stored.numel():,} bytes are stored")
    return torch.from_numpy(unpack(stored.cpu().numpy(), f"uint{bits}", count)).to(stored.device)
