"""Golden cases: products of matrices, against numpy in float64 and coremltools' value_inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from tests.mil.ops.test_convolution import noise
from workbench.mil import UnsupportedError, load
from workbench.mil.ops.linear import _integer_product, einsum
from workbench.mil.ops.linear import matmul as product

RNG = np.random.default_rng(2)


def integers(*shape, limit=1000):
    return RNG.integers(-limit, limit, shape).astype(np.int32)


def linear(label, x, weight, bias=None, opset="iOS15"):
    given = {"weight": weight} | ({} if bias is None else {"bias": bias})

    def expected(x):
        wide = np.int64 if x.dtype.kind == "i" else np.float64
        result = x.astype(wide) @ weight.T.astype(wide)
        return (result if bias is None else result + bias.astype(wide)).astype(wide if wide is np.float64 else np.int32)

    return Case("linear", opset, lambda x: mb.linear(x=x, **given), {"x": x}, expected, "numpy", label)


def matmul(label, x, y, opset="iOS15", **flags):
    def expected(x, y):
        wide = np.int64 if x.dtype.kind == "i" else np.float64
        x, y = x.astype(wide), y.astype(wide)
        x = np.swapaxes(x, -1, -2) if flags.get("transpose_x") else x
        y = np.swapaxes(y, -1, -2) if flags.get("transpose_y") else y
        return (x @ y).astype(np.int32) if wide is np.int64 else x @ y

    return Case("matmul", opset, lambda x, y: mb.matmul(x=x, y=y, **flags), {"x": x, "y": y}, expected, "numpy", label)


def constant(label, x, y, opset, swap=False):
    """One side constant and of another type."""
    build = (lambda x: mb.matmul(x=y, y=x)) if swap else (lambda x: mb.matmul(x=x, y=y))
    expected = lambda x: np.float64(y) @ x if swap else x @ np.float64(y)  # noqa: E731
    return Case("matmul", opset, build, {"x": x}, expected, "numpy", label)


def einsum_case(label, equation, x, y, opset="iOS15", source="numpy"):
    build = lambda x, y: mb.einsum(values=(x, y), equation=equation)  # noqa: E731
    expected = inferred(build) if source == "value_inference" else lambda x, y: np.einsum(equation, np.float64(x), np.float64(y))
    return Case("einsum", opset, build, {"x": x, "y": y}, expected, source, label)


CASES = [
    linear("rank-1", noise(5), noise(3, 5), noise(3)),
    linear("rank-2", noise(4, 5), noise(3, 5)),
    linear("rank-3", noise(2, 4, 5), noise(3, 5), noise(3)),
    linear("rank-4", noise(2, 1, 4, 5), noise(3, 5), noise(3)),
    linear("int32", integers(4, 5), integers(3, 5), integers(3)),
    linear("int32-wraps", integers(4, 5, limit=1 << 30), integers(3, 5, limit=1 << 30)),
    linear("ios17", noise(4, 5), noise(3, 5), noise(3), "iOS17"),
    linear("mixed-types", noise(2, 4, 5), noise(3, 5, dtype=np.float16), noise(3, dtype=np.float16), "iOS17"),
    linear("integer-weight", noise(4, 5), integers(3, 5, limit=9), integers(3, limit=9), "iOS17"),
    matmul("2d", noise(3, 4), noise(4, 5)),
    matmul("transposed-x", noise(4, 3), noise(4, 5), transpose_x=True),
    matmul("transposed-y", noise(3, 4), noise(5, 4), transpose_y=True),
    matmul("transposed-both", noise(2, 4, 3), noise(2, 5, 4), transpose_x=True, transpose_y=True),
    matmul("broadcast-ranks", noise(3, 4, 2), noise(5, 3, 2, 6)),
    matmul("broadcast-ones", noise(1, 3, 4, 2), noise(5, 1, 2, 6)),
    matmul("vector-left", noise(4), noise(4, 5)),
    matmul("vector-left-transposed", noise(4), noise(5, 4), transpose_y=True),
    matmul("rank-5", noise(1, 2, 1, 3, 4), noise(2, 1, 3, 4, 2), "iOS16"),
    matmul("int32", integers(2, 3, 4), integers(4, 5)),
    matmul("int32-wraps", integers(3, 4, limit=1 << 30), integers(4, 2, limit=1 << 30), "iOS17"),
    matmul("infinite", np.float32([[np.inf, 1, 5], [0, -np.inf, 2]]), noise(3, 2) ** 2 + 1),
    matmul("ios17", noise(2, 3, 4), noise(2, 5, 4), "iOS17", transpose_y=True),
    constant("constant-fp16-right", noise(3, 4), noise(4, 5, dtype=np.float16), "iOS17"),
    constant("constant-fp16-left", noise(4, 5), noise(3, 4, dtype=np.float16), "iOS17", swap=True),
    constant("constant-int32-right", noise(3, 4), integers(4, 5), "iOS17"),
    einsum_case("rank-4", "nchw,nwhu->nchu", noise(2, 3, 4, 5), noise(2, 5, 4, 6)),
    einsum_case("rank-4-letters", "bhqk,bkqd->bhqd", noise(2, 3, 4, 5), noise(2, 5, 4, 6)),
    einsum_case("rank-4-broadcast", "nchw,nwhu->nchu", noise(1, 3, 4, 5), noise(2, 5, 1, 6), source="value_inference"),
    einsum_case("rank-4-broadcast-other", "nchw,nwhu->nchu", noise(2, 3, 1, 5), noise(1, 5, 4, 6), "iOS18"),
    einsum_case("rank-3", "chw,whr->chr", noise(3, 4, 5), noise(5, 4, 6)),
    einsum_case("rank-3-broadcast", "abc,cbd->abd", noise(3, 1, 5), noise(5, 4, 6), "iOS17", "value_inference"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


BUILDS = {
    "linear": lambda x, y: mb.linear(x=x, weight=np.swapaxes(y, 0, 1), bias=np.float16([1, -2, 300])),
    "matmul": lambda x, y: mb.matmul(x=x, y=y),
    "einsum": lambda x, y: mb.einsum(values=(mb.expand_dims(x=x, axes=[1]), y[:, None]), equation="chw,whr->chr"),
}


@pytest.mark.parametrize("op", BUILDS)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
def test_fp16_in_every_reading(op, rows, precision, tmp_path):
    """Sums of products are wider than fp16 in each reading: only their result is rounded."""
    x, y = noise(rows, 700, dtype=np.float16), noise(700, 3, dtype=np.float16)
    build = BUILDS[op]
    path = save(lambda x: mb.cast(x=build(mb.cast(x=x, dtype="fp16"), y), dtype="fp32"), {"x": x.astype(np.float32)}, tmp_path)
    (found,) = load(path, precision=precision).predict({"x": x.astype(np.float32)}).values()
    wanted = np.float64(x) @ np.float64(y) + (np.float64([1, -2, 300]) if op == "linear" else 0)
    limit = {"native": 1e-3, "emulate": 1e-3, "fp16-weights": 2e-6, "float64": 2e-7}[precision]
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=limit, atol=limit * 30)


@pytest.mark.parametrize(
    ("left", "right"), [((4,), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((5, 1, 3, 4), (2, 4, 6)), ((3, 4), (4, 2))], ids=str
)
def test_integers_where_the_device_has_no_product(left, right):
    """What CUDA gets in place of matmul, on values whose sums leave int32."""
    x, y = integers(*left, limit=1 << 31), integers(*right, limit=1 << 31)
    found = _integer_product(torch.from_numpy(x), torch.from_numpy(y))
    wanted = (x.astype(np.int64) @ y.astype(np.int64)).astype(np.int32)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == torch.int32


@pytest.mark.parametrize(
    ("left", "right", "flags"),
    [((4,), (3, 4, 5), {}), ((2, 3, 4), (4,), {"transpose_y": True}), ((4,), (4,), {"transpose_x": True})],
)
def test_vectors_that_coremltools_cannot_declare(left, right, flags):
    """Its type inference takes the wrong dimension off, or fails; the docstring of matmul is numpy's rule."""
    x, y = noise(*left), noise(*right)
    found = product(torch.from_numpy(x), torch.from_numpy(y), **flags)
    np.testing.assert_allclose(found, np.float64(x) @ np.float64(y), atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "nchw,nwhu->nuhc", "nchw,nchw->nchw", "chw,whr"])
def test_other_equations_are_refused(equation):
    with pytest.raises(UnsupportedError, match="einsum"):
        einsum((torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), equation)
