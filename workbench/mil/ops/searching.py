"""Order and position: sorting, the largest, what is not zero, one-hot, bands, running sums, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from workbench.mil.registry import Context, Family, Tensor, Tensors
from workbench.mil.types import torch_dtype

searching = Family("tensor_operation")

BLOCK = 256
"""Boxes that non-maximum suppression compares with one another at once."""


@searching.op("argsort", moves=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Equal elements stay in their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


def _ordered(x: Tensor, k: int, axis: int, ascending: bool) -> Tensors:
    """The first ``k`` in order, with their places. Equal elements stay in their order, which torch.topk does not promise: it is
    taken where there are none (it is a hundred times as fast as a sort of a vocabulary)."""
    size = x.shape[axis]
    if k == 1:
        found = (torch.min if ascending else torch.max)(x, axis, keepdim=True)
        return found.values, found.indices
    if 1 < k < size:
        # One more, since the element after the last one may equal it.
        values, places = torch.topk(x, k + 1, axis, largest=not ascending)
        if not (values.narrow(axis, 0, k) == values.narrow(axis, 1, k)).any():
            return values.narrow(axis, 0, k), places.narrow(axis, 0, k)
    values, places = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


@searching.op("topk", moves=True)
def topk(x: Tensor, k: int = 1, axis: int = -1, ascending: bool = False) -> Tensors:
    return _ordered(x, k, axis, ascending)


@searching.op("topk", since="iOS16", moves=True)
def topk_values(
    x: Tensor, k: int = 1, axis: int = -1, ascending: bool = False, sort: bool = True, return_indices: bool = True
) -> Tensors:
    """Without ``sort`` any order will do."""
    found = _ordered(x, k, axis, ascending)
    return found if return_indices else found[:1]


@searching.op("topk", since="iOS17", moves=True)
def topk_typed(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensors:
    """``k`` -1: all. The type of the indices is the declared one."""
    return topk_values(x, x.shape[axis] if k == -1 else k, axis, ascending, sort, return_indices)


@searching.op("non_zero", moves=True, loose=True)
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@searching.bind("one_hot", moves=True)
def one_hot(
    indices: Tensor, one_hot_vector_size: int, context: Context, axis: int = -1, on_value: float = 1.0, off_value: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """An index out of range, a negative one too, gives ``off_value`` only: OneHotLayerParams in coremltools
    mlmodel/format/NeuralNetwork.proto."""
    place = axis % (indices.dim() + 1)
    shape = (*indices.shape[:place], one_hot_vector_size, *indices.shape[place:])
    dtype = torch_dtype(context.output_types[0].dtype, context.half)
    context.allow(shape, dtype)
    on, off = (torch.tensor(value, dtype=dtype, device=indices.device) for value in (on_value, off_value))
    numbers = torch.arange(one_hot_vector_size, device=indices.device).reshape(-1, *(1,) * (indices.dim() - place))
    return lambda indices: torch.where(indices.unsqueeze(place) == numbers, on, off)


@searching.op("band_part", moves=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero outside the band, whatever stood there."""
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


@searching.op("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """``exclusive``: each element is the sum of those before it. ``reverse``: from the end. Both: the sum of those after it
    (CumSumLayerParams in coremltools mlmodel/format/NeuralNetwork.proto; value_inference is wrong for exclusive)."""
    x = x.flip(axis) if reverse else x
    if exclusive:
        nothing = x.new_zeros([1 if place == axis % x.dim() else size for place, size in enumerate(x.shape)])
        x = torch.cat((nothing, x), axis).narrow(axis, 0, x.shape[axis])
    total = torch.cumsum(x, axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total


@searching.op("non_maximum_suppression", moves=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    context: Context,
    per_class_suppression: bool = False,
) -> Tensors:
    """Boxes [n, B, 4] as (x, y, width, height) of their centre, scores [n, B, K]. A box counts with its best class. What is left of
    ``max_boxes`` is 0, its indices -1. Where no score reaches the threshold the best box is given, and counts.

    NonMaximumSuppressionLayerParams in coremltools mlmodel/format/NeuralNetwork.proto, and the tests of the MIL op against Core ML
    (converters/mil/mil/ops/tests/iOS14/test_tensor_operation.py: TestNonMaximumSuppression).
    """
    context.allow((len(boxes), max_boxes, 4 + scores.shape[-1]), boxes.dtype)
    kept_boxes = boxes.new_zeros((len(boxes), max_boxes, 4))
    kept_scores = scores.new_zeros((len(boxes), max_boxes, scores.shape[-1]))
    places = torch.full((len(boxes), max_boxes), -1, dtype=torch.int64, device=boxes.device)
    counts = []
    for number in range(len(boxes)):
        found = _survivors(boxes[number], scores[number], iou_threshold, score_threshold, max_boxes, per_class_suppression)
        kept_boxes[number, : len(found)] = boxes[number, found]
        kept_scores[number, : len(found)] = scores[number, found]
        places[number, : len(found)] = found
        counts.append(len(found))
    return kept_boxes, kept_scores, places, torch.tensor(counts, device=boxes.device)


@searching.op("non_maximum_suppression", since="iOS17", moves=True)
def non_maximum_suppression_columns(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_boxes: int, context: Context, per_class_suppression: bool = False
) -> Tensors:
    """Boxes [n, 4, B], scores [n, K, B]; every score counts."""
    rows = (boxes.transpose(1, 2), scores.transpose(1, 2))
    found = non_maximum_suppression(*rows, iou_threshold, float("-inf"), max_boxes, context, per_class_suppression)
    return found[0].transpose(1, 2), found[1].transpose(1, 2), found[2]


def _survivors(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, most: int, per_class: bool) -> Tensor:
    """Indices of the boxes [B, 4] that stay, best first."""
    best, kinds = scores.max(-1)
    order = torch.argsort(best, descending=True, stable=True)
    reach = order[best[order] >= score_threshold]
    if not len(reach):
        return order[:1][:most]
    # At least fp32: the area of a box in pixels does not fit fp16.
    exact = torch.promote_types(boxes.dtype, torch.float32)
    x, y, width, height = boxes[reach].to(exact).unbind(-1)
    edges = torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2, width * height, kinds[reach].to(exact)), -1)
    kept = edges[:0]
    found = []
    for start in range(0, len(reach), BLOCK):
        block, places = edges[start : start + BLOCK], reach[start : start + BLOCK]
        left = ~_overlap(block, kept, iou_threshold, per_class).any(1)
        block, places = block[left], places[left]
        hits = _overlap(block, block, iou_threshold, per_class).triu(1).cpu().numpy()
        alive = np.ones(len(hits), bool)
        for row, hit in enumerate(hits):
            if alive[row]:
                alive &= ~hit
        stay = torch.from_numpy(alive).to(boxes.device)
        kept = torch.cat((kept, block[stay]))
        found.append(places[stay])
        if len(kept) >= most:
            break
    return torch.cat(found)[:most]


def _overlap(one: Tensor, other: Tensor, iou_threshold: float, per_class: bool) -> Tensor:
    """[len(one), len(other)]: whether their intersection over union exceeds the threshold. Rows: left, top, right, bottom, area,
    class. Boxes without area overlap nothing."""
    left, top, right, bottom, area, kind = one.T[:, :, None]
    lefts, tops, rights, bottoms, areas, kinds = other.T.contiguous()
    both = (torch.minimum(right, rights) - torch.maximum(left, lefts)).clamp_(min=0)
    both *= (torch.minimum(bottom, bottoms) - torch.maximum(top, tops)).clamp_(min=0)
    hits = both / (area + areas - both) > iou_threshold
    return hits & (kind == kinds) if per_class else hits
