"""Golden cases: scatters. The witness applies one update after another in double precision (in whole numbers for integers)."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, UnsupportedError, load
from workbench.mil.ops.scatters import scatter as handler
from workbench.mil.registry import Context

DRAW = np.random.default_rng(12)
DATA = DRAW.standard_normal((3, 4, 5)).astype(np.float32)
WHOLE = DRAW.integers(-50, 50, (3, 4, 5)).astype(np.int32)
MODES = ("add", "div", "max", "min", "mul", "sub", "update")
COMBINE = {
    "add": lambda old, new: old + new,
    "div": lambda old, new: old / new if old.dtype.kind == "f" else np.trunc(old / new).astype(old.dtype),
    "max": np.maximum,
    "min": np.minimum,
    "mul": lambda old, new: old * new,
    "sub": lambda old, new: old - new,
    "update": lambda old, new: new,
}


def _values(shape, kind=np.float32):
    """No zeros: there is division."""
    if kind == np.int32:
        return (DRAW.integers(1, 7, shape) * DRAW.choice([-1, 1], shape)).astype(np.int32)
    return (DRAW.uniform(0.5, 2.0, shape) * DRAW.choice([-1, 1], shape)).astype(np.float32)


def _wide(data):
    return data.astype(np.float64 if data.dtype.kind == "f" else np.int64)


def one_by_one(data, indices, updates, axis, mode):
    out, updates = np.moveaxis(_wide(data), axis, 0).copy(), np.moveaxis(_wide(updates), axis, 0)
    for place, new in zip(indices, updates, strict=True):
        out[place] = COMBINE[mode](out[place], new)
    return np.moveaxis(out, 0, axis).astype(data.dtype)


def one_by_one_along(data, indices, updates, axis, mode):
    out, updates = _wide(data), _wide(updates)
    for at in np.ndindex(indices.shape):
        place = list(at)
        place[axis] = indices[at]
        out[tuple(place)] = COMBINE[mode](out[tuple(place)], updates[at])
    return out.astype(data.dtype)


def one_by_one_nd(data, indices, updates, mode):
    out, updates = _wide(data), _wide(updates)
    for at in np.ndindex(indices.shape[:-1]):
        place = tuple(int(k) for k in indices[at])
        out[place] = COMBINE[mode](out[place], updates[at])
    return out.astype(data.dtype)


def scatter(opset, axis, indices, mode, label, data=DATA, **flags):
    """``mode`` None: left to the default. Positions meet except for ``update``, whose order is not defined."""
    indices = np.array(indices, np.int32)
    shape = [*data.shape]
    shape[axis] = len(indices)
    given = flags if mode is None else {"mode": mode, **flags}
    return Case(
        "scatter",
        opset,
        lambda data, indices, updates: mb.scatter(data=data, indices=indices, updates=updates, axis=np.int32(axis), **given),
        {"data": data, "indices": indices, "updates": _values(shape, data.dtype.type)},
        lambda data, indices, updates: one_by_one(data, indices, updates, axis, mode or "add"),
        "numpy, one by one",
        f"{label}-{mode}",
    )


def _meeting(mode, axis=0):
    return [1, -1] if mode == "update" else [1, -1, 1, 1]


SCATTERS = [scatter("iOS15", 0, _meeting(mode), mode, "axis0") for mode in (*MODES, None)]
SCATTERS += [scatter("iOS15", -1, _meeting(mode), mode, "integers", WHOLE) for mode in MODES]
SCATTERS += [scatter("iOS15", 1, [], "add", "nothing"), scatter("iOS15", 0, [2, 0, 2], "add", "vector", DATA[:, 0, 0])]
SCATTERS += [
    scatter("iOS17", 1, [0, 3, 0] if mode not in (None, "update") else [3, 0], mode, "validated", validate_indices=True)
    for mode in (*MODES, None)
]
SCATTERS += [scatter("iOS17", 2, [0, 3, 0], "add", "unvalidated", validate_indices=False)]
SCATTERS += [  # Core ML's LSTM of the torch front end: the index is a scalar, the updates lack the axis
    Case(
        "scatter",
        "iOS15",
        lambda data, place, updates: mb.scatter(
            data=data, indices=mb.gather(x=place, indices=np.int32(0)), updates=updates, axis=1
        ),
        {"data": DATA, "place": np.array([2], np.int32), "updates": _values((3, 5))},
        lambda data, place, updates: one_by_one(data, place, updates[:, None], 1, "add"),
        "numpy, one by one",
        "scalar-index",
    )
]


def along(opset, axis, count, mode, label, data=DATA, **flags):
    shape = [*data.shape]
    shape[axis] = count
    length = data.shape[axis]
    order = np.argsort(DRAW.random([*data.shape]), axis)  # every position once
    indices = np.take(order, range(count), axis) if mode == "update" else DRAW.integers(0, length, shape)
    if opset == "iOS15":
        indices = indices - np.where(DRAW.random(indices.shape) < 0.3, length, 0)
    given = flags if mode is None else {"mode": mode, **flags}
    return Case(
        "scatter_along_axis",
        opset,
        lambda data, indices, updates: mb.scatter_along_axis(
            data=data, indices=indices, updates=updates, axis=np.int32(axis), **given
        ),
        {"data": data, "indices": indices.astype(np.int32), "updates": _values(shape, data.dtype.type)},
        lambda data, indices, updates: one_by_one_along(data, indices, updates, axis, mode or "add"),
        "numpy, one by one",
        f"{label}-{mode}",
    )


ALONG = [along("iOS15", 0, 3, mode, "axis0") for mode in (*MODES, None)]
ALONG += [along("iOS15", -1, 4, mode, "integers", WHOLE) for mode in MODES]
ALONG += [along("iOS15", 1, 9, "add", "longer-than-the-axis")]
ALONG += [along("iOS17", -2, 3, mode, "validated", validate_indices=True) for mode in (*MODES, None)]
ALONG += [along("iOS17", 0, 2, "mul", "unvalidated", validate_indices=False)]


def _written(data):
    return mb.scatter_along_axis(
        data=data, indices=np.array([[1], [0], [-1]], np.int32), updates=np.float32([[7], [8], [9]]), axis=1, mode="update"
    )


ALONG += [Case("scatter_along_axis", "iOS15", _written, {"data": DATA[:, :, 0]}, inferred(_written), "value_inference", "constant")]


def nd(opset, indices, mode, label, data=DATA, **flags):
    indices = np.array(indices, np.int32)
    shape = indices.shape[:-1] + data.shape[indices.shape[-1] :]
    given = flags if mode is None else {"mode": mode, **flags}
    return Case(
        "scatter_nd",
        opset,
        lambda data, indices, updates: mb.scatter_nd(data=data, indices=indices, updates=updates, **given),
        {"data": data, "indices": indices, "updates": _values(shape, data.dtype.type)},
        lambda data, indices, updates: one_by_one_nd(data, indices, updates, mode or "add"),
        "numpy, one by one",
        f"{label}-{mode}",
    )


PAIRS = [[[0, 1], [2, -1]], [[0, 1], [-3, 1]]]
APART = [[[0, 1], [2, -1]], [[1, 1], [-3, 0]]]
SCATTERS_ND = [nd("iOS15", APART if mode == "update" else PAIRS, mode, "rows") for mode in (*MODES, None)]
SCATTERS_ND += [nd("iOS15", [[1], [0]] if mode == "update" else [[1], [0], [1]], mode, "integers", WHOLE) for mode in MODES]
SCATTERS_ND += [nd("iOS15", [[0, 1, 2], [0, 1, 2], [2, 3, 4]], "add", "elements"), nd("iOS15", [1, 3], "sub", "one-vector")]
SCATTERS_ND += [
    nd("iOS17", [[2, 3], [1, 1]] if mode == "update" else [[2, 3], [1, 1], [2, 3]], mode, "validated", validate_indices=True)
    for mode in (*MODES, None)
]
SCATTERS_ND += [nd("iOS17", [[2], [2]], "min", "unvalidated", validate_indices=False)]

CASES = SCATTERS + ALONG + SCATTERS_ND


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


OPS = {
    "scatter": lambda data, indices, updates, **flags: mb.scatter(data=data, indices=indices, updates=updates, axis=1, **flags),
    "scatter_along_axis": lambda data, indices, updates, **flags: mb.scatter_along_axis(
        data=data, indices=indices, updates=updates, axis=1, **flags
    ),
    "scatter_nd": lambda data, indices, updates, **flags: mb.scatter_nd(
        data=data, indices=mb.concat(values=(np.array([[0]], np.int32), indices), axis=1), updates=updates, **flags
    ),
}


def _program(op, flags, folder, since):
    data = DATA[:, :, 0]
    shapes = {"scatter": ((1,), (3, 1)), "scatter_along_axis": ((3, 1), (3, 1)), "scatter_nd": ((1, 1), (1,))}
    indices, updates = (np.ones(shape, kind) for shape, kind in zip(shapes[op], (np.int32, np.float32), strict=True))
    build = lambda data, indices, updates: OPS[op](data, indices, updates, **flags)  # noqa: E731
    program = load(save(build, {"data": data, "indices": indices, "updates": updates}, folder, since=since))

    def run(place):
        (found,) = program.predict({"data": data, "indices": indices * place, "updates": updates}).values()
        return found

    return run


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("since", "flags"), [("iOS15", {}), ("iOS17", {}), ("iOS17", {"validate_indices": True})])
def test_an_index_past_the_end_is_an_error(op, since, flags, tmp_path):
    run = _program(op, flags, tmp_path, since)
    run(3)
    with pytest.raises(ExecutionError, match="from 4 to 4 for an axis of length 4"):
        run(4)


@pytest.mark.parametrize("op", OPS)
def test_a_negative_index_is_an_error_only_where_indices_are_validated(op, tmp_path):
    (tmp_path / "strict").mkdir()
    strict = _program(op, {"validate_indices": True}, tmp_path / "strict", "iOS17")
    with pytest.raises(ExecutionError, match="validate_indices"):
        strict(-1)
    free = _program(op, {}, tmp_path, "iOS17")
    np.testing.assert_array_equal(free(-1), free(3))
    with pytest.raises(ExecutionError, match="no such elements"):
        free(-5)


def test_a_mode_that_is_not_known_is_refused():
    import torch

    context = Context("iOS15", torch.float16, torch.device("cpu"), torch.Generator())
    with pytest.raises(UnsupportedError, match="'xor'"):
        handler(torch.zeros(2), torch.zeros(1, dtype=torch.int32), torch.zeros(1), context, 0, "xor")
