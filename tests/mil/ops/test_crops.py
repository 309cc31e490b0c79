"""Golden cases: crop, and crop_resize. The witness of crop_resize takes every point from the formulas of coremltools' notes and lets
scipy interpolate there; tf.image.crop_and_resize, which crop_resize follows, is not needed for that."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from scipy.ndimage import map_coordinates

from tests.mil.building import save
from tests.mil.cases import Case, check
from workbench.mil import ExecutionError, load

DRAW = np.random.default_rng(14)
X = DRAW.standard_normal((2, 3, 5, 6)).astype(np.float32)
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
BOXES = np.float32([[1, 1, 3, 4], [0, 0, 4, 5], [0.5, 1.25, 3.75, 2.5], [2, 2, 2, 2], [1.5, 0.25, 2.0, 0.5]])
"""Height first, corners; all inside the image of 5 by 6."""


def point(mode, i, start, end, count):
    """Point i of ``count`` over [start, end], exactly: the notes of resize_bilinear with X - 1 for end - start; never outside it."""
    i, start, end, count = Fraction(i), Fraction(float(start)), Fraction(float(end)), Fraction(count)
    size = end - start + 1
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        middle = (end - start) / 2 if mode == "ALIGN_CORNERS" else Fraction(0)
        place = middle if count == 1 else i * (size - 1) / (count - 1)
    elif mode == "DEFAULT":
        place = i * size / count
    elif mode == "OFFSET_CORNERS":
        delta = max(Fraction(1), size - 1) / count
        place = delta / 2 + i * delta
    else:
        place = i * size / count + size / count / 2 - Fraction(1, 2)
    return float(min(max(start + place, min(start, end)), max(start, end)))


def cropped(image, box, size, mode, pad=0.0):
    """One image [C, H, W] and one box: what scipy interpolates at the points, ``pad`` outside the image."""
    rows = [point(mode, i, box[0], box[2], size[0]) for i in range(size[0])]
    columns = [point(mode, i, box[1], box[3], size[1]) for i in range(size[1])]
    places = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([map_coordinates(plane.astype(np.float64), places, order=1, mode="constant", cval=pad) for plane in image])


CROPS = [
    Case(
        "crop",
        "iOS15",
        lambda x, height=height, width=width: mb.crop(x=x, crop_height=height, crop_width=width),
        {"x": x},
        lambda x, height=height, width=width: x[..., height[0] : x.shape[-2] - height[1], width[0] : x.shape[-1] - width[1]],
        "numpy slices",
        label,
    )
    for label, x, height, width in [
        ("rank4", X, [0, 1], [1, 2]),
        ("rank3", X[0], [2, 0], [0, 0]),
        ("rank5", X[None], [1, 1], [3, 2]),
        ("nothing", X, [0, 0], [0, 0]),
    ]
]


def every(opset, label, boxes, size, expected_boxes=None, pad=None, x=X, **flags):
    """[N, 1, 4, 1, 1]: every box from every image. ``expected_boxes``: the same in corners, height first, pixels."""
    expected_boxes = boxes if expected_boxes is None else expected_boxes
    flags = flags if pad is None else {**flags, "pad_value": np.float32(pad)}
    mode = flags.get("sampling_mode", "DEFAULT")
    return Case(
        "crop_resize",
        opset,
        lambda x, roi: mb.crop_resize(x=x, roi=roi, target_height=size[0], target_width=size[1], **flags),
        {"x": x, "roi": boxes.reshape(-1, 1, 4, 1, 1)},
        lambda x, roi: np.stack([[cropped(image, box, size, mode, pad or 0.0) for image in x] for box in expected_boxes]),
        "scipy, the notes of resize_bilinear",
        label,
        tolerance=4e-6,
    )


def single(label, boxes, images, size, expected_boxes=None, pad=None, x=X, kind=np.int32, **flags):
    """iOS17: boxes [N, 4] and the number of the image of each."""
    expected_boxes = boxes if expected_boxes is None else expected_boxes
    flags = flags if pad is None else {**flags, "pad_value": np.float32(pad)}
    mode = flags.get("sampling_mode", "DEFAULT")
    given = {} if images is None else {"box_indices": np.array(images, kind)}
    return Case(
        "crop_resize",
        "iOS17",
        lambda x, boxes: mb.crop_resize(x=x, boxes=boxes, target_height=size[0], target_width=size[1], **given, **flags),
        {"x": x, "boxes": boxes},
        lambda x, boxes: np.stack(
            [cropped(x[n], box, size, mode, pad or 0.0) for n, box in zip(images or range(len(boxes)), expected_boxes, strict=True)]
        ),
        "scipy, the notes of resize_bilinear",
        label,
        tolerance=4e-6,
    )


TURNED = BOXES[:3, [2, 3, 0, 1]]
"""The end before the start: the part comes out mirrored."""
OUTSIDE = np.float32([[-1, 2, 3, 7], [3, -2, 6, 1], [-3, -3, -1, -1]])
CENTRED = np.stack(
    [(BOXES[:, 0] + BOXES[:, 2]) / 2, (BOXES[:, 1] + BOXES[:, 3]) / 2, BOXES[:, 2] - BOXES[:, 0], BOXES[:, 3] - BOXES[:, 1]], 1
)
UNIT = np.float32([[0, 0.25, 1, 0.5], [0.125, 0, 0.75, 1], [0.5, 0.5, 0.5, 0.5]])
"""Exact in binary; times 4 and 5 they are pixels."""
PIXELS = UNIT * np.float32([4, 5, 4, 5])
THEIRS = np.float32([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]])
"""Normalized boxes of coremltools' own iOS16 test."""
LAYOUTS = {
    "CORNERS_HEIGHT_FIRST": BOXES,
    "CORNERS_WIDTH_FIRST": BOXES[:, [1, 0, 3, 2]],
    "CENTER_SIZE_HEIGHT_FIRST": CENTRED,
    "CENTER_SIZE_WIDTH_FIRST": CENTRED[:, [1, 0, 3, 2]],
}

RESIZED = [
    every("iOS15", f"{mode}-{size[0]}x{size[1]}", BOXES, size, sampling_mode=mode)
    for mode in MODES
    for size in ((3, 4), (1, 1), (7, 2))
]
RESIZED += [every("iOS15", mode, boxes, (3, 2), BOXES, box_coordinate_mode=mode) for mode, boxes in LAYOUTS.items()]
RESIZED += [
    every("iOS15", f"turned-{mode}", TURNED, (3, 3), sampling_mode=mode) for mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS")
]
RESIZED += [
    every("iOS15", "outside-is-zero", OUTSIDE, (4, 5), sampling_mode="ALIGN_CORNERS"),
    every("iOS15", "scaled", BOXES * 4, (3, 2), BOXES, spatial_scale=np.float32(0.25), sampling_mode="OFFSET_CORNERS"),
    every("iOS15", "normalized", UNIT, (3, 4), PIXELS, normalized_coordinates=True, sampling_mode="ALIGN_CORNERS"),
    every(
        "iOS15",
        "normalized-scaled-centred",
        np.float32([[1, 0.5, 1, 0.5]]),
        (3, 4),
        np.float32([[1, 0.625, 3, 1.875]]),
        normalized_coordinates=True,
        spatial_scale=np.float32(0.5),
        box_coordinate_mode="CENTER_SIZE_HEIGHT_FIRST",
    ),
    every("iOS15", "one-pixel-image", np.float32([[0, 0, 0, 0]]), (2, 2), x=X[:, :, :1, :1], sampling_mode="UNALIGN_CORNERS"),
    every("iOS16", "padded", OUTSIDE, (4, 5), pad=-7.5, sampling_mode="ALIGN_CORNERS"),
    every("iOS16", "padded-with-the-default", OUTSIDE, (4, 5), sampling_mode="UNALIGN_CORNERS"),
    single("default-images", BOXES[:2], None, (3, 4)),
    single("images", BOXES, [1, 0, 0, 1, 1], (3, 4), sampling_mode="UNALIGN_CORNERS"),
    single("padded", OUTSIDE, [1, 0, 1], (4, 5), pad=2.5, sampling_mode="ALIGN_CORNERS"),
    single("small-image-numbers", BOXES, [1, 0, 0, 1, 1], (2, 2), kind=np.uint16),
    single("normalized", UNIT, [1, 1, 0], (3, 4), PIXELS, normalized_coordinates=True, sampling_mode="STRICT_ALIGN_CORNERS"),
]
RESIZED += [single(mode, boxes, [1, 0, 0, 1, 1], (3, 2), BOXES, box_coordinate_mode=mode) for mode, boxes in LAYOUTS.items()]
RESIZED += [
    Case(
        "crop_resize",
        "iOS17",
        lambda x: mb.crop_resize(
            x=x, boxes=np.array([[1, 0, 3, 4]], np.uint16), box_indices=np.array([1], np.int32), target_height=5
        ),
        {"x": X},
        lambda x: cropped(x[1], (1, 0, 3, 4), (5, 1), "DEFAULT")[None],
        "scipy, the notes of resize_bilinear",
        "integer-boxes",
        tolerance=4e-6,
    ),
    Case(
        "crop_resize",
        "iOS16",
        lambda x: mb.crop_resize(
            x=x,
            roi=np.insert(THEIRS, 0, 0, axis=1).reshape(3, 1, 5, 1, 1),
            target_height=2,
            target_width=2,
            normalized_coordinates=True,
            sampling_mode="ALIGN_CORNERS",
            pad_value=10.0,
        ),
        {"x": np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)},
        lambda x: np.stack([[cropped(x[0], box * 3.0, (2, 2), "ALIGN_CORNERS", 10.0)] for box in THEIRS.astype(np.float64)]),
        "scipy, the notes of resize_bilinear",
        "numbered-images",
    ),
]

CASES = CROPS + RESIZED


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_the_witness_gives_what_coremltools_tests_expect_of_core_ml():
    """Their iOS16 test prints three digits; and their iOS14 tests of one box in corners and of one that is turned."""
    image = np.arange(1, 17).reshape(1, 4, 4)
    found = [cropped(image, box * 3.0, (2, 2), "ALIGN_CORNERS", 10.0) for box in THEIRS.astype(np.float64)]
    np.testing.assert_allclose(np.ravel(found), [3.1, 5.2, 10, 10, 10, 7.899, 10, 13.9, 2.2, 3.1, 9.4, 10.3], atol=0.0011)
    np.testing.assert_allclose(np.ravel(cropped(image, (1, 1, 2, 2), (1, 1), "ALIGN_CORNERS")), [8.5])
    np.testing.assert_allclose(np.ravel(cropped(image, (2, 2, 1, 1), (2, 2), "ALIGN_CORNERS")), [11, 10, 7, 6])


@pytest.mark.parametrize("since", ["iOS15", "iOS16"])
def test_a_region_can_name_its_image(since, tmp_path):
    """[N, 1, 5, 1, 1] gives [N, 1, C, ...]; coremltools declares B for that 1, so B is left open here."""
    build = lambda x, roi: mb.crop_resize(x=x, roi=roi, target_height=3, target_width=4, sampling_mode="ALIGN_CORNERS")  # noqa: E731
    program = load(
        save(build, {"x": ((None, 3, 5, 6), np.float32), "roi": np.zeros((4, 1, 5, 1, 1), np.float32)}, tmp_path, since=since)
    )
    images = [1, 0, 0, 1]
    roi = np.concatenate([np.float32(images)[:, None], BOXES[:4]], 1).reshape(4, 1, 5, 1, 1)
    (found,) = program.predict({"x": X, "roi": roi}).values()
    wanted = np.stack([[cropped(X[n], box, (3, 4), "ALIGN_CORNERS")] for n, box in zip(images, BOXES[:4], strict=True)])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    roi[2, 0, 0] = 2
    with pytest.raises(ExecutionError, match="from 0 to 2 for an axis of length 2"):
        program.predict({"x": X, "roi": roi})


def test_an_image_that_is_not_there_is_an_error(tmp_path):
    build = lambda x, n: mb.crop_resize(x=x, boxes=BOXES[:1], box_indices=n)  # noqa: E731
    program = load(save(build, {"x": X, "n": np.zeros(1, np.int32)}, tmp_path, since="iOS17"))
    program.predict({"x": X, "n": np.array([1], np.int32)})
    for number in (2, -1):
        with pytest.raises(ExecutionError, match=f"from {number} to {number} for an axis of length 2"):
            program.predict({"x": X, "n": np.array([number], np.int32)})


def test_more_parts_than_fit_the_memory_are_refused(tmp_path):
    build = lambda x, roi: mb.crop_resize(x=x, roi=roi, target_height=100, target_width=100)  # noqa: E731
    path = save(build, {"x": X, "roi": ((None, 1, 4, 1, 1), np.float32)}, tmp_path)
    program = load(path, memory_bytes=1 << 20)
    program.predict({"x": X, "roi": BOXES[:1].reshape(1, 1, 4, 1, 1)})
    with pytest.raises(ExecutionError, match="60, 2, 3, 100, 100"):
        program.predict({"x": X, "roi": np.repeat(BOXES[:1], 60, 0).reshape(60, 1, 4, 1, 1)})


@pytest.mark.parametrize("precision", ["native", "emulate"])
def test_halves_are_computed_in_single_precision_and_rounded_once(precision, tmp_path):
    def build(x):
        return mb.cast(
            x=mb.crop_resize(x=mb.cast(x=x, dtype="fp16"), boxes=BOXES[:2], target_height=3, target_width=4), dtype="fp32"
        )

    (found,) = load(save(build, {"x": X}, tmp_path, since="iOS17"), precision=precision).predict({"x": X}).values()
    half = X.astype(np.float16)
    exact = np.stack([cropped(half[n], BOXES[n], (3, 4), "DEFAULT") for n in range(2)])
    assert (found == found.astype(np.float16)).all()
    assert (np.abs(found - exact) <= np.abs(np.spacing(exact.astype(np.float16))) * 0.51).all()
