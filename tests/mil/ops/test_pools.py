"""Golden cases: pools, against the definition window by window in float64, onnxruntime (``same``) and torch (``ceil_mode``)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check
from tests.mil.ops.test_convolution import noise, ort
from workbench.mil import UnsupportedError, load

REDUCE = {
    "avg_pool": lambda inside, count: inside.sum((2, 3, 4)) / count,
    "max_pool": lambda inside, count: inside.max((2, 3, 4), initial=-np.inf),
    "l2_pool": lambda inside, count: np.sqrt((inside**2).sum((2, 3, 4))),
}
ORT = {"avg_pool": "AveragePool", "max_pool": "MaxPool", "l2_pool": "LpPool"}
TORCH = {
    ("avg_pool", 1): torch.nn.functional.avg_pool1d,
    ("avg_pool", 2): torch.nn.functional.avg_pool2d,
    ("max_pool", 1): torch.nn.functional.max_pool1d,
    ("max_pool", 2): torch.nn.functional.max_pool2d,
}


def outputs(size, kernel, stride, before, after, ceil):
    """Number of windows: the formulas of avg_pool's docstring."""
    if not ceil:
        return (size + before + after - kernel) // stride + 1
    count = (size + before + after - kernel + stride - 1) // stride + 1
    return count - 1 if (count - 1) * stride >= size + before and before + after > 0 else count


def defined(op, kernel, strides, pad, exclude=False, ceil=False):
    """Every window by itself. An average counts what lies in the input, or in the input and its declared padding."""

    def expected(x):
        rank = x.ndim - 2
        grid = x.astype(np.float64).reshape(*x.shape[:2], *(1,) * (3 - rank), *x.shape[2:])
        lead = 3 - rank
        k, s, p = [1] * lead + kernel, [1] * lead + strides, [0, 0] * lead + pad
        sizes = [outputs(grid.shape[2 + d], k[d], s[d], p[2 * d], p[2 * d + 1], ceil) for d in range(3)]
        result = np.zeros((*x.shape[:2], *sizes))
        for place in np.ndindex(*sizes):
            begins = [place[d] * s[d] - p[2 * d] for d in range(3)]
            cut = tuple(slice(max(0, b), max(0, min(b + k[d], grid.shape[2 + d]))) for d, b in enumerate(begins))
            inside = grid[(slice(None), slice(None), *cut)]
            reach = [min(b + k[d], grid.shape[2 + d] + p[2 * d + 1]) - b for d, b in enumerate(begins)]
            count = np.prod(inside.shape[2:]) if exclude else np.prod(reach)
            result[(slice(None), slice(None), *place)] = REDUCE[op](inside, count)
        return result.reshape(*x.shape[:2], *sizes[lead:])

    return expected


def case(op, label, size, kernel, strides=None, pad=None, exclude=None, ceil=None, opset="iOS15", values=None):
    steps, sides = strides or [1] * len(size), pad or [0] * (2 * len(size))
    given = {"strides": strides, "pad": pad, "exclude_padding_from_average": exclude, "ceil_mode": ceil}
    arguments = {name: value for name, value in given.items() if value is not None}
    return Case(
        op,
        opset,
        lambda x: getattr(mb, op)(x=x, kernel_sizes=kernel, pad_type="custom" if pad else "valid", **arguments),
        {"x": noise(2, 3, *size) if values is None else values},
        defined(op, kernel, steps, sides, bool(exclude), bool(ceil)),
        "definition",
        label,
    )


def same(op, label, size, kernel, strides, lower=False, exclude=False, opset="iOS15"):
    arguments = {"exclude_padding_from_average": exclude} if op == "avg_pool" else {}
    attributes = {"count_include_pad": int(not exclude)} if op == "avg_pool" else {"p": 2} if op == "l2_pool" else {}
    attributes |= {"auto_pad": "SAME_LOWER" if lower else "SAME_UPPER", "strides": strides, "kernel_shape": kernel}
    return Case(
        op,
        opset,
        lambda x: getattr(mb, op)(
            x=x, kernel_sizes=kernel, strides=strides, pad_type="same_lower" if lower else "same", **arguments
        ),
        {"x": noise(1, 2, *size)},
        lambda x: ort(ORT[op], {"x": x}, **attributes),
        "onnxruntime",
        label,
    )


def ceiling(op, label, size, kernel, strides, pad, exclude=False):
    """As torch's ceil_mode."""
    extra = {"count_include_pad": not exclude} if op == "avg_pool" else {}
    arguments = {"exclude_padding_from_average": exclude} if op == "avg_pool" else {}
    return Case(
        op,
        "iOS15",
        lambda x: getattr(mb, op)(
            x=x, kernel_sizes=kernel, strides=strides, pad_type="custom", pad=np.repeat(pad, 2), ceil_mode=True, **arguments
        ),
        {"x": noise(2, 2, *size)},
        lambda x: TORCH[op, len(size)](torch.from_numpy(x).double(), kernel, strides, pad, ceil_mode=True, **extra),
        "torch",
        label,
    )


SPOILT = np.where(np.arange(36).reshape(1, 1, 6, 6) % 7 == 3, np.float32(-np.inf), noise(1, 1, 6, 6))

CASES = [
    maker(op, *rest)
    for op in REDUCE
    for maker, *rest in (
        (case, "1d", [7], [3]),
        (case, "2d", [6, 7], [2, 3], [2, 1]),
        (case, "2d-pad", [6, 7], [2, 3], [1, 2], [1, 1, 1, 1]),
        (case, "2d-asymmetric", [6, 7], [2, 3], [2, 2], [1, 0, 0, 2]),
        (case, "2d-pad-beyond-half", [4, 5], [4, 3], [2, 3], [3, 3, 2, 2]),
        (case, "1d-ceil", [8], [3], [2], None, None, True),
        (case, "2d-ceil-pad", [6, 7], [3, 2], [2, 3], [1, 1, 1, 1], None, True),
        (case, "1d-ceil-beyond-half-and-padding", [4], [5], [2], [3, 3], None, True),
        (case, "2d-ceil-pad-beyond-half", [7, 6], [3, 3], [2, 3], [2, 2, 2, 2], None, True),
        (same, "same-1d", [8], [4], [1]),
        (same, "same-2d", [7, 8], [3, 2], [2, 2]),
        (same, "same-2d-stride-beyond-kernel", [7, 8], [1, 2], [3, 3]),
        (same, "lower-1d", [8], [4], [1], True, False, "iOS16"),
        (same, "lower-2d", [7, 8], [2, 4], [1, 3], True, False, "iOS17"),
    )
]
CASES += [
    maker(op, *rest)
    for op in ("avg_pool", "max_pool")
    for maker, *rest in (
        (case, "3d", [4, 5, 6], [2, 3, 2], [1, 2, 3], [1, 1, 1, 1, 0, 0]),
        (case, "3d-asymmetric", [4, 5, 6], [2, 3, 2], [1, 2, 3], [1, 0, 0, 2, 1, 1]),
        (same, "same-3d", [4, 5, 6], [3, 2, 4], [2, 1, 3]),
        (same, "lower-3d", [4, 5, 6], [3, 2, 4], [2, 1, 3], True, False, "iOS18"),
        (ceiling, "torch-ceil-1d", [9], [4], [3], [1]),
        (ceiling, "torch-ceil-2d", [6, 9], [3, 4], [2, 3], [1, 2]),
        (ceiling, "torch-ceil-drops-a-window", [5, 4], [2, 2], [3, 2], [1, 1]),
    )
]
CASES += [
    case("avg_pool", "exclude-valid", [6, 7], [2, 3], [2, 1], None, True),
    case("avg_pool", "exclude-pad", [6, 7], [2, 3], [1, 2], [1, 1, 1, 1], True),
    case("avg_pool", "exclude-asymmetric", [6, 7], [2, 3], [2, 2], [1, 0, 0, 2], True),
    case("avg_pool", "exclude-beyond-half", [4, 5], [4, 3], [2, 3], [3, 3, 2, 2], True),
    case("avg_pool", "exclude-3d", [4, 5, 6], [2, 3, 2], [1, 2, 3], [1, 0, 0, 2, 1, 1], True),
    case("avg_pool", "exclude-1d", [7], [3], [1], [0, 2], True, opset="iOS17"),
    same("avg_pool", "exclude-same", [7, 8], [3, 2], [2, 1], exclude=True),
    same("avg_pool", "exclude-lower", [7, 8], [4, 2], [1, 1], lower=True, exclude=True, opset="iOS16"),
    ceiling("avg_pool", "exclude-ceil", [6, 9], [3, 4], [2, 3], [1, 2], exclude=True),
    case(
        "max_pool", "only-minus-infinity", [6, 6], [2, 2], [2, 2], [1, 0, 1, 0], values=np.full((1, 2, 6, 6), -np.inf, np.float32)
    ),
    case("max_pool", "infinities", [6, 6], [3, 2], [1, 1], [1, 1, 2, 0], values=SPOILT),
    case("max_pool", "negative-values", [4], [3], [1], [1, 1], values=-np.abs(noise(1, 1, 4))),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
def test_fp16_in_every_reading(op, precision, tmp_path):
    """Squares of 300 overflow fp16, their root does not."""
    x = (300 * noise(1, 2, 6, 6)).astype(np.float16)

    def build(x):
        x = mb.cast(x=x, dtype="fp16")
        return mb.cast(x=getattr(mb, op)(x=x, kernel_sizes=[2, 3], pad_type="custom", pad=[1, 0, 0, 2]), dtype="fp32")

    program = load(save(build, {"x": x.astype(np.float32)}, tmp_path), precision=precision)
    (found,) = program.predict({"x": x.astype(np.float32)}).values()
    wanted = defined(op, [2, 3], [1, 1], [1, 0, 0, 2])(x)
    limit = {"native": 1e-3, "emulate": 1e-3, "fp16-weights": 1e-6, "float64": 1e-7}[precision]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit * np.abs(wanted).max())


def test_sizes_known_at_run_time_only(tmp_path):
    """The padding and the divisors are made anew for every size."""
    kernel, strides = [3, 2], [2, 2]

    def build(x):
        return mb.avg_pool(x=x, kernel_sizes=kernel, strides=strides, pad_type="same", exclude_padding_from_average=True)

    program = load(save(build, {"x": ((1, 3, None, None), np.float32)}, tmp_path))
    for size in ((5, 6), (6, 6), (9, 5), (5, 6)):
        x = noise(1, 3, *size)
        wanted = ort("AveragePool", {"x": x}, auto_pad="SAME_UPPER", strides=strides, kernel_shape=kernel)
        np.testing.assert_allclose(*program.predict({"x": x}).values(), wanted, atol=1e-5)


def test_a_window_of_nothing_is_refused(tmp_path):
    """Without padding, coremltools declares a window more than torch: one that begins where the input ends."""
    path = save(
        lambda x: mb.max_pool(x=x, kernel_sizes=[1], strides=[3], pad_type="valid", ceil_mode=True), {"x": noise(1, 1, 6)}, tmp_path
    )
    with pytest.raises(UnsupportedError, match="covers nothing"):
        load(path).predict({"x": noise(1, 1, 6)})


@pytest.mark.parametrize("op", REDUCE)
def test_every_small_setting(op):
    """All sizes, kernels, strides and paddings of one dimension that give a window, with and without ceil_mode, exclusion."""
    from workbench.mil.ops import pools

    rng = np.random.default_rng(6)
    tried = 0
    for size, kernel, stride, front, back in product((3, 4, 6), (1, 2, 3, 5), (1, 2, 3), range(4), range(4)):
        for ceil, exclude in product((False, True), (False, True) if op == "avg_pool" else (False,)):
            if size + front + back < kernel or (ceil and front != back) or max(front, back) >= kernel:
                continue
            count = outputs(size, kernel, stride, front, back, ceil)
            if (count - 1) * stride >= size + front:  # begins beyond the input: see above
                continue
            x = torch.from_numpy(rng.standard_normal((1, 2, size)))
            extra = {"exclude_padding_from_average": exclude} if op == "avg_pool" else {}
            call = getattr(pools, op)(x, (kernel,), "custom", (stride,), (front, back), ceil_mode=ceil, **extra)
            wanted = defined(op, [kernel], [stride], [front, back], exclude, ceil)(x.numpy())
            np.testing.assert_allclose(
                call(x), wanted, atol=1e-12, err_msg=f"{size} {kernel} {stride} {front} {back} {ceil} {exclude}"
            )
            tried += 1
    assert tried > 100
