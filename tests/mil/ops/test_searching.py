"""Golden cases: sorting, the largest, what is not zero, one-hot, bands, running sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run, save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, load
from workbench.mil.registry import find_handler

RANDOM = np.random.default_rng(4)
X = RANDOM.standard_normal((3, 4, 5)).astype(np.float32)
TIES = RANDOM.integers(-2, 3, (3, 4, 50)).astype(np.int32)
WHOLE = RANDOM.permutation(np.arange(-30, 30, dtype=np.int32)).reshape(3, 4, 5)
HOLES = (X * (X > 0)).astype(np.float32)


def as_type(x, name):
    """Of a type that no model input has."""
    return mb.cast(x=x, dtype=name)


def by_inference(op, value, **given):
    build = lambda x: getattr(mb, op)(x=x, **given)  # noqa: E731
    return Case(op, "iOS15", build, {"x": value}, inferred(build), "value_inference", f"value_inference {given}")


def order(x, axis, ascending):
    """The lower index first among equals, also from the largest on."""
    return np.argsort(x if ascending else -x.astype(np.float64), axis=axis, kind="stable").astype(np.int32)


def sorting(value, axis, ascending, opset="iOS15", label=""):
    return Case(
        "argsort",
        opset,
        lambda x: mb.argsort(x=x, axis=axis, ascending=ascending),
        {"x": value},
        lambda x: order(x, axis, ascending),
        "numpy (stable)",
        f"{value.dtype} {axis} {ascending} {label}",
    )


SORTS = [
    Case("argsort", "iOS15", lambda x: mb.argsort(x=x), {"x": X}, lambda x: order(x, -1, False), "numpy", "defaults"),
    sorting(X, 0, True),
    sorting(X, -2, False),
    sorting(TIES, -1, True, label="equals"),
    sorting(TIES, -1, False, label="equals"),
    sorting(X.astype(np.float16), 1, True, "iOS16"),
    by_inference("argsort", X, axis=1, ascending=True),
]


def top(value, k, axis, ascending=False, opset="iOS15", kind=None, **given):
    """``kind``: the type that the op sees; the indices of one that is not int32 are cast back."""

    def expected(x):
        places = order(x, axis, ascending).take(np.arange(x.shape[axis] if k == -1 else k), axis)
        values = np.take_along_axis(x, places, axis)
        return (values, places) if given.get("return_indices", True) else values

    def build(x):
        found = mb.topk(x=as_type(x, kind) if kind else x, k=k, axis=axis, ascending=ascending, **given)
        found = found if isinstance(found, tuple | list) else (found,)
        values = as_type(found[0], "int32") if kind else found[0]
        uint16 = given.get("output_indices_dtype") == "uint16"
        return (values, *(as_type(places, "int32") if uint16 else places for places in found[1:]))

    label = f"{kind or value.dtype} k {k} axis {axis}{' ascending' if ascending else ''} {given or ''}"
    return Case("topk", opset, build, {"x": value}, expected, "numpy (stable)", label)


TOPS = [
    Case("topk", "iOS15", lambda x: mb.topk(x=x), {"x": X}, lambda x: (x.max(-1, keepdims=True), x.argmax(-1)[..., None]), "numpy", "defaults"),
    Case("topk", "iOS15", lambda x: mb.topk(x=x, k=3, axis=1), {"x": X}, lambda x: tuple(part.numpy() for part in torch.topk(torch.from_numpy(x), 3, 1)), "torch"),
    top(X, 2, 0, True),
    top(X, 5, -1),
    top(X, 1, -2, True),
    top(WHOLE, 3, 2),
    top(TIES, 7, -1),
    top(TIES, 7, -1, True),
    top(TIES, 1, -1),
    top(TIES, 1, 2, True),
    by_inference("topk", X, k=2, axis=-1),
    top(X, 3, -1, False, "iOS16", sort=True, return_indices=False),
    top(X, 2, 1, True, "iOS16", sort=True, return_indices=True),
    top(X.astype(np.float16), 3, -1, False, "iOS16"),
    top(X, 2, -1, True, "iOS17", output_indices_dtype="int32"),
    top(X, np.int8(2), -1, False, "iOS17", output_indices_dtype="uint16"),
    top(X, np.int16(2), 0, False, "iOS17", return_indices=False),
    top(WHOLE, 3, -1, False, "iOS17", "int8"),
    top(WHOLE + 200, 3, -1, True, "iOS17", "uint8"),
    top(WHOLE + 60000, 2, 1, False, "iOS17", "uint16", output_indices_dtype="uint16"),
    top(WHOLE - 20000, 2, 1, True, "iOS17", "int16"),
]  # fmt: skip


def hot(value, size, axis, on=None, off=None):
    """As TensorFlow documents it, element by element; an index out of range is nowhere."""
    given = {name: constant for name, constant in (("on_value", on), ("off_value", off)) if constant is not None}

    def expected(x):
        kind = np.int32 if on is None else np.asarray(on).dtype
        out = np.full((*x.shape, size), 0 if off is None else off, kind)
        for place in np.ndindex(x.shape):
            if 0 <= x[place] < size:
                out[(*place, x[place])] = 1 if on is None else on
        return np.moveaxis(out, -1, axis)

    build = lambda x: mb.one_hot(indices=x, one_hot_vector_size=size, axis=axis, **given)  # noqa: E731
    return Case(
        "one_hot",
        "iOS16" if isinstance(on, np.float16) else "iOS15",
        build,
        {"x": value},
        expected,
        "definition (TensorFlow)",
        f"rank {value.ndim} axis {axis} {given}",
    )


PLACES = np.array([[0, 3, 1], [2, -1, 4]], np.int32)
HOTS = [
    hot(PLACES, 4, -1),
    hot(PLACES, 5, 0, np.float32(1.5), np.float32(-2)),
    hot(PLACES, 4, 1, np.int32(7), np.int32(-7)),
    hot(PLACES, 4, -3, np.float16(0.1), np.float16(0)),
    hot(PLACES, 4, 2, np.float32(1), np.float32(0)),
    hot(PLACES[0], 4, -2, np.float32(1), np.float32(0)),
    Case("one_hot", "iOS15", lambda x: mb.cast(x=mb.one_hot(indices=x, one_hot_vector_size=4, on_value=False, off_value=True), dtype="int32"), {"x": PLACES}, lambda x: 1 - (x[..., None] == np.arange(4)), "numpy", "bool"),
    # The published example of the layer: OneHotLayerParams in coremltools mlmodel/format/NeuralNetwork.proto.
    Case("one_hot", "iOS15", lambda x: mb.one_hot(indices=x, one_hot_vector_size=4, on_value=5, off_value=-1), {"x": np.array([2, -1], np.int32)}, lambda x: np.array([[-1, -1, 5, -1], [-1, -1, -1, -1]]), "NeuralNetwork.proto", "published"),
]  # fmt: skip
NOT_ZERO = [
    Case("non_zero", "iOS15", lambda x: mb.non_zero(x=x), {"x": HOLES}, lambda x: np.argwhere(x).astype(np.int32), "numpy"),
    Case("non_zero", "iOS15", lambda x: mb.non_zero(x=x), {"x": TIES[0, 0]}, lambda x: np.argwhere(x).astype(np.int32), "numpy", "int32, rank 1"),
    Case("non_zero", "iOS15", lambda x: mb.non_zero(x=mb.less(x=x, y=np.float32(0))), {"x": X}, lambda x: np.argwhere(x < 0).astype(np.int32), "numpy", "bool"),
    Case("non_zero", "iOS16", lambda x: mb.non_zero(x=x), {"x": HOLES.astype(np.float16)}, lambda x: np.argwhere(x).astype(np.int32), "numpy", "fp16"),
]  # fmt: skip


def band(x, lower, upper):
    """The definition in the op's documentation, with nothing left outside the band."""
    out = np.zeros_like(x)
    for m, n in np.ndindex(x.shape[-2:]):
        if (lower < 0 or m - n <= lower) and (upper < 0 or n - m <= upper):
            out[..., m, n] = x[..., m, n]
    return out


BANDS = [
    Case("band_part", "iOS15", lambda x, a=lower, b=upper: mb.band_part(x=x, lower=a, upper=b), {"x": value}, lambda x, a=lower, b=upper: band(x, a, b), "definition", f"{value.dtype} {lower} {upper}")
    for value, lower, upper in ((X, 0, -1), (X, -1, 0), (X, 0, 0), (X, 1, 2), (X, 2, 0), (X, -1, -1), (WHOLE, 1, 1), (X[0], -1, 3), (X, 9, 9))
] + [
    Case("band_part", "iOS15", lambda x: mb.band_part(x=x), {"x": X}, lambda x: x, "definition", "defaults"),
    Case("band_part", "iOS15", lambda x: mb.band_part(x=mb.add(x=x, y=np.float32(-np.inf)), lower=0, upper=0), {"x": HOLES[0]}, lambda x: band(np.full_like(x, -np.inf), 0, 0), "definition", "infinities outside"),
    Case("band_part", "iOS15", lambda x: mb.cast(x=mb.band_part(x=mb.greater(x=x, y=np.float32(0)), lower=1, upper=0), dtype="int32"), {"x": X}, lambda x: band((x > 0).astype(np.int32), 1, 0), "definition", "bool"),
    by_inference("band_part", X, lower=1, upper=0),
]  # fmt: skip


def running(value, axis, exclusive, backwards):
    """In float64, from the definition: what comes before (or after), with or without the element itself."""

    def expected(x):
        x = np.moveaxis(x, axis, 0)
        exact = x.astype(np.float64)
        sums = []
        for i in range(len(x)):
            first = i + exclusive if backwards else 0
            last = len(x) if backwards else i + 1 - exclusive
            sums.append(exact[first:last].sum(0))
        return np.moveaxis(np.array(sums), 0, axis).astype(x.dtype)

    build = lambda x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=backwards)  # noqa: E731
    opset = "iOS16" if value.dtype == np.float16 else "iOS15"
    label = f"{value.dtype} {axis}{' exclusive' if exclusive else ''}{' reverse' if backwards else ''}"
    return Case(
        "cumsum",
        opset,
        build,
        {"x": value},
        expected,
        "definition in float64",
        label,
        tolerance=1e-3 if value.dtype == np.float16 else 2e-6,
    )


SUMS = [
    running(value, axis, exclusive, backwards)
    for value, axis in ((X, 0), (X, 2), (X, -1), (WHOLE, 1), (X.astype(np.float16), 1))
    for exclusive in (False, True)
    for backwards in (False, True)
] + [
    Case("cumsum", "iOS15", lambda x: mb.cumsum(x=x), {"x": X}, lambda x: np.cumsum(x, 0), "numpy", "defaults"),
    by_inference("cumsum", X, axis=1, reverse=True),
]  # fmt: skip
CASES = SORTS + TOPS + HOTS + NOT_ZERO + BANDS + SUMS
CASES += [
    replace(case, label=f"{case.label} {reading}", options={"precision": reading})
    for case in CASES
    for reading in ("emulate", "fp16-weights")
    if case.opset == "iOS16" and "16" in case.label
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
def test_unsorted_the_largest_are_those_of_any_order(opset, tmp_path):
    values, places = run(lambda x: mb.topk(x=x, k=3, axis=-1, sort=False), {"x": X}, tmp_path, since=opset)
    np.testing.assert_array_equal(np.sort(values), np.sort(X)[..., -3:])
    np.testing.assert_array_equal(np.take_along_axis(X, places, -1), values)


@pytest.mark.parametrize("flags, expected", [
    ((False, False), [4, 10, 17]), ((True, False), [0, 4, 10]), ((False, True), [17, 13, 7]), ((True, True), [13, 7, 0]),
])  # fmt: skip
def test_the_published_running_sums(flags, expected, tmp_path):
    """Printed at CumSumLayerParams in coremltools mlmodel/format/NeuralNetwork.proto, commit e0e2f42."""
    x = np.array([4, 6, 7], np.float32)
    (found,) = run(lambda x: mb.cumsum(x=x, axis=0, exclusive=flags[0], reverse=flags[1]), {"x": x}, tmp_path)
    np.testing.assert_array_equal(found, expected)


def test_a_one_hot_that_would_not_fit_is_refused(tmp_path):
    build = lambda x: mb.one_hot(indices=x, one_hot_vector_size=mb.reduce_max(x=x))  # noqa: E731
    program = load(save(build, {"x": ((None,), np.int32)}, tmp_path), memory_bytes=1 << 20)
    assert next(iter(program.predict({"x": np.array([1, 2, 3], np.int32)}).values())).shape == (3, 3)
    with pytest.raises(ExecutionError, match="bytes"):
        program.predict({"x": np.array([1, 2, 1 << 20], np.int32)})


def test_minus_one_is_all_of_them():
    """Called directly: coremltools documents k = -1 for iOS17, and cannot save it (it declares a dimension of -1)."""
    values, places = find_handler("topk", "iOS17").function(torch.from_numpy(X), k=-1, axis=1)
    np.testing.assert_array_equal(values.numpy(), -np.sort(-X, 1))
    np.testing.assert_array_equal(places.numpy(), order(X, 1, False))
