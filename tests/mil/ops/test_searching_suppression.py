"""Golden cases: non-maximum suppression, against a plain implementation of its definition, one box at a time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run, save
from tests.mil.cases import Case, check
from workbench.mil import load

RANDOM = np.random.default_rng(6)


def overlap(one, other):
    """Intersection over union of two boxes (centre x, centre y, width, height)."""
    sides = []
    for axis in (0, 1):
        low = max(one[axis] - one[axis + 2] / 2, other[axis] - other[axis + 2] / 2)
        high = min(one[axis] + one[axis + 2] / 2, other[axis] + other[axis + 2] / 2)
        sides.append(max(high - low, 0))
    both = sides[0] * sides[1]
    union = one[2] * one[3] + other[2] * other[3] - both
    return both / union if union > 0 else 0.0


def chosen(boxes, scores, iou, least, most, per_class):
    """Indices of the boxes of one picture that are kept, best first."""
    best, kinds = scores.max(-1), scores.argmax(-1)
    kept = []
    for place in sorted(range(len(boxes)), key=lambda i: (-best[i], i)):
        if best[place] < least or len(kept) == most:
            continue
        rivals = [other for other in kept if not per_class or kinds[other] == kinds[place]]
        if all(overlap(boxes[place], boxes[other]) <= iou for other in rivals):
            kept.append(place)
    return kept or [int(best.argmax())]


def suppressed(boxes, scores, iou, least, most, per_class):
    """Boxes, scores, indices, counts; what is left of ``most`` is 0, or -1."""
    exact = boxes.astype(np.float64)
    out = np.zeros((len(boxes), most, 4), boxes.dtype), np.zeros((len(boxes), most, scores.shape[-1]), scores.dtype)
    places, counts = np.full((len(boxes), most), -1, np.int32), np.zeros(len(boxes), np.int32)
    for picture in range(len(boxes)):
        kept = chosen(exact[picture], scores[picture].astype(np.float64), iou, least, most, per_class)
        out[0][picture, : len(kept)] = boxes[picture, kept]
        out[1][picture, : len(kept)] = scores[picture, kept]
        places[picture, : len(kept)], counts[picture] = kept, len(kept)
    return *out, places, counts


def pictures(batch, number, classes, kind=np.float32, side=100.0):
    """Boxes in clusters, so that many overlap; scores all different."""
    centres = RANDOM.uniform(0, side, (batch, -(-number // 5), 2)).repeat(5, 1)[:, :number]
    shifted = centres + RANDOM.normal(0, 4, (batch, number, 2))
    boxes = np.concatenate((shifted, RANDOM.uniform(10, 30, (batch, number, 2))), -1)
    scores = RANDOM.permutation(batch * number * classes).reshape(batch, number, classes) / (batch * number * classes)
    return boxes.astype(kind), scores.astype(kind)


def rows(label, boxes, scores, iou, least, most, per_class=None, opset="iOS15"):
    kind = boxes.dtype.type
    given = {} if per_class is None else {"per_class_suppression": per_class}
    thresholds = {"iou_threshold": kind(iou), "score_threshold": kind(least)}
    return Case(
        "non_maximum_suppression",
        opset,
        lambda boxes, scores: mb.non_maximum_suppression(boxes=boxes, scores=scores, max_boxes=most, **thresholds, **given),
        {"boxes": boxes, "scores": scores},
        lambda boxes, scores: suppressed(boxes, scores, float(kind(iou)), float(kind(least)), most, bool(per_class)),
        "numpy, one box at a time",
        label,
    )


def columns(label, boxes, scores, iou, most, per_class=None):
    kind = boxes.dtype.type
    given = {} if per_class is None else {"per_class_suppression": per_class}

    def expected(boxes, scores):
        every = (boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1))
        found = suppressed(*every, float(kind(iou)), -np.inf, most, bool(per_class))
        return found[0].transpose(0, 2, 1), found[1].transpose(0, 2, 1), found[2]

    return Case(
        "non_maximum_suppression",
        "iOS17",
        lambda boxes, scores: mb.non_maximum_suppression(
            boxes=boxes, scores=scores, max_boxes=most, iou_threshold=kind(iou), **given
        ),
        {"boxes": boxes.transpose(0, 2, 1).copy(), "scores": scores.transpose(0, 2, 1).copy()},
        expected,
        "numpy, one box at a time",
        label,
    )


EQUAL = np.array([[[5, 5, 4, 4], [5, 5, 4, 4], [50, 5, 4, 4], [50, 5, 4, 4]]], np.float32)
FLAT = np.array([[[5, 5, 0, 0], [5, 5, 0, 0], [5, 5, 4, 4], [6, 5, 4, 0]]], np.float32)
CASES = [
    rows("one class", *pictures(1, 40, 1), 0.3, 0.1, 20),
    rows("classes together", *pictures(2, 40, 7), 0.3, 0.4, 30, False),
    rows("each class for itself", *pictures(2, 40, 7), 0.3, 0.4, 30, True),
    rows("more than are wanted", *pictures(1, 40, 3), 0.5, 0.0, 5, True),
    rows("nothing overlaps enough", *pictures(1, 20, 2), 1.0, 0.0, 20),
    rows("anything overlaps", *pictures(1, 30, 2), 0.0, 0.0, 30),
    rows("no score reaches the threshold", *pictures(2, 10, 3), 0.5, 2.0, 4),
    rows("more than one block", *pictures(1, 700, 4), 0.6, 0.2, 700, True),
    rows("more than one block, few wanted", *pictures(1, 600, 2), 0.2, 0.0, 40),
    rows("equal scores: the first", EQUAL, np.full((1, 4, 2), 0.5, np.float32), 0.5, 0.5, 4),
    rows("boxes without area", FLAT, np.array([[[0.9], [0.8], [0.7], [0.6]]], np.float32), 0.0, 0.1, 4),
    rows("fp16, pixels", *pictures(1, 40, 3, np.float16, 600.0), 0.4, 0.2, 20, opset="iOS16"),
    columns("one class", *pictures(1, 40, 1), 0.3, 20),
    columns("classes together", *pictures(2, 40, 5), 0.3, 40, False),
    columns("each class for itself", *pictures(2, 40, 5), 0.3, 40, True),
    columns("more than are wanted", *pictures(1, 40, 5), 0.6, 3),
    columns("fp16", *pictures(1, 30, 2, np.float16), 0.4, 30),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("precision", ["emulate", "fp16-weights"])
def test_large_boxes_in_fp16_have_an_area(precision, tmp_path):
    """640 x 640 pixels do not fit fp16: in it every intersection over union would be no number."""
    boxes = np.array([[[320, 320, 600, 600], [330, 320, 600, 600]]], np.float16)
    given = {"boxes": boxes, "scores": np.array([[[0.9], [0.8]]], np.float16)}

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=np.float16(0.5), score_threshold=np.float16(0.1), max_boxes=2
        )

    for options in ({}, {"precision": precision}):
        found = run(build, given, tmp_path, since="iOS16", **options)
        np.testing.assert_array_equal(found[2], [[0, -1]])
        np.testing.assert_array_equal(found[3], [1])


def test_a_detector_of_8400_boxes_and_80_classes_is_no_burden(tmp_path):
    """A minute would be a loop over boxes in Python; the bound leaves room for a slow machine."""
    boxes, scores = (part.transpose(0, 2, 1).copy() for part in pictures(1, 8400, 80, side=640.0))

    def build(boxes, scores):
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, iou_threshold=np.float32(0.6), max_boxes=8400)

    program = load(save(build, {"boxes": boxes, "scores": scores}, tmp_path, since="iOS17"))
    program.predict({"boxes": boxes, "scores": scores})
    start = time.perf_counter()
    *_, places = program.predict({"boxes": boxes, "scores": scores}).values()
    assert time.perf_counter() - start < 20
    kept = places[places >= 0]
    assert 100 < len(kept) == len(set(kept.tolist())) < 8400


def test_the_number_of_boxes_may_vary(tmp_path):

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=np.float32(0.4), score_threshold=np.float32(0.2), max_boxes=10
        )

    program = load(save(build, {"boxes": ((1, None, 4), np.float32), "scores": ((1, None, 2), np.float32)}, tmp_path))
    for number in (30, 8, 30):
        boxes, scores = pictures(1, number, 2)
        for found, wanted in zip(
            program.predict({"boxes": boxes, "scores": scores}).values(),
            suppressed(boxes, scores, float(np.float32(0.4)), float(np.float32(0.2)), 10, False),
            strict=True,
        ):
            np.testing.assert_array_equal(found, wanted)
