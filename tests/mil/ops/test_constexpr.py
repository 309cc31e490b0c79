"""Golden cases: compressed weights equal coremltools' own decompression bit for bit, in every reading.

Each weight is multiplied by a run-time 1: that leaves every value as it is.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from coremltools.optimize import _utils as packing

from tests.mil.building import opset as target
from tests.mil.cases import Case, check
from workbench.mil import load
from workbench.mil.program import PRECISIONS

F16, F32 = np.float16, np.float32
HELD = {name: getattr(types, f"np_{name}_dtype") for name in ("int4", "uint1", "uint2", "uint3", "uint4", "uint6")} | {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
}


def last(made):
    return made[-1] if isinstance(made, tuple | list) else made


def materialised(make, opset):
    """What coremltools' decompression gives for the op that ``make`` builds: its last output."""

    def expected(x):
        with Function({}, opset_version=target(opset)), np.errstate(all="ignore"):
            made = make()
            value = last(made).op.materialized_val_inference()
        value = last(value)
        return value if value.dtype.kind == "f" else value.astype(F32)

    return expected


def case(op, opset, label, kind, make):
    """``kind``: the type of the weight; integers are cast to be seen."""

    def build(x):
        weight = last(make())
        weight = weight if kind in (F16, F32) else mb.cast(x=weight, dtype="fp32")
        return mb.mul(x=x, y=weight)

    one = np.ones(1, kind if kind in (F16, F32) else F32)
    return Case(op, opset, build, {"x": one}, materialised(make, opset), "materialized_val_inference", label, tolerance=0.0)


def floats(kind, *shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(kind)


def integers(name, *shape, seed=1):
    info = types.type_mapping.builtin_to_range(types.string_to_builtin(name))
    return np.random.default_rng(seed).integers(info.low, info.high + 1, shape).astype(HELD[name])


def flags(*shape, seed=2, density=0.4):
    return np.random.default_rng(seed).random(shape) < density


def affine(source, kind, zero, scale_shape, zero_shape, axis):
    def make():
        point = floats(F32, *zero_shape, seed=3, scale=20) if zero == "fp32" else integers(zero, *zero_shape, seed=3)
        return mb.constexpr_affine_dequantize(
            quantized_data=integers(source, 3, 5, 7),
            zero_point=point,
            scale=floats(kind, *scale_shape, seed=4),
            axis=np.int32(axis),
        )

    label = (
        f"{source}-{np.dtype(kind).name}-{zero}-axis{axis}-{'vector' if scale_shape else 'scalar'}{'-point' if zero_shape else ''}"
    )
    return case("constexpr_affine_dequantize", "iOS16", label, kind, make)


def table_iOS16(bits, kind, shape):
    def make():
        indices = integers("uint8", *shape) & (2**bits - 1)
        return mb.constexpr_lut_to_dense(
            indices=packing.pack_elements_into_bits(indices.reshape(-1), bits), lut=floats(kind, 2**bits), shape=np.uint32(shape)
        )

    return case("constexpr_lut_to_dense", "iOS16", f"{bits}-bits-{np.dtype(kind).name}-{len(shape)}d", kind, make)


def pruned_iOS16(kind, shape, density):
    def make():
        mask = flags(*shape, density=density)
        return mb.constexpr_sparse_to_dense(
            nonzero_data=floats(kind, int(mask.sum())), mask=np.packbits(mask, bitorder="little"), shape=np.uint32(shape)
        )

    return case("constexpr_sparse_to_dense", "iOS16", f"{np.dtype(kind).name}-{len(shape)}d-{density}", kind, make)


def widened(opset):
    return case("constexpr_cast", opset, "", F32, lambda: mb.constexpr_cast(source_val=floats(F16, 4, 3), output_dtype="fp32"))


def source_values(source, *shape):
    return floats({"fp16": F16, "fp32": F32}[source], *shape, scale=50) if source in ("fp16", "fp32") else integers(source, *shape)


def blocks(source, kind, offset, data, scale, factor=0.1):
    def make():
        moved = None if offset is None else source_values(offset, *scale)
        return mb.constexpr_blockwise_shift_scale(
            data=source_values(source, *data), scale=floats(kind, *scale, seed=5, scale=factor), offset=moved
        )

    label = f"{source}-{np.dtype(kind).name}-{offset}-{'x'.join(map(str, scale))}-{factor}"
    return case("constexpr_blockwise_shift_scale", "iOS18", label, kind, make)


def table(bits, kind, shape, tables, vector=1, axis=None):
    def make():
        entries = floats(kind, *tables, 2**bits, vector) if kind in (F16, F32) else integers(kind, *tables, 2**bits, vector)
        return mb.constexpr_lut_to_dense(
            indices=integers(f"uint{bits}", *shape), lut=entries, vector_axis=None if axis is None else np.int32(axis)
        )

    label = f"{bits}-bits-{kind if isinstance(kind, str) else np.dtype(kind).name}-{'x'.join(map(str, tables))}-{vector}-{axis}"
    return case("constexpr_lut_to_dense", "iOS18", label, kind, make)


def pruned(source, shape, density):
    def make():
        mask = flags(*shape, density=density)
        made = mb.constexpr_sparse_to_dense(nonzero_data=source_values(source, int(mask.sum())), mask=mask.astype(HELD["uint1"]))
        if source in ("int4", "uint4"):  # only another compressed op may read these
            return mb.constexpr_blockwise_shift_scale(data=made, scale=np.ones([1] * len(shape), F16))
        return made

    kind = {"fp16": F16, "fp32": F32, "int4": F16, "uint4": F16}.get(source, source)
    return case("constexpr_sparse_to_dense", "iOS18", f"{source}-{len(shape)}d-{density}", kind, make)


def sparse_table(bits, kind, shape, tables, vector, axis, dense):
    def make():
        mask = flags(*shape)
        rest = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(HELD["uint1"]),
            indices_nonzero_data=integers(f"uint{bits}", int(mask.sum())),
            lut=floats(kind, *tables, 2**bits, vector),
            vector_axis=None if axis is None else np.int32(axis),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=rest[1], mask=rest[0]) if dense else rest

    label = f"{bits}-bits-{'x'.join(map(str, tables))}-{vector}-{axis}{'-dense' if dense else ''}"
    return case("constexpr_lut_to_sparse", "iOS18", label, kind, make)


def sparse_blocks(source, kind, offset, shape, scale, dense):
    def make():
        mask = flags(*shape)
        rest = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask.astype(HELD["uint1"]),
            nonzero_data=source_values(source, int(mask.sum())),
            scale=floats(kind, *scale, seed=6),
            offset=None if offset is None else source_values(offset, *scale),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=rest[1], mask=rest[0]) if dense else rest

    label = f"{source}-{np.dtype(kind).name}-{offset}{'-dense' if dense else ''}"
    return case("constexpr_sparse_blockwise_shift_scale", "iOS18", label, kind, make)


def quantised_table():
    def make():
        entries = mb.constexpr_blockwise_shift_scale(
            data=integers("int8", 2, 1, 16, 1), scale=floats(F16, 2, 1, 1, 1), offset=integers("int8", 2, 1, 1, 1, seed=7)
        )
        return mb.constexpr_lut_to_dense(indices=integers("uint4", 6, 4), lut=entries)

    def expected(x):
        values = integers("int8", 2, 1, 16, 1).astype(F16) - integers("int8", 2, 1, 1, 1, seed=7)
        return packing.lut_to_dense(integers("uint4", 6, 4), floats(F16, 2, 1, 1, 1) * values)

    return Case(
        "constexpr_lut_to_dense",
        "iOS18",
        lambda x: mb.mul(x=x, y=make()),
        {"x": np.ones(1, F16)},
        expected,
        "numpy",
        "int8-lut",
        0.0,
    )


def scaled_table():
    def make():
        rows = mb.constexpr_lut_to_dense(indices=integers("uint4", 6, 4), lut=integers("int8", 1, 1, 16, 1))
        return mb.constexpr_blockwise_shift_scale(data=rows, scale=floats(F16, 6, 1))

    return case("constexpr_blockwise_shift_scale", "iOS18", "of-a-palette", F16, make)


CASES = [
    *(affine(s, k, z, (), (), 0) for s, k in itertools.product(("int8", "uint8"), (F16, F32)) for z in (s, "fp32")),
    *(affine("uint8", k, "uint8", (5,), z, a) for k in (F16, F32) for z in ((), (5,)) for a in (1, -2)),
    affine("int8", F16, "int8", (), (7,), -1),
    *(table_iOS16(bits, kind, (3, 5, 7)) for bits in (1, 2, 4, 6, 8) for kind in (F16, F32)),
    table_iOS16(6, F16, (5,)),
    *(pruned_iOS16(F16, (3, 5, 7), density) for density in (0.0, 0.4, 1.0)),
    pruned_iOS16(F32, (9,), 0.4),
    widened("iOS16"),
    widened("iOS18"),
    *(blocks(s, k, o, (6, 8), (3, 2)) for k in (F16, F32) for s in ("int4", "uint4", "int8", "uint8") for o in (None, s)),
    *(blocks("int8", F16, "int8", (4, 6, 2, 3), s) for s in ((4, 1, 1, 1), (1, 6, 1, 1), (2, 3, 1, 3), (1, 1, 1, 1), (4, 6, 2, 3))),
    *(blocks(s, k, s, (6, 8), (1, 4)) for s, k in (("fp16", F16), ("fp32", F32))),
    blocks("uint8", F16, "fp16", (6, 8), (6, 1)),
    blocks("int8", F16, "int8", (6, 8), (6, 1), factor=3000),  # beyond the largest fp16
    blocks("int8", F16, "int8", (6, 8), (6, 1), factor=1e-6),  # below the smallest normal fp16
    blocks("int4", F16, None, (12,), (3,)),
    *(table(bits, kind, (6, 8), (1, 1)) for bits in (1, 2, 3, 4, 6, 8) for kind in (F16, F32)),
    *(table(4, kind, (6, 8), (1, 1)) for kind in ("int8", "uint8")),
    *(table(2, F16, (6, 8), tables) for tables in ((2, 1), (1, 4), (3, 2), (6, 8))),
    *(table(2, F16, (6, 4, 2, 3), tables) for tables in ((3, 1, 1, 1), (1, 2, 1, 1), (3, 2, 2, 1))),
    *(table(3, F16, (6, 4, 2), (1, 1, 1), 3, axis) for axis in (0, 1, 2, -1, -3)),
    *(table(3, F16, (6, 4, 2), (3, 2, 1), 2, axis) for axis in (0, 1, -1)),
    table(2, F16, (6, 4), (2, 1), 1, 0),
    *(pruned(s, (3, 5, 7), 0.4) for s in ("int4", "uint4", "int8", "uint8", "fp16", "fp32")),
    *(pruned("fp16", (11,), density) for density in (0.0, 1.0)),
    *(sparse_table(2, F16, (6, 4), t, v, a, d) for t, v, a in (((1, 1), 1, None), ((3, 1), 1, None)) for d in (True, False)),
    *(sparse_table(3, F32, (6, 4), (2, 2), 2, a, d) for a in (0, 1, -1) for d in (True, False)),
    *(sparse_blocks(s, F16, o, (6, 4), (3, 2), d) for s in ("int4", "uint8") for o in (None, s) for d in (True, False)),
    sparse_blocks("int8", F32, "int8", (6, 4), (6, 1), True),
    sparse_blocks("fp16", F16, "fp16", (6, 4), (1, 4), True),
    quantised_table(),
    scaled_table(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)
    wanted = case.expected(**case.inputs)
    for precision in PRECISIONS:
        (found,) = load(tmp_path / "program.mlpackage", precision=precision).predict(case.inputs).values()
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted, err_msg=precision)
