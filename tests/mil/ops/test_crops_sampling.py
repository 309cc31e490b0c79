"""Golden cases: resample and affine. The witness is scipy's map_coordinates, whose modes are those of MIL: grid-constant (constant),
nearest (border), mirror (reflection), reflect (symmetric); and torch's grid_sample where it has the same meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb
from scipy.ndimage import map_coordinates

from tests.mil.building import save
from tests.mil.cases import Case, check
from workbench.mil import UnsupportedError, load
from workbench.mil.ops.crops import affine as affine_handler
from workbench.mil.ops.crops import resample as resample_handler
from workbench.mil.registry import Context

DRAW = np.random.default_rng(15)
X = DRAW.standard_normal((2, 3, 5, 6)).astype(np.float32)
SCIPYS = {"constant": "grid-constant", "border": "nearest", "reflection": "mirror", "symmetric": "reflect"}
COORDINATES = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")


def pixels(places, length, mode, align):
    """Coordinates along an axis, in pixels: with aligned corners the ends of the range are centres of pixels, else edges."""
    places = places.astype(np.float64)
    if mode == "unnormalized":
        return places
    share = (places + 1) / 2 if mode == "normalized_minus_one_to_one" else places
    return share * (length - 1) if align else share * length - 0.5


def sampled(x, places, sampling, padding, value, mode, align):
    """[B, C, H, W] at places [B, h, w, (x, y)], image by image."""
    out = []
    for image, grid in zip(x.astype(np.float64), places, strict=True):
        at = [pixels(grid[..., 1], x.shape[2], mode, align), pixels(grid[..., 0], x.shape[3], mode, align)]
        out.append(
            [map_coordinates(c, at, order=1 if sampling == "bilinear" else 0, mode=SCIPYS[padding], cval=value) for c in image]
        )
    return np.array(out)


def _places(mode, align):
    """From well outside to well outside; no coordinate is half way between two pixels."""
    shape = (2, 4, 7)
    at = np.stack([DRAW.uniform(-2.5 * length, 3.5 * length, shape) for length in (6, 5)], -1)
    at[:, :2] = np.stack([DRAW.uniform(-0.45, length - 0.55, (2, 2, 7)) for length in (6, 5)], -1)
    at = np.where(np.abs(at - np.floor(at) - 0.5) < 0.02, at + 0.1, at)
    if mode == "unnormalized":
        return at.astype(np.float32)
    lengths = np.array([6, 5])
    share = at / (lengths - 1) if align else (at + 0.5) / lengths
    return (2 * share - 1 if mode == "normalized_minus_one_to_one" else share).astype(np.float32)


def _resample(sampling, padding, value, mode, align):
    return lambda x, coordinates: mb.resample(
        x=x,
        coordinates=coordinates,
        sampling_mode=sampling,
        padding_mode=padding,
        padding_value=np.float32(value),
        coordinates_mode=mode,
        align_corners=align,
    )


def resample(opset, sampling, padding, mode, align, value=0.0, inputs=None, label=""):
    return Case(
        "resample",
        opset,
        _resample(sampling, padding, value, mode, align),
        inputs or {"x": X, "coordinates": _places(mode, align)},
        lambda x, coordinates: sampled(x, coordinates, sampling, padding, value, mode, align),
        "scipy map_coordinates",
        f"{sampling}-{padding}-{mode}-{'aligned' if align else 'edges'}{label}",
        tolerance=1e-5,  # coordinates in single precision: 15 pixels outside they are known to 1e-6
    )


CASES = [
    resample("iOS15", sampling, padding, mode, align, -3.25 if padding == "constant" and align else 0.0)
    for sampling in ("bilinear", "nearest")
    for padding in SCIPYS
    for mode in COORDINATES
    for align in (True, False)
]
CASES += [resample("iOS16", "bilinear", "constant", "normalized_minus_one_to_one", False, 6.5, label="-padded")]
ONE = {"x": X[:, :, :1, :1], "coordinates": _places("unnormalized", True)}
CASES += [
    resample("iOS15", "bilinear", padding, "unnormalized", True, inputs=ONE, label="-one-pixel")
    for padding in ("border", "symmetric")
]
CASES += [  # torch's own, as its front end emits them
    Case(
        "resample",
        "iOS15",
        _resample("bilinear", padding, 0.0, "normalized_minus_one_to_one", align),
        {"x": X, "coordinates": _places("normalized_minus_one_to_one", align)},
        lambda x, coordinates, theirs=theirs, align=align: F.grid_sample(
            torch.from_numpy(x).double(), torch.from_numpy(coordinates).double(), padding_mode=theirs, align_corners=align
        ).numpy(),
        "torch grid_sample",
        f"as-torch-{theirs}-{align}",
        tolerance=1e-5,
    )
    for padding, theirs, align in [
        ("constant", "zeros", True),
        ("border", "border", False),
        ("reflection", "reflection", True),
        ("symmetric", "reflection", False),
    ]
]
HALFWAY = np.float32([[[0.5, 0.5], [1.5, 1.5]], [[2.5, 3.5], [4.5, 0.5]]])[None].repeat(2, 0)
CASES += [
    Case(
        "resample",
        "iOS15",
        _resample("nearest", "border", 0.0, "unnormalized", True),
        {"x": X, "coordinates": HALFWAY},
        lambda x, coordinates: np.stack(
            [
                image[:, np.rint(at[..., 1]).astype(int), np.rint(at[..., 0]).astype(int)]
                for image, at in zip(x, coordinates, strict=True)
            ]
        ),
        "numpy rint",
        "half-way-to-even",
    ),
    Case(  # the image, the places and the values of coremltools' own iOS15 test
        "resample",
        "iOS15",
        lambda x, coordinates: (
            _resample("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True)(x, coordinates),
            _resample("nearest", "border", -1.0, "unnormalized", False)(x, coordinates),
            _resample("bilinear", "reflection", -1.0, "normalized_zero_to_one", True)(x, coordinates),
            _resample("nearest", "symmetric", -1.0, "normalized_zero_to_one", False)(x, coordinates),
        ),
        {
            "x": np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2),
            "coordinates": np.float32([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2]).reshape(1, 2, 2, 2),
        },
        lambda x, coordinates: tuple(
            np.float32(values).reshape(1, 1, 2, 2)
            for values in ([8.585, 6.17, 27.5, 6.17], [11, 11, 11, 44], [22, 36.3, 11, 34.1], [22, 33, 11, 33])
        ),
        "values that coremltools' own tests expect of Core ML",
        "four-modes",
    ),
]
WHOLE = np.array([[[[0, 1], [5, 4]], [[2, 3], [7, 0]]]]).repeat(2, 0)
CASES += [
    Case(
        "resample",
        opset,
        lambda x, kind=kind: _resample("bilinear", "constant", 1.5, "unnormalized", True)(x, WHOLE.astype(kind)),
        {"x": X},
        lambda x: sampled(x, WHOLE, "bilinear", "constant", 1.5, "unnormalized", True),
        "scipy map_coordinates",
        f"{np.dtype(kind).name}-places",
    )
    for opset, kinds in (
        ("iOS15", (np.int32,)),
        ("iOS16", (np.float16,)),
        ("iOS17", (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float16)),
    )
    for kind in kinds
]

MATRICES = DRAW.uniform(-1.2, 1.2, (2, 6)).astype(np.float32)


def _affine(size, align):
    return lambda x, matrix: mb.affine(
        x=x,
        transform_matrix=matrix,
        output_height=size[0],
        output_width=size[1],
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align,
    )


def moved(x, matrix, size, align):
    """The op's formula: output pixel (x, y) is taken at (a0 x + a1 y + a2, b0 x + b1 y + b2)."""

    def centres(count):
        return np.linspace(-1, 1, count) if align and count > 1 else (2 * np.arange(count) + 1) / count - 1

    down, right = np.meshgrid(centres(size[0]), centres(size[1]), indexing="ij")
    rows = np.repeat(matrix, len(x) // len(matrix), 0).astype(np.float64)
    places = [np.stack([a[0] * right + a[1] * down + a[2], a[3] * right + a[4] * down + a[5]], -1) for a in rows]
    return sampled(x, places, "bilinear", "constant", 0.0, "normalized_minus_one_to_one", align)


CASES += [
    Case(
        "affine",
        "iOS15",
        _affine(size, align),
        {"x": X, "matrix": matrix},
        lambda x, matrix, size=size, align=align: moved(x, matrix, size, align),
        "scipy, the op's formula",
        f"{label}-{size[0]}x{size[1]}-{'aligned' if align else 'edges'}",
        tolerance=5e-6,
    )
    for label, matrix, size, align in [
        ("each", MATRICES, (4, 7), True),
        ("one-for-all", MATRICES[:1], (5, 6), True),
        ("each", MATRICES, (4, 7), False),
        ("same-place", np.float32([[1, 0, 0, 0, 1, 0]]), (5, 6), True),
    ]
]
CASES += [
    Case(
        "affine",
        "iOS15",
        _affine((3, 3), True),
        {"x": np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2), "matrix": np.float32([[-1, -2, -3.7, -1, 3.5, 1.2]])},
        lambda x, matrix: np.float32([10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0]).reshape(1, 1, 3, 3),
        "values that coremltools' own tests expect of Core ML",
        "coremltools",
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("precision", ["native", "emulate"])
def test_halves_are_computed_in_single_precision_and_rounded_once(precision, tmp_path):
    places = _places("unnormalized", True)[:, :2]

    def build(x):
        half = mb.resample(
            x=mb.cast(x=x, dtype="fp16"),
            coordinates=places,
            sampling_mode="bilinear",
            padding_mode="border",
            padding_value=np.float16(0),
            coordinates_mode="unnormalized",
            align_corners=True,
        )
        return mb.cast(x=half, dtype="fp32")

    (found,) = load(save(build, {"x": X}, tmp_path, since="iOS16"), precision=precision).predict({"x": X}).values()
    exact = sampled(X.astype(np.float16), places, "bilinear", "border", 0.0, "unnormalized", True)
    assert (found == found.astype(np.float16)).all()
    assert (np.abs(found - exact) <= np.abs(np.spacing(exact.astype(np.float16))) * 0.51).all()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"sampling": "bicubic"}, "bicubic"),
        ({"padding": "wrap"}, "wrap"),
        ({"coordinates": "degrees", "padding": "symmetric"}, "degrees"),
    ],
)
def test_modes_that_are_not_known_are_refused(changed, named):
    modes = {"sampling": "bilinear", "padding": "constant", "coordinates": "unnormalized", **changed}
    context = Context("iOS15", torch.float16, torch.device("cpu"), torch.Generator())
    images, places = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
    with pytest.raises(UnsupportedError, match=named):
        resample_handler(images, places, modes["sampling"], modes["padding"], 0.0, modes["coordinates"], True, context)
    with pytest.raises(UnsupportedError):
        affine_handler(
            images, torch.zeros(1, 6), 2, 2, modes["sampling"], modes["padding"], 0.0, modes["coordinates"], True, context
        )
