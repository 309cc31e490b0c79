"""Golden cases: upsample and resize. The witnesses: torch's interpolate where a mode equals one of its modes; and everywhere the formulas
of coremltools' notes, point by point in double precision, with numpy's interp between the points."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check
from workbench.mil import ExecutionError, load

DRAW = np.random.default_rng(13)
X = DRAW.standard_normal((2, 3, 4, 5)).astype(np.float32)
SHAPES = {"rank3": (3, 4, 5), "rank4": (2, 3, 4, 5), "rank5": (2, 1, 3, 4, 5)}
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def point(mode, i, before, after):
    """Where output i of ``after`` lies among ``before`` elements, exactly: the notes of iOS15 resize_bilinear."""
    i, before, after = Fraction(i), Fraction(before), Fraction(after)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if after == 1:
            return (before - 1) / 2 if mode == "ALIGN_CORNERS" else Fraction(0)
        place = i * (before - 1) / (after - 1)
    elif mode == "DEFAULT":
        place = i * before / after
    elif mode == "OFFSET_CORNERS":
        delta = max(1, before - 1) / after
        place = delta / 2 + i * delta
    else:
        spacing = before / after
        place = i * spacing + spacing / 2 - Fraction(1, 2)
    return min(before - 1, max(0, place))


def linear(x, size, mode):
    """Axis by axis, in double precision."""
    out = x.astype(np.float64)
    for axis, after in enumerate(size, x.ndim - len(size)):
        points = [float(point(mode, i, x.shape[axis], after)) for i in range(after)]
        out = np.apply_along_axis(lambda line, points=points: np.interp(points, range(len(line)), line), axis, out)
    return out


def nearest(x, size, mode):
    """The element nearest to the point, the later of two."""
    for axis, after in enumerate(size, x.ndim - len(size)):
        chosen = []
        for i in range(after):
            place = point(mode, i, x.shape[axis], after)
            chosen.append(min(range(x.shape[axis]), key=lambda k, place=place: (abs(k - place), -k)))
        x = np.take(x, chosen, axis)
    return x


def torchs(x, size, mode, align=None):
    planes = torch.from_numpy(x).double().reshape(1, -1, *x.shape[-2:])
    return F.interpolate(planes, size=size, mode=mode, align_corners=align).reshape(*x.shape[:-2], *size).numpy()


def by(x, height, width):
    return int(x.shape[-2] * height), int(x.shape[-1] * width)


FACTORS = ((2, 3), (1, 2), (2.5, 1.4), (0.5, 0.75))
UPSAMPLED = [
    Case(
        "upsample_nearest_neighbor",
        "iOS15",
        lambda x, factors=factors: mb.upsample_nearest_neighbor(x=x, scale_factor_height=factors[0], scale_factor_width=factors[1]),
        {"x": DRAW.standard_normal(shape).astype(np.float32)},
        lambda x, factors=factors: torchs(x, by(x, *factors), "nearest"),
        "torch interpolate nearest",
        f"{label}-{factors[0]}x{factors[1]}",
    )
    for label, shape, factors in [("rank4", SHAPES["rank4"], f) for f in FACTORS]
    + [(k, s, (3, 2)) for k, s in SHAPES.items() if k != "rank4"]
]
UPSAMPLED += [
    Case(
        "upsample_nearest_neighbor",
        "iOS15",
        lambda x: mb.upsample_nearest_neighbor(x=x),
        {"x": X},
        lambda x: x,
        "numpy",
        "defaults",
    ),
    Case(  # coremltools' iOS15 tests: 3.17 and 0.67; 2 and 1.12
        "upsample_nearest_neighbor",
        "iOS15",
        lambda x: (
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=3.17, scale_factor_width=0.67),
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=1.12),
        ),
        {"x": np.float32([1.5, -2.5, 3.5]).reshape(1, 1, 1, 3)},
        lambda x: (np.tile(x[..., :2], (1, 1, 3, 1)), np.tile(x, (1, 1, 2, 1))),
        "values that coremltools' own tests expect of Core ML",
        "fractions",
    ),
]
UPSAMPLED += [
    Case(
        "upsample_bilinear",
        opset,
        lambda x, factors=factors, flags=flags: mb.upsample_bilinear(
            x=x, scale_factor_height=factors[0], scale_factor_width=factors[1], **flags
        ),
        {"x": DRAW.standard_normal(shape).astype(np.float32)},
        lambda x, factors=factors, align=align: torchs(x, by(x, *factors), "bilinear", align),
        "torch interpolate bilinear",
        f"{label}-{factors[0]}x{factors[1]}-{'-'.join(f'{name}={value}' for name, value in flags.items())}",
    )
    for opset, label, shape, factors, flags, align in [
        *[("iOS15", "rank4", SHAPES["rank4"], f, {"align_corners": align}, align) for f in FACTORS for align in (True, False)],
        *[("iOS15", k, s, (2, 3), {"align_corners": False}, False) for k, s in SHAPES.items()],
        ("iOS15", "default-flag", SHAPES["rank4"], (2, 3), {}, True),
        ("iOS15", "one-row", (2, 1, 5), (4, 2), {"align_corners": False}, False),
        ("iOS16", "default-flags", SHAPES["rank4"], (2, 3), {}, True),
        ("iOS16", "rank4", SHAPES["rank4"], (2, 3), {"align_corners": False}, False),
        ("iOS16", "rank4", SHAPES["rank4"], (2.5, 3.0), {"align_corners": False, "half_pixel_centers": True}, False),
        ("iOS16", "rank4", SHAPES["rank4"], (2.0, 0.6), {"align_corners": True, "half_pixel_centers": False}, True),
    ]
] + [
    Case(
        "upsample_bilinear",
        "iOS16",
        lambda x, factors=factors: mb.upsample_bilinear(
            x=x, scale_factor_height=factors[0], scale_factor_width=factors[1], align_corners=False, half_pixel_centers=False
        ),
        {"x": DRAW.standard_normal(shape).astype(np.float32)},
        lambda x, factors=factors: linear(x, by(x, *factors), "DEFAULT"),
        "numpy, the notes of resize_bilinear",
        f"{label}-neither",
    )
    for label, shape, factors in (("rank4", SHAPES["rank4"], (2, 3)), ("rank3", SHAPES["rank3"], (1.5, 0.8)))
]

SIZES = ((7, 9), (2, 3), (4, 5), (1, 1), (1, 12), (8, 1))
RESIZED = [
    Case(
        "resize_nearest_neighbor",
        "iOS15",
        lambda x, size=size: mb.resize_nearest_neighbor(x=x, target_size_height=size[0], target_size_width=size[1]),
        {"x": DRAW.standard_normal(shape).astype(np.float32)},
        lambda x, size=size: torchs(x, size, "nearest-exact"),
        "torch interpolate nearest-exact",
        f"{label}-{size[0]}x{size[1]}",
    )
    for label, shape, size in [("rank4", SHAPES["rank4"], size) for size in SIZES]
    + [(k, SHAPES[k], (6, 7)) for k in ("rank3", "rank5")]
]
RESIZED += [
    Case(
        "resize_bilinear",
        "iOS15",
        lambda x, mode=mode: tuple(
            mb.resize_bilinear(x=x, target_size_height=height, target_size_width=width, sampling_mode=mode)
            for height, width in SIZES
        ),
        {"x": DRAW.standard_normal(shape).astype(np.float32)},
        lambda x, mode=mode: tuple(linear(x, size, mode) for size in SIZES),
        "numpy, the notes of resize_bilinear",
        f"{label}-{mode}",
    )
    for label, shape in (*SHAPES.items(), ("one-row", (2, 1, 5)), ("one-pixel", (3, 1, 1)))
    for mode in MODES
]
RESIZED += [
    Case(
        "resize_bilinear",
        "iOS15",
        lambda x, mode=mode: mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3, sampling_mode=mode),
        {"x": X},
        lambda x, align=align: torchs(x, (7, 3), "bilinear", align),
        "torch interpolate bilinear",
        f"as-torch-{mode}",
    )
    for mode, align in (("STRICT_ALIGN_CORNERS", True), ("ALIGN_CORNERS", True), ("UNALIGN_CORNERS", False))
]
RESIZED += [
    Case(
        "resize_bilinear",
        "iOS15",
        lambda x: mb.resize_bilinear(x=x),
        {"x": X},
        lambda x: linear(x, (1, 1), "DEFAULT"),
        "numpy",
        "defaults",
    )
]


def resize(label, x, shape, dims, expected, **flags):
    """The same shape as a constant and, with ``shape`` an input, as a value of the run."""
    shape = np.array(shape, np.int32)

    def constant(x):
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(dims), **flags)

    def given(x, shape):
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(dims), **flags)

    source = "numpy, the notes of resize_bilinear"
    return [
        Case("resize", "iOS17", constant, {"x": x}, expected, source, f"{label}-constant"),
        Case("resize", "iOS17", given, {"x": x, "shape": shape}, lambda x, shape: expected(x), source, f"{label}-given"),
    ]


RESIZE = []
for mode in MODES:
    RESIZE += resize(f"linear-{mode}", X, (7, 3), 2, lambda x, mode=mode: linear(x, (7, 3), mode), sampling_mode=mode)
    if mode != "DEFAULT":
        RESIZE += resize(
            f"nearest-{mode}",
            X,
            (9, 3),
            2,
            lambda x, mode=mode: nearest(x, (9, 3), mode),
            sampling_mode=mode,
            interpolation_mode="NEAREST_NEIGHBOR",
        )
RESIZE += resize(
    "nearest-DEFAULT", X, (9, 3), 2, lambda x: torchs(x, (9, 3), "nearest-exact"), interpolation_mode="NEAREST_NEIGHBOR"
)
RESIZE += resize("inherited", X, (1, 0, 8), 2, lambda x: linear(x, (4, 8), "DEFAULT"))
RESIZE += resize("last-only", X, (2, 3, 4, 8), 1, lambda x: linear(x, (8,), "DEFAULT"))
RESIZE += resize("three", X, (5, 2, 9), 3, lambda x: linear(x, (5, 2, 9), "UNALIGN_CORNERS"), sampling_mode="UNALIGN_CORNERS")
RESIZE += resize("none", X, (7,), 0, lambda x: x)
RESIZE += resize(
    "rank1", X[0, 0, 0], (8,), 1, lambda x: linear(x, (8,), "STRICT_ALIGN_CORNERS"), sampling_mode="STRICT_ALIGN_CORNERS"
)
WHOLE = DRAW.integers(-9, 9, (2, 4, 5)).astype(np.int32)
RESIZE += resize(
    "integers-nearest",
    WHOLE,
    (7, 3),
    2,
    lambda x: torchs(x, (7, 3), "nearest-exact").astype(np.int32),
    interpolation_mode="NEAREST_NEIGHBOR",
)
RESIZE += resize("integers-linear", WHOLE, (7, 3), 2, lambda x: np.rint(linear(x, (7, 3), "DEFAULT")).astype(np.int32))
RESIZE += [  # coremltools' own iOS17 test: 2 elements to 3
    Case(
        "resize",
        "iOS17",
        lambda x: mb.resize(x=x, shape=[1, 1, 3, 2], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        {"x": np.float32([-6.174, 9.371]).reshape(1, 1, 1, 2, 1)},
        lambda x: np.repeat(x[:, :, :, [0, 1, 1]], 2, axis=4),
        "values that coremltools' own tests expect of Core ML",
        "nearest-2-to-3",
    )
]

CASES = UPSAMPLED + RESIZED + RESIZE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_the_notes_own_example_of_every_mode():
    """Two pixels 0 and 1 resized to five and to six: the points that the notes of resize_bilinear print, to their two digits."""
    printed = {
        "UNALIGN_CORNERS": ([0, 0.1, 0.5, 0.9, 1], [0, 0, 0.33, 0.67, 1, 1]),
        "STRICT_ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        "DEFAULT": ([0, 0.4, 0.8, 1, 1], [0, 0.33, 0.67, 1, 1, 1]),
        "OFFSET_CORNERS": ([0.1, 0.3, 0.5, 0.7, 0.9], [0.08, 0.25, 0.42, 0.58, 0.75, 0.92]),
    }
    for mode, lines in printed.items():
        for line in lines:
            np.testing.assert_allclose([float(point(mode, i, 2, len(line))) for i in range(len(line))], line, atol=0.005)


def test_sizes_follow_the_input_where_they_are_known_at_run_time_only(tmp_path):
    def build(x):
        return (
            mb.upsample_bilinear(x=x, scale_factor_height=2.5, scale_factor_width=2.6, align_corners=False),
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=0.5),
            mb.resize_bilinear(x=x, target_size_height=3, target_size_width=8, sampling_mode="OFFSET_CORNERS"),
        )

    program = load(save(build, {"x": ((1, 2, None, None), np.float32)}, tmp_path))
    for height, width in ((4, 5), (3, 10), (4, 5)):
        x = DRAW.standard_normal((1, 2, height, width)).astype(np.float32)
        found = list(program.predict({"x": x}).values())
        large = (int(np.float32(2.5) * np.float32(height)), int(np.float32(2.6) * np.float32(width)))
        np.testing.assert_allclose(found[0], torchs(x, large, "bilinear", False), atol=2e-6)
        np.testing.assert_array_equal(found[1], torchs(x, (2 * height, width // 2), "nearest"))
        np.testing.assert_allclose(found[2], linear(x, (3, 8), "OFFSET_CORNERS"), atol=2e-6)


def test_halves_are_computed_in_single_precision_and_rounded_once(tmp_path):
    def build(x):
        half = mb.cast(x=x, dtype="fp16")
        return tuple(
            mb.cast(x=mb.resize_bilinear(x=half, target_size_height=9, target_size_width=7, sampling_mode=mode), dtype="fp32")
            for mode in ("DEFAULT", "UNALIGN_CORNERS")
        )

    path = save(build, {"x": X}, tmp_path, since="iOS16")
    for precision in ("native", "emulate"):
        for found, mode in zip(
            load(path, precision=precision).predict({"x": X}).values(), ("DEFAULT", "UNALIGN_CORNERS"), strict=True
        ):
            exact = linear(X.astype(np.float16), (9, 7), mode)
            assert (found == found.astype(np.float16)).all()
            assert (np.abs(found - exact) <= np.abs(np.spacing(exact.astype(np.float16))) * 0.51).all(), (precision, mode)


def test_two_flags_that_exclude_each_other_are_refused(tmp_path):
    build = lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, align_corners=True, half_pixel_centers=True)  # noqa: E731
    with pytest.raises(ExecutionError, match="align_corners and half_pixel_centers"):
        load(save(build, {"x": X}, tmp_path, since="iOS16")).predict({"x": X})


@pytest.mark.parametrize("mode", ["LINEAR", "NEAREST_NEIGHBOR"])
def test_a_size_beyond_the_memory_is_refused(mode, tmp_path):
    build = lambda x, shape: mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode=mode)  # noqa: E731
    path = save(build, {"x": X, "shape": np.zeros(2, np.int32)}, tmp_path, since="iOS17")
    program = load(path, memory_bytes=1 << 20)
    program.predict({"x": X, "shape": np.array([9, 9], np.int32)})
    with pytest.raises(ExecutionError, match="2, 3, 100000, 100000"):
        program.predict({"x": X, "shape": np.array([100000, 100000], np.int32)})
    with pytest.raises(ExecutionError, match="negative"):
        program.predict({"x": X, "shape": np.array([-4, 4], np.int32)})
