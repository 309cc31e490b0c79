"""Golden cases: concat, stack, split, tile, fill, ranges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run, save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, load

RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
B = RANDOM.standard_normal((2, 5, 4)).astype(np.float32)
C = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
WHOLE = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)


def as_type(x, name):
    """Of a type that no model input has."""
    return mb.cast(x=x, dtype=name)


def interleaved(axis, *values):
    """As coremltools documents it: out[i::n] = values[i]."""
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    out = np.empty(shape, values[0].dtype)
    for number, value in enumerate(values):
        where = [slice(None)] * out.ndim
        where[axis] = slice(number, None, len(values))
        out[tuple(where)] = value
    return out


CONCATS = [
    Case("concat", "iOS15", lambda a, b: mb.concat(values=(a, b), axis=1), {"a": A, "b": B}, lambda a, b: np.concatenate((a, b), 1), "numpy"),
    Case("concat", "iOS15", lambda a, b: mb.concat(values=(a, b, a), axis=-2), {"a": A, "b": B}, lambda a, b: np.concatenate((a, b, a), -2), "numpy", "three, negative axis"),
    Case("concat", "iOS15", lambda a: mb.concat(values=(a,), axis=0), {"a": A}, lambda a: a, "numpy", "one"),
    Case("concat", "iOS15", lambda a: mb.concat(values=(a, np.ones((2, 3, 1), np.float32)), axis=2), {"a": A}, lambda a: np.concatenate((a, np.ones((2, 3, 1), np.float32)), 2), "numpy", "constant"),
    Case("concat", "iOS15", lambda a, b: mb.concat(values=(a, b), axis=-1), {"a": WHOLE, "b": WHOLE + 50}, lambda a, b: np.concatenate((a, b), -1), "numpy", "int32"),
    Case("concat", "iOS16", lambda a, b: mb.concat(values=(a, b), axis=1), {"a": A.astype(np.float16), "b": B.astype(np.float16)}, lambda a, b: np.concatenate((a, b), 1), "numpy", "fp16"),
    Case("concat", "iOS15", lambda a, b: mb.cast(x=mb.concat(values=(mb.greater(x=a, y=b), mb.less(x=a, y=b)), axis=0), dtype="int32"), {"a": A, "b": C}, lambda a, b: np.concatenate((a > b, a < b)).astype(np.int32), "numpy", "bool"),
    Case("concat", "iOS15", lambda a, b: mb.concat(values=(mb.reduce_max(x=a), mb.reduce_min(x=a), mb.reduce_max(x=b)), axis=0), {"a": A, "b": B}, lambda a, b: np.array([a.max(), a.min(), b.max()]), "numpy", "scalars"),
    Case("concat", "iOS17", lambda a, b: as_type(mb.concat(values=(as_type(a, "uint16"), as_type(b, "uint16")), axis=0), "int32"), {"a": WHOLE + 40000, "b": WHOLE + 65000}, lambda a, b: np.concatenate((a, b)), "numpy", "uint16"),
] + [
    Case(
        "concat",
        "iOS15",
        lambda a, b, axis=axis: mb.concat(values=(a, b, a), axis=axis, interleave=True),
        {"a": A, "b": C},
        lambda a, b, axis=axis: interleaved(axis, a, b, a),
        "numpy",
        f"interleave axis {axis}",
    )
    for axis in (0, 1, -1)
]  # fmt: skip
STACKS = [
    Case("stack", "iOS15", lambda a, b, axis=axis: mb.stack(values=(a, b), axis=axis), {"a": A, "b": C}, lambda a, b, axis=axis: np.stack((a, b), axis), "numpy", f"axis {axis}")
    for axis in (0, 2, 3, -1, -3)
] + [
    Case("stack", "iOS15", lambda a: mb.stack(values=(mb.reduce_max(x=a), mb.reduce_min(x=a)), axis=0), {"a": WHOLE}, lambda a: np.array([a.max(), a.min()]), "numpy", "scalars"),
    Case("stack", "iOS17", lambda a: as_type(mb.stack(values=(as_type(a, "int8"), as_type(a, "int8")), axis=1), "int32"), {"a": WHOLE}, lambda a: np.stack((a, a), 1), "numpy", "int8"),
]  # fmt: skip
SPLITS = [
    Case("split", "iOS15", lambda x: mb.split(x=x, num_splits=2, axis=-1), {"x": A}, lambda x: tuple(np.split(x, 2, -1)), "numpy", "even"),
    Case("split", "iOS15", lambda x: mb.split(x=x, num_splits=3, axis=1), {"x": WHOLE}, inferred(lambda x: mb.split(x=x, num_splits=3, axis=1)), "value_inference", "even int32"),
    Case("split", "iOS15", lambda x: mb.split(x=x, split_sizes=np.array([1, 3, 1], np.int32), axis=-2), {"x": B}, lambda x: tuple(np.split(x, [1, 4], -2)), "numpy", "sizes"),
    Case("split", "iOS15", lambda x: mb.split(x=x, num_splits=2, split_sizes=np.array([4, 1], np.int32), axis=1), {"x": B}, lambda x: tuple(np.split(x, [4], 1)), "numpy", "both"),
    Case("split", "iOS15", lambda x: mb.split(x=x, num_splits=1, axis=0), {"x": A}, lambda x: x, "numpy", "one"),
    Case("split", "iOS15", lambda x: tuple(as_type(part, "int32") for part in mb.split(x=mb.greater(x=x, y=np.int32(0)), num_splits=2, axis=0)), {"x": WHOLE}, lambda x: tuple((part > 0).astype(np.int32) for part in np.split(x, 2)), "numpy", "bool"),
]  # fmt: skip
TILES = [
    Case("tile", "iOS15", lambda x, reps=reps: mb.tile(x=x, reps=np.array(reps, np.int32)), {"x": value}, lambda x, reps=reps: np.tile(x, reps), "numpy", f"{value.dtype} {value.shape} by {reps}")
    for value, reps in ((A, (2, 1, 3)), (A, (1, 1, 1)), (A[:, :1], (1, 4, 1)), (A[:, :1], (2, 4, 1)), (WHOLE, (1, 2, 2)), (A[0, 0], (3,)))
] + [
    Case("tile", "iOS15", lambda x: mb.cast(x=mb.tile(x=mb.greater(x=x, y=np.float32(0)), reps=[1, 2, 1]), dtype="int32"), {"x": A}, lambda x: np.tile(x > 0, (1, 2, 1)).astype(np.int32), "numpy", "bool"),
    Case("tile", "iOS16", lambda x: mb.tile(x=x, reps=[3, 1, 1]), {"x": A.astype(np.float16)}, lambda x: np.tile(x, (3, 1, 1)), "numpy", "fp16"),
]  # fmt: skip


FILLS = [
    Case("fill", "iOS15", lambda x: mb.add(x=mb.fill(shape=np.array([2, 3, 4], np.int32)), y=x), {"x": A}, lambda x: x, "numpy", "default"),
    Case("fill", "iOS15", lambda x: mb.add(x=mb.fill(shape=mb.shape(x=x), value=np.float32(1.5)), y=x), {"x": A}, lambda x: x + np.float32(1.5), "numpy", "fp32"),
    Case("fill", "iOS15", lambda x: mb.add(x=mb.fill(shape=mb.shape(x=x), value=np.int32(-7)), y=x), {"x": WHOLE}, lambda x: x - 7, "numpy", "int32"),
    Case("fill", "iOS15", lambda x: mb.add(x=mb.cast(x=mb.fill(shape=mb.shape(x=x), value=True), dtype="int32"), y=x), {"x": WHOLE}, lambda x: x + 1, "numpy", "bool"),
    Case("fill", "iOS16", lambda x: mb.add(x=mb.fill(shape=mb.shape(x=x), value=np.float16(0.1)), y=x), {"x": A.astype(np.float16)}, lambda x: x + np.float16(0.1), "numpy", "fp16"),
    Case("fill_like", "iOS16", lambda x: mb.fill_like(ref_tensor=x), {"x": A}, lambda x: np.zeros(x.shape, np.float32), "numpy", "default"),
    Case("fill_like", "iOS16", lambda x: mb.fill_like(ref_tensor=x, value=np.int32(3)), {"x": A}, lambda x: np.full(x.shape, 3, np.int32), "numpy", "the type is the value's"),
    Case("fill_like", "iOS16", lambda x: mb.fill_like(ref_tensor=x, value=np.float32(-0.25)), {"x": WHOLE}, lambda x: np.full(x.shape, -0.25, np.float32), "numpy", "fp32 of int32"),
    Case("fill_like", "iOS16", lambda x: mb.cast(x=mb.fill_like(ref_tensor=x, value=True), dtype="int32"), {"x": A}, lambda x: np.ones(x.shape, np.int32), "numpy", "bool"),
    Case("fill_like", "iOS16", lambda x: mb.fill_like(ref_tensor=x, value=np.float16(0.1)), {"x": A}, lambda x: np.full(x.shape, 0.1, np.float16), "numpy", "fp16"),
]  # fmt: skip


def ranged(kind, start, end, step):
    """A range from the input, so that it is computed at every call: x holds start and 0."""
    return Case(
        "range_1d",
        "iOS16" if kind is np.float16 else "iOS15",
        lambda x: mb.range_1d(start=mb.reduce_sum(x=x, axes=[0], keep_dims=False), end=kind(end), step=kind(step)),
        {"x": np.array([start, 0], kind)},
        # numpy decides the length in the type too; the elements are one rounding of the exact ones.
        lambda x: (start + np.arange(len(np.arange(kind(start), kind(end), kind(step)))) * np.float64(kind(step))).astype(kind),
        "numpy",
        f"{kind.__name__} {start}..{end} by {step}",
    )


RANGES = [
    ranged(np.int32, 0, 7, 1),
    ranged(np.int32, -3, 8, 3),
    ranged(np.int32, 9, -2, -4),
    ranged(np.int32, 5, 5, 1),
    ranged(np.int32, 16777217, 16777221, 1),
    ranged(np.float32, 0.0, 0.3, 0.1),
    ranged(np.float32, 0.5, 4.0, 0.7),
    ranged(np.float32, 1.0, -1.0, -0.25),
    ranged(np.float16, 0.0, 0.3, 0.1),
    ranged(np.float16, 1.0, 3.0, 0.5),
]
CASES = CONCATS + STACKS + SPLITS + TILES + FILLS + RANGES
CASES += [
    replace(case, label=f"{case.label} {reading}", options={"precision": reading})
    for case in CASES
    for reading in ("emulate", "fp16-weights")
    if case.opset == "iOS16" and "16" in case.label
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_the_length_of_a_range_is_that_of_its_type(tmp_path):
    """(0.3 - 0) / 0.1 is 3 in fp32; of the stored values it is a little more, and a range in float64 would have 4."""
    (constant,) = run(
        lambda x: mb.add(x=mb.range_1d(start=np.float32(0), end=np.float32(0.3), step=np.float32(0.1)), y=x),
        {"x": np.zeros(3, np.float32)},
        tmp_path,
    )
    np.testing.assert_array_equal(constant, np.arange(3) * np.float32(0.1))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: mb.fill(shape=mb.mul(x=mb.shape(x=x), y=np.int32(1 << 16))),
        lambda x: mb.tile(x=x, reps=mb.mul(x=mb.shape(x=x), y=np.int32(1 << 16))),
        lambda x: mb.range_1d(start=np.float32(0), step=np.float32(1e-9), end=mb.reduce_max(x=x)),
    ],
    ids=("fill", "tile", "range_1d"),
)
def test_what_would_not_fit_is_refused(build, tmp_path):
    program = load(save(build, {"x": ((None, None), np.float32)}, tmp_path), memory_bytes=1 << 20)
    with pytest.raises(ExecutionError, match="bytes"):
        program.predict({"x": np.ones((2, 2), np.float32)})


def test_a_range_without_end_is_refused(tmp_path):
    program = load(
        save(lambda x: mb.range_1d(start=np.int32(0), end=np.int32(3), step=mb.reduce_max(x=x)), {"x": ((2,), np.int32)}, tmp_path)
    )
    with pytest.raises(ExecutionError, match="no range"):
        program.predict({"x": np.array([-1, 0], np.int32)})
