"""The table of weights: what is stored, in how many bytes, who reads it, and what was left as it is."""

from __future__ import annotations

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.test_compressed import RECIPES, converted, palettised, saved
from workbench.mil import load
from workbench.mil.blob import WeightFile
from workbench.mil.weights import Reader, left_out, summary, weight_table

WIDE, NARROW, ROWS = (64, 64, 3), (64, 16, 3), (96, 64)
N = 64 * 64 * 3

# recipe -> kind and bytes of the wide convolution by the definition, given how many of its values are not 0.
STORED = {
    ("iOS18", "int8-per_tensor-linear_symmetric"): ("int8", lambda k: N + 2),
    ("iOS18", "int8-per_channel-linear"): ("int8", lambda k: N + 64 * (2 + 1)),
    ("iOS18", "int4-block32-linear_symmetric"): ("int4-block32", lambda k: N // 2 + 64 * 2 * 2),
    ("iOS18", "uint4-block8"): ("uint4-block8", lambda k: N // 2 + 64 * 8 * 5 // 2),
    ("iOS18", "palette3"): ("palette3", lambda k: N * 3 // 8 + 8 * 2),
    ("iOS18", "palette4-grouped"): ("palette4", lambda k: N // 2 + 4 * 16 * 2),
    ("iOS18", "palette4-vector"): ("palette4", lambda k: N // 4 + 16 * 2 * 2),
    ("iOS18", "palette4-int8"): ("palette4+int8", lambda k: N // 2 + 4 * 16 + 2),
    ("iOS18", "pruned-half"): ("sparse", lambda k: N // 8 + 2 * k),
    ("iOS18", "pruned-palette4"): ("sparse+palette4", lambda k: N // 8 + -(-k // 2) + 16 * 2),
    ("iOS18", "pruned-int8"): ("sparse+int8", lambda k: N // 8 + k + 64 * 2),
    ("iOS18", "pruned-int4"): ("sparse+int4-block32", lambda k: N // 8 + -(-k // 2) + 64 * 2 * 2),
    ("iOS16", "int8-per_channel-linear"): ("int8", lambda k: N + 64 * (2 + 1)),
    ("iOS16", "palette6"): ("palette6", lambda k: N * 6 // 8 + 64 * 2),
    ("iOS16", "pruned-half"): ("sparse", lambda k: N // 8 + 2 * k),
}


def table(model, folder, **options):
    return weight_table(load(saved(model, folder / "weights.mlpackage")).function, **options)


@pytest.mark.parametrize(("since", "name"), STORED, ids=["-".join(key) for key in STORED])
def test_kind_and_bytes(since, name, tmp_path):
    kind, stored = STORED[since, name]
    model = RECIPES[since][name][0](converted(since))
    (row,) = [row for row in table(model, tmp_path) if row.shape == WIDE]
    dense = load(saved(cto.decompress_weights(model), tmp_path / "dense.mlpackage"))
    (value,) = [item.value() for item in dense.function.block.constants.values() if getattr(item.type, "shape", None) == WIDE]
    nonzero = np.count_nonzero(value)
    assert (row.kind, row.stored_bytes) == (kind, stored(nonzero))
    assert (row.dtype, row.elements, row.dense_bytes) == ("fp16", N, 2 * N)
    assert row.bits_per_weight == pytest.approx(8 * stored(nonzero) / N)
    assert row.density == (nonzero / N if "pruned" in name else None)
    assert [(reader.type, reader.parameter) for reader in row.readers] == [("conv", "weight")]


@pytest.mark.parametrize(
    ("since", "name", "wanted"),
    [
        ("iOS18", "int8-per_tensor-linear_symmetric", {"quantized": "int8", "per": "tensor", "offset": False}),
        ("iOS18", "int8-per_channel-linear", {"quantized": "int8", "per": "channel", "block": None, "offset": True}),
        ("iOS16", "int8-per_channel-linear", {"quantized": "int8", "per": "channel", "block": None, "offset": True}),
        ("iOS16", "int8-per_tensor-linear_symmetric", {"quantized": "int8", "per": "tensor", "offset": False}),
        ("iOS18", "int4-block32-linear", {"quantized": "int4", "per": "block", "block": (32,), "offset": True}),
        ("iOS18", "palette2-vector-grouped", {"palette_bits": 2, "tables": 4, "vector": 4, "quantized": None}),
        ("iOS16", "palette6", {"palette_bits": 6, "tables": 1, "vector": 1}),
        ("iOS18", "palette4-scaled", {"palette_bits": 4, "scaled": True, "kind": "palette4+scale"}),
        ("iOS18", "palette4-int8", {"palette_bits": 4, "tables": 4, "quantized": "int8", "per": "tensor"}),
        ("iOS18", "pruned-palette4-grouped", {"palette_bits": 4, "tables": 4}),
    ],
)
def test_fields(since, name, wanted, tmp_path):
    rows = table(RECIPES[since][name][0](converted(since)), tmp_path)
    (row,) = [row for row in rows if row.shape == WIDE]
    assert {field: getattr(row, field) for field in wanted} == wanted


def test_what_was_left_out_and_the_totals(tmp_path):
    """A convolution of 16 input channels has no blocks of 32: coremltools says so only in its log."""
    rows = table(RECIPES["iOS18"]["int4-block32-linear_symmetric"][0](converted("iOS18")), tmp_path)
    assert {row.shape: row.kind for row in rows} == {ROWS: "int4-block32", WIDE: "int4-block32", NARROW: "none"}
    (left,) = left_out(rows)
    assert (left.shape, left.bits_per_weight, left.words) == (NARROW, 16.0, "fp16 as it is")
    small, plain = summary(rows)
    assert (small.kind, small.weights, small.elements) == ("int4-block32", 3, N + 2 * 96 * 64)
    assert small.stored_bytes == sum(
        row.stored_bytes for row in rows if row.kind != "none"
    ) and small.bits_per_weight == pytest.approx(4.5, abs=0.2)
    assert (plain.kind, plain.weights, plain.stored_bytes, plain.dense_bytes) == ("none", 1, 64 * 16 * 3 * 2, 64 * 16 * 3 * 2)


def test_a_model_that_is_not_compressed_leaves_nothing_out(tmp_path):
    rows = table(converted("iOS18", "fp32"), tmp_path)
    assert {row.kind for row in rows} == {"none"} and {row.bits_per_weight for row in rows} == {32.0}
    assert {row.shape for row in rows} == {ROWS, WIDE, NARROW} and len(rows) == 4
    assert left_out(rows) == []
    biases = [row.shape for row in table(converted("iOS18", "fp32"), tmp_path, smallest=64) if len(row.shape) == 1]
    assert sorted(biases) == [(64,), (64,), (96,)]


def test_no_weight_is_read(tmp_path, monkeypatch):
    function = load(saved(RECIPES["iOS18"]["pruned-palette4"][0](converted("iOS18")), tmp_path / "a.mlpackage")).function
    monkeypatch.setattr(WeightFile, "read", lambda *given: pytest.fail("a weight was read"))
    assert {row.kind for row in weight_table(function)} == {"sparse+palette4"}


def test_readers_inside_a_loop_beside_it_and_the_output(tmp_path):
    weight = np.random.default_rng(1).normal(size=(48, 48)).astype(np.float32)
    other = weight + 1

    def build(x):
        shared = mb.const(val=weight, name="shared")

        def one_round(n, value):
            return mb.add(x=n, y=np.int32(1)), mb.linear(
                x=mb.linear(x=value, weight=shared, name="a"), weight=mb.const(val=other), name="b"
            )

        value = mb.while_loop(_cond=lambda n, v: mb.less(x=n, y=np.int32(3)), _body=one_round, loop_vars=(np.int32(0), x))[1]
        return mb.linear(x=value, weight=shared, name="c"), mb.identity(x=shared, name="d")

    model = ct.models.MLModel(str(save(build, {"x": weight[:2]}, tmp_path, since="iOS18")), skip_model_load=True)
    for compressed in (model, palettised(nbits=4)(model)):
        rows = table(compressed, tmp_path)
        assert len(rows) == 2 and {row.shape for row in rows} == {(48, 48)}
        assert {row.kind for row in rows} == ({"none"} if compressed is model else {"palette4"})
        types = sorted(tuple(sorted(reader.type for reader in row.readers)) for row in rows)
        assert types == [("identity", "linear", "linear"), ("linear",)]


def test_a_cast_and_integers(tmp_path):
    half, codes = np.ones((40, 30), np.float16), np.arange(2000, dtype=np.int32)

    def build(x):
        weight = mb.constexpr_cast(source_val=half, output_dtype="fp32", name="weight")
        return mb.linear(x=x, weight=weight, name="layer"), mb.gather(x=codes, indices=np.int32([3]), name="look")

    save(build, {"x": np.ones((2, 30), np.float32)}, tmp_path, since="iOS16")
    cast, table_of_codes = weight_table(load(tmp_path / "program.mlpackage").function)
    assert (cast.kind, cast.dtype, cast.cast, cast.bits_per_weight) == ("cast", "fp32", "fp16", 16.0)
    assert cast.readers == (Reader("layer", "linear", "weight"),)
    assert (table_of_codes.kind, table_of_codes.dtype, table_of_codes.readers) == (
        "none",
        "int32",
        (Reader("look", "gather", "x"),),
    )
    assert left_out([cast, table_of_codes]) == []


def test_words_are_for_people(tmp_path):
    rows = table(RECIPES["iOS18"]["pruned-int4"][0](converted("iOS18")), tmp_path)
    assert {row.words for row in rows if row.shape == WIDE} == {"50.0 % of the values, the others 0; int4, a scale per block of 32"}
    rows = table(RECIPES["iOS18"]["palette4-vector"][0](converted("iOS18")), tmp_path)
    assert {row.words for row in rows if row.shape == WIDE} == {"one table of 16 vectors of 2 values"}
