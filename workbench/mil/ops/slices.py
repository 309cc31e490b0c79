"""Parts of a tensor by position, and the order of its elements: slices, their update, reversal, windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from workbench.mil.registry import Bools, Family, Ints, Tensor

slices = Family("tensor_transformation")


@slices.bind("slice_by_index", moves=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints = (),
    begin_mask: Bools = (),
    end_mask: Bools = (),
    squeeze_mask: Bools = (),
) -> Callable[[Tensor], Tensor]:
    """``x[begin:end:stride]`` as Python reads it, out of range too. A mask drops its bound: with a negative stride the slice then
    starts at the last element, as in coremltools' value_inference (its docstring speaks of 0)."""
    index, flips = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if flips:
        return lambda x: x[index].flip(flips)
    if all(part == slice(0, size, 1) for part, size in zip(index, x.shape, strict=True)):
        return lambda x: x
    return lambda x: x[index]


@slices.bind("slice_update", since="iOS18", moves=True, loose=False)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints = (),
    begin_mask: Bools = (),
    end_mask: Bools = (),
    squeeze_mask: Bools = (),
) -> Callable[[Tensor, Tensor], Tensor]:
    """A copy of ``x`` in which the slice is ``update``."""
    index, flips = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    shape = torch.empty(x.shape, device="meta")[index].shape
    if update.shape != shape:
        raise ValueError(f"the slice has the shape {list(shape)}, the update {list(update.shape)}")

    def replace(x: Tensor, update: Tensor) -> Tensor:
        changed = x.clone()
        changed[index] = update.flip(flips) if flips else update
        return changed

    return replace


def _index(
    sizes: Sequence[int], begin: Ints, end: Ints, stride: Ints, begin_mask: Bools, end_mask: Bools, squeeze_mask: Bools
) -> tuple[tuple[Any, ...], list[int]]:
    """An index without negative strides, which torch lacks, and the dimensions of its result that are to be flipped."""
    rank = len(sizes)
    given = (begin, end, stride or (1,) * rank, *(mask or (False,) * rank for mask in (begin_mask, end_mask, squeeze_mask)))
    index: list[Any] = []
    flips = []
    kept = 0
    for size, first, last, step, no_first, no_last, squeezed in zip(sizes, *given, strict=True):
        if squeezed:
            # A masked begin is 0 here too (value_inference); the layer SliceStatic of NeuralNetwork.proto ignores the mask.
            place = 0 if no_first else first
            if not -size <= place < size:
                raise IndexError(f"there is no element {place} among {size}")
            index.append(place)
            continue
        places = range(size)[None if no_first else first : None if no_last else last : step]
        if step < 0:
            flips.append(kept)
            places = places[::-1]
        index.append(slice(places[0], places[-1] + 1, places.step) if places else slice(0, 0))
        kept += 1
    return tuple(index), flips


@slices.bind("slice_by_size", moves=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Callable[[Tensor], Tensor]:
    """A negative begin counts from the end; size -1 takes what remains."""
    index = []
    for whole, first, count in zip(x.shape, begin, size, strict=True):
        start = first + whole if first < 0 else first
        stop = whole if count == -1 else start + count
        if not 0 <= start <= stop <= whole:
            raise IndexError(f"{count} elements from {first} on do not lie within {whole}")
        index.append(slice(start, stop))
    where = tuple(index)
    return lambda x: x[where]


@slices.op("reverse", moves=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


@slices.bind("reverse_sequence", moves=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Callable[[Tensor, Tensor], Tensor]:
    """The first ``lengths[i]`` elements of batch i are reversed, the others stay."""
    along, batch = seq_axis % x.dim(), batch_axis % x.dim()
    if along == batch:
        raise ValueError(f"axis {along} cannot be both the sequence and the batch")
    places = torch.arange(x.shape[along], device=x.device)
    around = [size if axis in (along, batch) else 1 for axis, size in enumerate(x.shape)]

    def gathered(x: Tensor, lengths: Tensor) -> Tensor:
        ends = lengths.long()[:, None]
        index = torch.where(places < ends, ends - 1 - places, places)
        return x.gather(along, (index if batch < along else index.T).reshape(around).expand(x.shape))

    return gathered


@slices.op("sliding_windows", moves=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """A window's elements lie in the dimension after ``axis``. A view: windows share their elements."""
    return x.unfold(axis, size, stride).movedim(-1, axis % x.dim() + 1)
