"""Golden cases: gathers. The witnesses are numpy's take, take_along_axis and plain loops; coremltools' value_inference where it has one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, load

DRAW = np.random.default_rng(11)
X = DRAW.standard_normal((3, 4, 5)).astype(np.float32)
WHOLE = DRAW.integers(-100, 100, (3, 4, 5)).astype(np.int32)
SHAPES = {"vector": (4,), "matrix": (2, 3), "empty": (0,)}


def _indices(shape, length, low=None):
    return DRAW.integers(-length if low is None else low, length, shape).astype(np.int32)


def _take(x, indices, axis, batch_dims=0):
    """numpy's take, batch by batch."""
    if batch_dims == 0:
        return np.take(x, indices, axis)
    axis = axis % x.ndim - 1
    return np.stack([_take(one, other, axis, batch_dims - 1) for one, other in zip(x, indices, strict=True)])


def _take_nd(x, indices, batch_dims=0):
    """Every index vector on its own."""
    if batch_dims:
        return np.stack([_take_nd(one, other, batch_dims - 1) for one, other in zip(x, indices, strict=True)])
    places = indices.reshape(-1, indices.shape[-1])
    taken = [x[tuple(int(k) for k in place)] for place in places]
    return np.array(taken, x.dtype).reshape(indices.shape[:-1] + x.shape[indices.shape[-1] :])


def gather(opset, axis, label, inputs=None, expected=None, **flags):
    inputs = inputs or {"x": X, "indices": _indices((2, 3), X.shape[axis])}
    build = lambda x, indices: mb.gather(x=x, indices=indices, axis=np.int32(axis), **flags)  # noqa: E731
    expected = expected or (lambda x, indices: _take(x, indices, axis, int(flags.get("batch_dims", 0))))
    return Case("gather", opset, build, inputs, expected, "numpy take", label)


GATHERS = [
    gather("iOS15", axis, f"axis{axis}-{name}", {"x": X, "indices": _indices(shape, X.shape[axis])})
    for axis, name, shape in [
        (axis, name, shape) for axis in (0, 1, -1) for name, shape in SHAPES.items() if (axis, name) != (1, "empty")
    ]
]
GATHERS += [  # a scalar index of the run is itself an element of a vector
    Case(
        "gather",
        "iOS15",
        lambda x, indices, axis=axis: mb.gather(x=x, indices=mb.gather(x=indices, indices=np.int32(1)), axis=np.int32(axis)),
        {"x": X, "indices": np.array([0, -2], np.int32)},
        lambda x, indices, axis=axis: np.take(x, indices[1], axis),
        "numpy take",
        f"axis{axis}-scalar",
    )
    for axis in (0, 1, -1)
]
GATHERS += [
    gather("iOS15", 1, "integers", {"x": WHOLE, "indices": _indices((2, 2), 4)}),
    gather("iOS15", 0, "one-dimension", {"x": X[0, 0], "indices": np.array([-1, 0, 4], np.int32)}),
    gather("iOS15", -2, "axis-2", {"x": X, "indices": _indices((3,), 4)}),
    Case(
        "gather",
        "iOS15",
        lambda x: mb.gather(x=x, indices=np.array([[1, -3], [0, 1]], np.int32), axis=-1),
        {"x": X},
        inferred(lambda x: mb.gather(x=x, indices=np.array([[1, -3], [0, 1]], np.int32), axis=-1)),
        "value_inference",
        "constant-indices",
    ),
    Case(
        "gather",
        "iOS15",
        lambda indices: mb.gather(x=X, indices=indices),
        {"indices": _indices((1, 6), 3, 0)},
        lambda indices: (
            torch.nn.functional.embedding(torch.from_numpy(indices), torch.from_numpy(X.reshape(3, 20))).view(1, 6, 4, 5).numpy()
        ),
        "torch embedding",
        "defaults",
    ),
    Case(
        "gather",
        "iOS15",
        lambda x: mb.gather(x=mb.shape(x=x), indices=np.int32(-1)),
        {"x": X},
        lambda x: np.int32(x.shape[-1]),
        "numpy",
        "of-a-shape",
    ),
]
GATHERS += [
    gather(
        "iOS16", axis, f"batch{batch_dims}-axis{axis}", {"x": X, "indices": _indices(shape, X.shape[axis])}, batch_dims=batch_dims
    )
    for batch_dims, axis, shape in [
        (0, 1, (2, 2)),
        (1, 1, (3, 2)),
        (1, -1, (3, 2)),
        (1, 2, (3,)),
        (1, 2, (3, 2, 2)),
        (2, 2, (3, 4, 2)),
        (2, -1, (3, 4)),
    ]
]
GATHERS += [
    Case(
        "gather",
        opset,
        lambda x, kind=kind: mb.gather(x=x, indices=np.array([[2, 0, 1], [1, 1, 0]]).astype(kind), axis=1, batch_dims=0),
        {"x": X},
        lambda x: np.take(x, [[2, 0, 1], [1, 1, 0]], 1),
        "numpy take",
        f"{np.dtype(kind).name}-indices",
    )
    for opset, kinds in (("iOS16", (np.int16, np.uint16)), ("iOS17", (np.int8, np.uint8, np.int16, np.uint16)))
    for kind in kinds
]
GATHERS += [
    gather("iOS17", 1, f"validate-{flag}", {"x": X, "indices": _indices((3, 2), 4, 0)}, batch_dims=1, validate_indices=flag)
    for flag in (True, False)
]
GATHERS += [
    Case(
        "gather",
        "iOS17",
        lambda x, indices, kind=kind: mb.cast(
            x=mb.gather(x=mb.cast(x=x, dtype=kind), indices=mb.cast(x=indices, dtype="uint8"), axis=2, validate_indices=True),
            dtype="int32",
        ),
        {"x": np.abs(WHOLE), "indices": np.array([4, 0, 0, 2], np.int32)},
        lambda x, indices: np.take(x, indices, 2),
        "numpy take",
        f"{kind}-values",
    )
    for kind in ("int8", "uint8", "int16", "uint16")
] + [  # 300 elements: the length does not fit the indices' type
    Case(
        "gather",
        "iOS17",
        lambda x, indices: mb.gather(x=x, indices=mb.cast(x=indices, dtype="int8"), axis=0),
        {"x": DRAW.standard_normal((300, 2)).astype(np.float32), "indices": np.array([127, 0, 99], np.int32)},
        lambda x, indices: x[indices],
        "numpy take",
        "int8-indices-of-a-long-axis",
    )
]


def _along(shape, axis, low=None):
    length = X.shape[axis]
    sizes = list(X.shape)
    sizes[axis] = shape
    return _indices(sizes, length, low)


ALONG = [
    Case(
        "gather_along_axis",
        opset,
        lambda x, indices, axis=axis, flags=flags: mb.gather_along_axis(x=x, indices=indices, axis=np.int32(axis), **flags),
        {"x": x, "indices": _along(count, axis, low)},
        lambda x, indices, axis=axis: np.take_along_axis(x, indices, axis),
        "numpy take_along_axis",
        label,
    )
    for opset, axis, count, x, low, flags, label in [
        ("iOS15", 0, 3, X, None, {}, "same-size"),
        ("iOS15", -1, 8, X, None, {}, "longer"),
        ("iOS15", 1, 1, WHOLE, None, {}, "shorter-integers"),
        ("iOS17", -2, 6, X, 0, {"validate_indices": True}, "validated"),
        ("iOS17", 2, 2, WHOLE, 0, {}, "unvalidated"),
    ]
] + [
    Case(
        "gather_along_axis",
        opset,
        build,
        {"x": X[:, :, 0]},
        inferred(build, opset),
        "value_inference",
        f"{np.dtype(kind).name}-indices",
    )
    for opset, kind in (("iOS16", np.int16), ("iOS16", np.uint16), ("iOS17", np.uint8), ("iOS17", np.int8))
    for build in [lambda x, kind=kind: mb.gather_along_axis(x=x, indices=np.array([[0, 2, 1, 1]], kind))]
]

ND = [
    Case(
        "gather_nd",
        opset,
        lambda x, indices, flags=flags: mb.gather_nd(x=x, indices=indices, **flags),
        {"x": x, "indices": np.stack([_indices(lead, length, low) for length in sizes], -1)},
        lambda x, indices, flags=flags: _take_nd(x, indices, int(flags.get("batch_dims", 0))),
        "numpy indexing",
        label,
    )
    for opset, x, lead, sizes, low, flags, label in [
        ("iOS15", X, (6,), (3,), None, {}, "slices"),
        ("iOS15", X, (2, 2), (3, 4), None, {}, "rows"),
        ("iOS15", WHOLE, (2, 1, 3), (3, 4, 5), None, {}, "elements"),
        ("iOS15", X, (), (3, 4), None, {}, "one-vector"),
        ("iOS15", X, (), (3, 4, 5), None, {}, "one-element"),
        ("iOS16", X, (3, 2), (4,), None, {"batch_dims": np.int32(1)}, "batch1-rows"),
        ("iOS16", X, (3,), (4, 5), None, {"batch_dims": np.int32(1)}, "batch1-one-vector"),
        ("iOS16", X, (3, 4, 2), (5,), None, {"batch_dims": np.int32(2)}, "batch2"),
        ("iOS16", X, (2, 2), (3, 4), None, {"batch_dims": np.int32(0)}, "batch0"),
        ("iOS17", X, (2, 2), (3, 4), 0, {"validate_indices": True}, "validated"),
        ("iOS17", WHOLE, (3, 4, 1), (5,), 0, {"batch_dims": np.int32(2), "validate_indices": True}, "batch2-validated"),
    ]
] + [
    Case(
        "gather_nd",
        opset,
        lambda x, kind=kind: mb.gather_nd(x=x, indices=np.array([[2, 3], [0, 1]]).astype(kind)),
        {"x": X},
        lambda x: x[[2, 0], [3, 1]],
        "numpy indexing",
        f"{np.dtype(kind).name}-indices",
    )
    for opset, kinds in (("iOS16", (np.int16, np.uint16)), ("iOS17", (np.int8, np.uint8)))
    for kind in kinds
]

CASES = GATHERS + ALONG + ND


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


OPS = {
    "gather": (lambda x, indices, **flags: mb.gather(x=x, indices=indices, axis=1, **flags), 4),
    "gather_along_axis": (lambda x, indices, **flags: mb.gather_along_axis(x=x, indices=indices, axis=0, **flags), 3),
    "gather_nd": (lambda x, indices, **flags: mb.gather_nd(x=x, indices=indices, **flags), 3),
}


def _program(op, flags, folder, since):
    indices = np.zeros((1, 4, 5) if op == "gather_along_axis" else (2, 1), np.int32)
    build = lambda x, indices: OPS[op][0](x, indices, **flags)  # noqa: E731
    return load(save(build, {"x": X, "indices": indices}, folder, since=since)), indices


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("since", "flags"), [("iOS15", {}), ("iOS17", {}), ("iOS17", {"validate_indices": True})])
def test_an_index_past_the_end_is_an_error(op, since, flags, tmp_path):
    program, indices = _program(op, flags, tmp_path, since)
    length = OPS[op][1]
    program.predict({"x": X, "indices": indices + length - 1})
    with pytest.raises(ExecutionError, match=f"from {length} to {length} for an axis of length {length}"):
        program.predict({"x": X, "indices": indices + length})


@pytest.mark.parametrize("op", OPS)
def test_a_negative_index_is_an_error_only_where_indices_are_validated(op, tmp_path):
    (tmp_path / "strict").mkdir()
    strict, indices = _program(op, {"validate_indices": True}, tmp_path / "strict", "iOS17")
    with pytest.raises(ExecutionError, match="validate_indices"):
        strict.predict({"x": X, "indices": indices - 1})
    free, _ = _program(op, {}, tmp_path, "iOS17")
    (last,) = free.predict({"x": X, "indices": indices - 1}).values()
    (same,) = free.predict({"x": X, "indices": indices + OPS[op][1] - 1}).values()
    np.testing.assert_array_equal(last, same)
    with pytest.raises(ExecutionError, match="no such elements"):
        free.predict({"x": X, "indices": indices - OPS[op][1] - 1})


def test_halves_are_moved_unchanged_in_every_reading(tmp_path):
    build = lambda x, indices: mb.cast(x=mb.gather(x=mb.cast(x=x, dtype="fp16"), indices=indices, axis=0), dtype="fp32")  # noqa: E731
    path = save(build, {"x": X, "indices": np.array([2, 0], np.int32)}, tmp_path, since="iOS16")
    for precision in ("native", "emulate", "fp16-weights"):
        (found,) = load(path, precision=precision).predict({"x": X, "indices": np.array([2, 0], np.int32)}).values()
        wanted = X if precision == "fp16-weights" else X.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found, wanted[[2, 0]])
