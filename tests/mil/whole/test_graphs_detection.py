"""A one-stage detector whose graph ends in non-maximum suppression: as the torch front end writes it, and in MIL's own form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb
from torch import nn

from tests.mil.building import run
from tests.mil.whole.comparing import judge, outputs, ran

CLASSES, STRIDE, THRESHOLD = 5, 8, 0.45


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float, kinds: np.ndarray | None = None) -> list[int]:
    """Non-maximum suppression as it is defined: of boxes [n, 4] (left, top, right, bottom) take the one with the best score, drop
    those (of its kind, where kinds count) that overlap it by more than ``threshold``, and so on. Indices, best first."""
    boxes, left = boxes.astype(np.float64), list(np.argsort(-scores, kind="stable"))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    found = []
    while left:
        best, *left = left
        found.append(int(best))
        sizes = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        both = np.prod(np.maximum(sizes, 0), axis=1)
        overlap = both / (areas[best] + areas[left] - both)
        keep = overlap <= threshold
        if kinds is not None:
            keep |= kinds[left] != kinds[best]
        left = [index for index, stays in zip(left, keep, strict=True) if stays]
    return found


@pytest.fixture(scope="module")
def nms() -> Iterator[Any]:
    """``torchvision::nms``; the definition above under that name where torchvision is not installed."""
    try:
        import torchvision

        yield torchvision.ops.nms
    except ImportError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(
            "nms", lambda *args: torch.tensor(suppressed(args[0].double().numpy(), args[1].double().numpy(), args[2])), "CPU"
        )
        yield torch.ops.torchvision.nms
        library._destroy()


class Detector(nn.Module):
    """Boxes, scores and classes of an image, from one cell every eight pixels; ``nms`` suppresses."""

    def __init__(self, nms: Any = None) -> None:
        super().__init__()
        sizes = (3, 16, 24, 32)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(sizes, sizes[1:], strict=False))
        self.head = nn.Conv2d(32, 5 + CLASSES, 1)
        self.nms = nms

    def cells(self, image):
        """(boxes [cells, 4] as centre and size, scores [cells, classes])."""
        for layer in self.convolutions:
            image = F.silu(layer(image))
        found = self.head(image)
        height, width = found.shape[-2:]
        grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")[::-1]).to(image.dtype)
        rows = found.flatten(2)[0].t()
        centres = (torch.sigmoid(rows[:, :2]) * 2 - 0.5 + grid.flatten(1).t()) * STRIDE
        sizes = (torch.sigmoid(rows[:, 2:4]) * 2) ** 2 * 6 * STRIDE
        return torch.cat([centres, sizes], 1), torch.sigmoid(rows[:, 4:5]) * torch.sigmoid(rows[:, 5:])

    def forward(self, image):
        boxes, scores = self.cells(image)
        best, kinds = scores.max(1)
        best, places = torch.topk(best, 40)
        boxes, kinds = boxes[places], kinds[places]
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        keep = self.nms(corners, best, THRESHOLD)
        return corners[keep], best[keep], kinds[keep]


def detector(nms: Any = None) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(7)  # one with which fp16 does not change the order of two scores: judged are the numbers
    model = Detector(nms).eval()
    for layer in (*model.convolutions, model.head):
        nn.init.normal_(layer.weight, std=1.5 / layer.weight[0].numel() ** 0.5)
    return model, torch.randn(1, 3, 96, 80)


@pytest.mark.parametrize("since", ["iOS15", "iOS17"])
def test_from_torch(tmp_path: Path, nms: Any, since: str) -> None:
    model, image = detector(nms)
    (_, exact, kinds), (_, _, rounded) = outputs(model, [image], torch.float64), outputs(model, [image], torch.float16)
    kept = len(exact)
    np.testing.assert_array_equal(kinds, rounded)
    assert 5 < kept < 35, "some boxes must go and some stay"
    judge(model, [image], tmp_path, since=since)
    corners, scores, _ = ran(tmp_path / "fp32.mlpackage", [image])
    assert suppressed(corners, scores, THRESHOLD) == list(range(kept)), "none of what is left suppresses another"


@pytest.mark.parametrize("per_class", [False, True], ids=["all", "per-class"])
@pytest.mark.parametrize("since", ["iOS15", "iOS17"])
def test_as_mil_writes_it(tmp_path: Path, since: str, per_class: bool) -> None:
    """The detector in MIL ops and constants, its cells suppressed as they are; the rest of ``max_boxes`` is empty."""
    model, image = detector()
    layers = [*model.convolutions, model.head]
    values = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]
    height, width, most = 12, 10, 60
    rows, columns = np.mgrid[:height, :width].astype(np.float32).reshape(2, 1, -1)
    columned = since == "iOS17"

    def build(image: Any) -> Any:
        for weight, bias in values[:-1]:
            image = mb.silu(x=mb.conv(x=image, weight=weight, bias=bias, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]))
        found = mb.reshape(x=mb.conv(x=image, weight=values[-1][0], bias=values[-1][1]), shape=[1, 5 + CLASSES, -1])
        centre, size, sure, kinds = mb.split(x=mb.sigmoid(x=found), split_sizes=[2, 2, 1, CLASSES], axis=1)
        grid = np.concatenate([columns, rows])[None]
        centre = mb.mul(x=mb.add(x=mb.sub(x=mb.mul(x=centre, y=2.0), y=0.5), y=grid), y=float(STRIDE))
        size = mb.mul(x=mb.square(x=mb.mul(x=size, y=2.0)), y=6.0 * STRIDE)
        boxes, scores = mb.concat(values=[centre, size], axis=1), mb.mul(x=sure, y=kinds)
        options = {"iou_threshold": THRESHOLD, "max_boxes": most, "per_class_suppression": per_class}
        if not columned:
            boxes, scores = (mb.transpose(x=each, perm=[0, 2, 1]) for each in (boxes, scores))
            options["score_threshold"] = 0.1
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, **options)

    boxes, scores, places, *counts = run(build, {"image": image.numpy()}, tmp_path, since=since)
    if columned:
        boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)
    with torch.inference_mode():
        all_boxes, all_scores = (each.numpy() for each in model.cells(image))
    best, kinds = all_scores.max(1), all_scores.argmax(1)
    reach = np.arange(len(best)) if columned else np.flatnonzero(best >= 0.1)
    half = all_boxes[:, 2:] / 2
    corners = np.concatenate([all_boxes[:, :2] - half, all_boxes[:, :2] + half], 1)
    wanted = reach[suppressed(corners[reach], best[reach], THRESHOLD, kinds[reach] if per_class else None)][:most]
    count = len(wanted)
    assert 5 < count < len(best) - 5
    assert counts == ([] if columned else [count])
    np.testing.assert_array_equal(places[0, :count], wanted)
    np.testing.assert_allclose(boxes[0, :count], all_boxes[wanted], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[0, :count], all_scores[wanted], rtol=1e-5, atol=1e-6)
    assert not boxes[0, count:].any() and not scores[0, count:].any() and (places[0, count:] == -1).all()
