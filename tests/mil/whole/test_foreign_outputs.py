"""Outputs as only foreign programs have them: their order, kinds, repetition, and shapes that nothing declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as pb

from tests.mil.whole.byhand import const, function, kind, op, save, value
from tests.mil.whole.test_foreign_programs import F23, X, results
from workbench.mil import ShapeWarning, load


def test_outputs_of_one_shape_in_another_order(tmp_path: Path) -> None:
    """The description lists them in another order than the program does: each keeps its value, the description's order is the caller's."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    for name, number in (("c", 1), ("a", 2), ("b", 3)):
        op(block, "add", {name: F23}, x="x", y=np.float32(number))
    block.outputs.extend(["b", "c", "a"])
    found = results(program, tmp_path, outputs=["a", "b", "c"])
    assert list(found) == ["a", "b", "c"]
    for name, number in (("c", 1), ("a", 2), ("b", 3)):
        np.testing.assert_array_equal(found[name], X + np.float32(number))


def test_an_input_a_constant_and_one_value_twice(tmp_path: Path) -> None:
    """Returned as they are: an input, a constant, a value that is another's identity; and what a caller does to one reaches no other."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23, "idle": kind("int32", 4)})
    const(block, "fixed", np.float32([[1, 2]]))
    op(block, "exp", {"y": F23}, x="x")
    op(block, "identity", {"again": F23}, x="y")
    op(block, "log", {"dead": F23}, x="y")
    block.outputs.extend(["x", "fixed", "y", "again"])
    loaded = load(save(program, tmp_path))
    given = {"x": X.copy(), "idle": np.zeros(4, np.int32)}
    for _ in range(3):
        found = loaded.predict(given)
        np.testing.assert_array_equal(found["x"], X)
        np.testing.assert_array_equal(found["fixed"], [[1, 2]])
        np.testing.assert_allclose(found["y"], np.exp(X), rtol=1e-6)
        np.testing.assert_array_equal(found["again"], found["y"])
        for name in ("x", "fixed", "y"):
            found[name][...] = -1
        assert (found["again"] != -1).all()
    np.testing.assert_array_equal(given["x"], X)


def test_kinds_that_converters_cast_away(tmp_path: Path) -> None:
    """bool, int8, uint16, fp16 and scalars of rank 0 as outputs, each in its own type."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    op(block, "greater", {"flags": kind("bool", 2, 3)}, x="x", y=np.float32(0))
    op(block, "reduce_max", {"most": kind("fp32")}, x="x", axes=np.int32([0, 1]), keep_dims=np.bool_(False))
    op(block, "cast", {"half": kind("fp16", 2, 3)}, x="x", dtype=value("fp16"))
    op(block, "mul", {"tens": F23}, x="x", y=np.float32(10))
    op(block, "cast", {"small": kind("int8", 2, 3)}, x="tens", dtype=value("int8"))
    op(block, "abs", {"sizes": F23}, x="tens")
    op(block, "cast", {"wide": kind("uint16", 2, 3)}, x="sizes", dtype=value("uint16"))
    block.outputs.extend(["flags", "most", "half", "small", "wide"])
    found = results(program, tmp_path)
    wanted = {
        "flags": X > 0,
        "most": X.max(),
        "half": X.astype(np.float16),
        "small": np.trunc(X * np.float32(10)).astype(np.int8),
        "wide": np.trunc(np.abs(X * np.float32(10))).astype(np.uint16),
    }
    for name, each in wanted.items():
        np.testing.assert_array_equal(found[name], each)
        assert found[name].dtype == each.dtype and found[name].shape == each.shape, name


@pytest.mark.parametrize("rank", [True, False], ids=["sizes-unknown", "ranks-unknown"])
def test_no_shape_is_declared_anywhere(tmp_path: Path, rank: bool) -> None:
    """One program for every size, when neither its inputs nor any value says how large it is."""
    unknown = [kind("fp32", *[None] * count, rank=rank) if rank else kind("fp32", rank=False) for count in (2, 1, 2)]
    program = pb.Program(version=1)
    block = function(program, {"x": unknown[0]})
    op(block, "reduce_sum", {"sums": unknown[1]}, x="x", axes=np.int32([-1]), keep_dims=np.bool_(False))
    op(block, "shape", {"sizes": kind("int32", None) if rank else kind("int32", rank=False)}, x="x")
    op(block, "fill", {"ones": unknown[2]}, shape="sizes", value=np.float32(1))
    op(block, "add", {"more": unknown[2]}, x="ones", y="x")
    op(block, "matmul", {"square": unknown[2]}, x="x", y="more", transpose_y=np.bool_(True))
    block.outputs.extend(["sums", "square"])
    loaded = load(save(program, tmp_path))
    for shape in ((2, 3), (5, 1), (2, 3), (1, 9)):
        x = np.random.default_rng(shape[0]).standard_normal(shape).astype(np.float32)
        for _ in range(2):
            found = loaded.predict({"x": x})
            np.testing.assert_allclose(found["sums"], x.sum(-1), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["square"], x @ (x + 1).T, rtol=1e-5, atol=1e-5)


def test_a_shape_declared_wrong_is_said(tmp_path: Path) -> None:
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    op(block, "transpose", {"out": F23}, x="x", perm=np.int32([1, 0]))
    block.outputs.append("out")
    with pytest.warns(ShapeWarning, match="'out' the shape"):
        found = load(save(program, tmp_path)).predict({"x": X})
    np.testing.assert_array_equal(found["out"], X.T)


def test_several_functions_in_one_program(tmp_path: Path) -> None:
    """Of different opsets, inputs and names, none of them ``main``, by hand."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23}, name="twice", opset="CoreML5")
    op(block, "add", {"out": F23}, x="x", y="x")
    block.outputs.append("out")
    block = function(program, {"left": F23, "right": F23}, name="le produit", opset="CoreML8")
    op(block, "mul", {"out": F23}, x="left", y="right")
    block.outputs.append("out")
    path = save(program, tmp_path)
    twice, product = load(path, function="twice"), load(path, function="le produit")
    assert (twice.opset, product.opset) == ("iOS15", "iOS18")
    np.testing.assert_array_equal(twice.predict({"x": X})["out"], X + X)
    np.testing.assert_array_equal(product.predict({"left": X, "right": X - 1})["out"], X * (X - 1))
