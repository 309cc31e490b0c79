"""Golden cases: reshape and its kin, the order of dimensions, shapes."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import load

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
ONES = RANDOM.standard_normal((1, 3, 1, 4, 1)).astype(np.float32)
WHOLE = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)


def as_type(x, name):
    """Of a type that no model input has."""
    return mb.cast(x=x, dtype=name)


def typed(op, opset, name, value, expected, **given):
    """A case whose op sees integers of type ``name``."""
    return Case(
        op, opset, lambda x: as_type(getattr(mb, op)(x=as_type(x, name), **given), "int32"), {"x": value}, expected, "numpy", name
    )


def plain(op, value, expected, label="", opset="iOS15", **given):
    return Case(op, opset, lambda x: getattr(mb, op)(x=x, **given), {"x": value}, expected, "numpy", label)


def by_inference(op, value, opset="iOS15", **given):
    build = lambda x: getattr(mb, op)(x=x, **given)  # noqa: E731
    return Case(op, opset, build, {"x": value}, inferred(build), "value_inference", f"value_inference {given}")


RESHAPES = [
    plain("reshape", X, lambda x: x.reshape(4, 6), "plain", shape=[4, 6]),
    plain("reshape", X, lambda x: x.reshape(4, 2, 3), "-1", shape=[4, -1, 3]),
    plain("reshape", X, lambda x: x.reshape(2, 12, 1), "0 and -1", shape=[0, -1, 1]),
    plain("reshape", X, lambda x: x.reshape(2, 3, 4), "0 everywhere", shape=[0, 0, 0]),
    plain("reshape", WHOLE, lambda x: x.reshape(-1), "int32", shape=[-1]),
    plain("reshape", X.astype(np.float16), lambda x: x.reshape(6, 4), "fp16", "iOS16", shape=[6, 4]),
    plain("reshape", X, lambda x: x.reshape(1, 6, 1, 4), "0 from the right, more", "iOS17", shape=[1, -1, 1, 0]),
    plain("reshape", X[0], lambda x: x.reshape(1, 1, 3, 4), "0 out of range is 1", "iOS17", shape=[1, 0, -1, 0]),
    plain("reshape", X, lambda x: x.reshape(6, 4), "0 from the right, fewer", "iOS17", shape=[-1, 0]),
    plain("reshape", X[:, :, :3], lambda x: x.reshape(3, 2, 3), "0 of another dimension", "iOS17", shape=[3, -1, 0]),
    plain("reshape", X[:, :2], lambda x: x.reshape(1, 2, 2, 4), "0s", "iOS17", shape=[0, 2, 0, 0]),
    plain("reshape", X, lambda x: x.reshape(2, 2, 6), "no 0", "iOS17", shape=[2, 2, -1]),
    typed("reshape", "iOS17", "int8", WHOLE, lambda x: x.reshape(4, 6), shape=np.array([4, -1], np.int8)),
    typed("reshape", "iOS17", "uint16", WHOLE + 60000, lambda x: x.reshape(4, 6), shape=np.array([4, -1], np.int16)),
    by_inference("reshape", X, shape=[0, -1, 2]),
]  # fmt: skip


def reshaped_like(x, references, begins, ends, masks, opset="iOS16", name=None):
    """The shape is what the op documents."""
    target = [n for r, b, e, m in zip(references, begins, ends, masks, strict=True) for n in (r.shape[b:] if m else r.shape[b:e])]

    def build(x, **others):
        given = {"begins": tuple(map(np.int32, begins)), "ends": tuple(map(np.int32, ends)), "end_masks": masks}
        found = mb.reshape_like(x=as_type(x, name) if name else x, ref_tensors=tuple(others.values()), **given)
        return as_type(found, "int32") if name else found

    arrays = {"x": x} | {f"r{number}": value for number, value in enumerate(references)}
    return Case("reshape_like", opset, build, arrays, lambda x, **others: x.reshape(target), "definition", f"{target} {name}")


LIKES = [
    reshaped_like(X, (np.zeros((2, 3, 9), np.float32), np.zeros((5, 4), np.float32)), (0, 1), (2, 0), (False, True)),
    reshaped_like(X, (np.zeros((6, 4), np.int32),), (0,), (0,), (True,)),
    reshaped_like(X, (np.zeros((7, 4, 6), np.float32),), (-2,), (3,), (False,)),
    reshaped_like(WHOLE, (np.zeros((5, 8), np.float32), np.zeros((3, 3, 2), np.int32)), (-1, 0), (0, -2), (True, False)),
    reshaped_like(WHOLE, (np.zeros((8, 3), np.float32),), (0,), (2,), (False,), "iOS17", "int8"),
]
SIZES = [
    plain("flatten2d", X, lambda x: x.reshape(2, 12), "default"),
    *(plain("flatten2d", X, lambda x, n=n: x.reshape(n, -1), f"axis {axis}", axis=axis) for axis, n in ((0, 1), (2, 6), (-1, 6), (-3, 1))),
    plain("flatten2d", X[0, 0], lambda x: x.reshape(1, 4), "rank 1", axis=-1),
    plain("flatten2d", X[0, 0], lambda x: x.reshape(4, 1), "rank 1 before", axis=1),
    plain("expand_dims", X, lambda x: np.expand_dims(x, 0), "first", axes=[0]),
    plain("expand_dims", X[0], lambda x: x[:, None, :, None, None], "three", axes=[3, 1, -1]),
    plain("expand_dims", X, lambda x: np.expand_dims(x, (-2, -5)), "negative", axes=[-2, -5]),
    by_inference("expand_dims", WHOLE, axes=[-1, 1]),
    typed("expand_dims", "iOS17", "uint8", WHOLE + 100, lambda x: x[:, None], axes=[1]),
    plain("squeeze", ONES, lambda x: x.reshape(3, 4), "all"),
    plain("squeeze", ONES, lambda x: x.reshape(3, 1, 4), "two", axes=[0, -1]),
    plain("squeeze", ONES, lambda x: x.reshape(3, 1, 4, 1), "a larger one stays", axes=[0, 1]),
    plain("squeeze", ONES[:, 0, :, 0], lambda x: x.reshape(()), "to a scalar"),
    by_inference("squeeze", ONES, axes=[2]),
    typed("squeeze", "iOS17", "int8", WHOLE[:, :1], lambda x: x[:, 0], axes=[1]),
    plain("shape", X, lambda x: np.array([2, 3, 4], np.int32), "fp32"),
    plain("shape", WHOLE[0], lambda x: np.array([3, 4], np.int32), "int32"),
    by_inference("shape", ONES),
]  # fmt: skip
ORDERS = [
    plain("transpose", X, lambda x: x.transpose(2, 0, 1), "plain", perm=[2, 0, 1]),
    plain("transpose", X, lambda x: x.transpose(-1, 1, -3), "negative", perm=[-1, 1, -3]),
    plain("transpose", ONES, lambda x: x.transpose(4, 3, 2, 1, 0), "rank 5", perm=[4, 3, 2, 1, 0]),
    plain("transpose", X.astype(np.float16), lambda x: x.transpose(1, 0, 2), "fp16", "iOS16", perm=[1, 0, 2]),
    by_inference("transpose", WHOLE, perm=[1, 2, 0]),
    typed("transpose", "iOS17", "uint16", WHOLE + 60000, lambda x: x.transpose(0, 2, 1), perm=[0, 2, 1]),
    plain("identity", X, lambda x: x, "fp32"),
    plain("identity", WHOLE, lambda x: x, "int32"),
    Case("identity", "iOS15", lambda x: mb.cast(x=mb.identity(x=mb.greater(x=x, y=np.float32(0))), dtype="int32"), {"x": X}, lambda x: (x > 0).astype(np.int32), "numpy", "bool"),
]  # fmt: skip
CASES = RESHAPES + LIKES + SIZES + ORDERS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("op", ["reshape", "transpose", "identity"])
def test_moved_values_are_never_rounded(op, tmp_path):
    """float64: what is moved keeps all its digits."""
    given = {"reshape": {"shape": [4, 6]}, "transpose": {"perm": [0, 2, 1]}, "identity": {}}[op]
    program = load(save(lambda x: getattr(mb, op)(x=x, **given), {"x": X}, tmp_path), precision="float64")
    (found,) = program.run({"x": program.tensors({"x": X})["x"] + 1e-12}).values()
    assert (np.sort(found.numpy().ravel()) - np.sort(X.ravel().astype(np.float64)) > 5e-13).all()
