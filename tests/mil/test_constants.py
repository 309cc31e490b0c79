"""Constants as numbers and exchanged: the values that the ops read, and a program that computes with others."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.test_compressed import palettised, saved
from workbench.mil import MilError, load
from workbench.mil.constants import dense, with_constants
from workbench.mil.weights import weight_table

W = np.random.default_rng(5).normal(size=(48, 48)).astype(np.float32)
X = np.random.default_rng(6).normal(size=(2, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    def build(x):
        weight = mb.const(val=W, name="weight")
        turned = mb.while_loop(
            _cond=lambda n, v: mb.less(x=n, y=np.int32(2)),
            _body=lambda n, v: (mb.add(x=n, y=np.int32(1)), mb.linear(x=v, weight=mb.const(val=W + 1, name="inner"), name="a")),
            loop_vars=(np.int32(0), x),
        )[1]
        return mb.linear(x=turned, weight=weight, name="y")

    return save(build, {"x": X}, tmp_path_factory.mktemp("constants"), since="iOS18")


@pytest.fixture(scope="module")
def compressed(plain, tmp_path_factory):
    import coremltools as ct

    model = palettised(nbits=4)(ct.models.MLModel(str(plain), skip_model_load=True))
    return saved(model, tmp_path_factory.mktemp("constants") / "small.mlpackage")


def expected(inner, weight):
    return X.astype(np.float64) @ inner.T.astype(np.float64) @ inner.T.astype(np.float64) @ weight.T.astype(np.float64)


def test_constants_as_the_ops_read_them(plain, compressed):
    np.testing.assert_array_equal(dense(load(plain), "weight"), W)
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    decompressed = cto.decompress_weights(ct.models.MLModel(str(compressed), skip_model_load=True))
    held = {
        str(op.outputs[0].name): op.outputs[0].val
        for op in decompressed._mil_program.functions["main"].operations
        if op.op_type == "const"
    }
    program = load(compressed)
    (name,) = [row.name for row in weight_table(program.function) if row.name.startswith("weight")]
    np.testing.assert_array_equal(dense(program, name), held[name])
    assert len(np.unique(dense(program, name))) == 16


def test_looking_keeps_nothing_and_a_copy_is_given(plain):
    program = load(plain)
    cell = program._block.cells["weight"]
    cell._made, cell._value = False, None
    dense(program, "weight")[:] = 0
    assert not cell._made
    np.testing.assert_allclose(program.predict({"x": X})["y"], expected(W + 1, W), rtol=1e-4)


def test_other_constants_here_in_a_loop_and_in_place_of_compressed_ones(plain, compressed):
    program = load(plain)
    other = np.flip(W).copy()
    np.testing.assert_allclose(with_constants(program, {"weight": other}).predict({"x": X})["y"], expected(W + 1, other), rtol=1e-4)
    both = with_constants(program, {"weight": other, "inner": W})
    np.testing.assert_allclose(both.predict({"x": X})["y"], expected(W, other), rtol=1e-3)
    np.testing.assert_allclose(program.predict({"x": X})["y"], expected(W + 1, W), rtol=1e-4)  # as it was
    assert with_constants(program, {}) is program
    small = load(compressed)
    names = [row.name for row in weight_table(small.function)]
    (name,) = [name for name in names if name.startswith("weight")]
    (inner,) = [name for name in names if name != name.replace("inner", "")]
    found = with_constants(small, {name: W, inner: W + 1})
    np.testing.assert_array_equal(found.predict({"x": X})["y"], program.predict({"x": X})["y"])
    assert {row.kind for row in weight_table(found.function)} == {"none"}


def test_what_cannot_be_exchanged(plain):
    program = load(plain)
    for values, words in (
        ({"weigth": W}, "there is no constant 'weigth'"),
        ({"weight": W[:4]}, r"the value given has the shape \[4, 48\]"),
        ({"y": W}, "there is no constant 'y'|'y' is no constant"),
    ):
        with pytest.raises(MilError, match=words):
            with_constants(program, values)
    with pytest.raises(MilError, match="no constant 'weigth' of numbers"):
        dense(program, "weigth")
