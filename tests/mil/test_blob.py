"""Weight files: what coremltools' own writer wrote, read alike by its reader and by ours; damaged files refused."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter

from workbench.mil.blob import WeightFile, unpack
from workbench.mil.errors import PackageError
from workbench.mil.types import BITS

TYPES = {"fp16": "fp16", "fp32": "float"}
TYPES |= {
    f"{sign}int{bits}": f"{sign}int{bits}"
    for sign, bits in [("", 4), ("", 8), ("", 16), ("", 32)] + [("u", b) for b in (1, 2, 3, 4, 6, 8, 16, 32)]
}
"""MIL type -> what the writer calls it: all types that it can write."""
RECORD = struct.Struct("<IIQQQ")


def values(dtype, count):
    draw = np.random.default_rng(count)
    if dtype in ("fp16", "fp32"):
        return draw.normal(size=count).astype({"fp16": np.float16, "fp32": np.float32}[dtype])
    bits, signed = BITS[dtype], not dtype.startswith("u")
    kind = np.dtype(f"{'int' if signed else 'uint'}{max(bits, 8)}")
    return draw.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed), count, dtype=np.int64).astype(kind)


def write(path, *arrays):
    """The offsets of the records."""
    writer = _BlobStorageWriter(str(path))
    found = [
        getattr(writer, f"write_{TYPES[dtype]}_data")(array.view(np.uint16) if dtype == "fp16" else array)
        for dtype, array in arrays
    ]
    del writer  # the header is written when it goes
    return found


@pytest.mark.parametrize("dtype", TYPES)
def test_reads_what_coremltools_writes(dtype, tmp_path):
    counts = (1, 2, 3, 7, 8, 9, 63, 64, 65, 1000)
    arrays = [values(dtype, count) for count in counts]
    path = tmp_path / "weight.bin"
    offsets = write(path, *((dtype, array) for array in arrays))
    file, witness = WeightFile(path), _BlobStorageReader(str(path))
    for offset, array in zip(offsets, arrays, strict=True):
        found = file.read(offset, dtype, len(array))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        theirs = np.asarray(getattr(witness, f"read_{TYPES[dtype]}_data")(offset))
        np.testing.assert_array_equal(found, theirs.view(np.float16) if dtype == "fp16" else theirs)


@pytest.mark.parametrize("dtype", TYPES)
def test_empty_blobs(dtype, tmp_path):
    offsets = write(tmp_path / "weight.bin", (dtype, values(dtype, 0)), ("fp32", values("fp32", 3)), (dtype, values(dtype, 0)))
    file = WeightFile(tmp_path / "weight.bin")
    assert file.read(offsets[0], dtype, 0).shape == file.read(offsets[2], dtype, 0).shape == (0,)
    np.testing.assert_array_equal(file.read(offsets[1], "fp32", 3), values("fp32", 3))


@pytest.mark.parametrize("dtype", TYPES)
def test_whole_bytes_are_views_that_never_change_the_file(dtype, tmp_path):
    (offset,) = write(tmp_path / "weight.bin", (dtype, values(dtype, 64)))
    file, before = WeightFile(tmp_path / "weight.bin"), (tmp_path / "weight.bin").read_bytes()
    found = file.read(offset, dtype, 64)
    assert np.shares_memory(found, file._data) == (BITS[dtype] >= 8)
    found[:] = 1
    assert (tmp_path / "weight.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("dtype", "number", "kind"), [("bf16", 5, np.uint16), ("fp8e4m3fn", 16, np.uint8), ("fp8e5m2", 17, np.uint8)]
)
def test_types_without_a_writer_come_as_their_bits(dtype, number, kind, tmp_path):
    raw = np.arange(10).astype(kind)
    data = RECORD.pack(0xDEADBEEF, number, raw.nbytes, 128, 0).ljust(64, b"\0") + raw.tobytes()
    (tmp_path / "weight.bin").write_bytes(struct.pack("<II", 1, 2).ljust(64, b"\0") + data)
    np.testing.assert_array_equal(WeightFile(tmp_path / "weight.bin").read(64, dtype, 10), raw)


@pytest.mark.parametrize("dtype", [dtype for dtype in TYPES if BITS[dtype] < 8])
def test_unpack_takes_its_count_from_longer_bytes(dtype):
    """Against the definition: bit b of the stream is bit b % 8 of byte b // 8."""
    raw, bits = np.random.default_rng(0).integers(0, 256, 40, dtype=np.uint8), BITS[dtype]
    stream = int.from_bytes(raw.tobytes(), "little")
    wanted = [(stream >> (number * bits)) & (2**bits - 1) for number in range(21)]
    if not dtype.startswith("u"):
        wanted = [value - 2**bits if value >= 2 ** (bits - 1) else value for value in wanted]
    assert unpack(raw, dtype, 21).tolist() == wanted


# Damaged files. The file below holds one record, of 9 values of int4 (5 bytes) at 64, and one of 64 of fp16 after it.


def damaged(path, **fields):
    """The file, its first record changed; the offset of that record."""
    offset, _ = write(path, ("int4", values("int4", 9)), ("fp16", values("fp16", 64)))
    data = bytearray(path.read_bytes())
    record = dict(zip(("sentinel", "number", "size", "first", "padding"), RECORD.unpack_from(data, offset), strict=True)) | fields
    RECORD.pack_into(data, offset, *record.values())
    path.write_bytes(data)
    return offset


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sentinel": 0}, "starts with 0x0"),
        ({"number": 99}, "unknown type 99"),
        ({"number": 11}, "holds uint4, the program declares int4"),
        ({"size": 6}, "holds 6 bytes"),
        ({"size": 1 << 40}, "the data end at byte"),
        ({"size": (1 << 64) - 128}, "the data end at byte"),
        ({"size": (1 << 64) - 64, "first": 128}, "the data end at byte 18,446,744,073,709,551,680"),
        ({"first": (1 << 64) - 64}, "the data end at byte"),
        ({"first": 1 << 62}, "the data end at byte"),
        ({"first": 129}, "no multiple of 64"),
        ({"first": 0}, "belong to another record"),
        ({"first": 64}, "belong to another record"),
        ({"padding": 12}, "12 bits of padding"),
        ({"padding": (1 << 64) - 4}, "bits of padding"),
        ({"padding": 3}, "holds 5 bytes"),
    ],
    ids=str,
)
def test_damaged_records_are_refused_before_anything_is_allocated(fields, why, tmp_path):
    path = tmp_path / "weight.bin"
    offset = damaged(path, **fields)
    file = WeightFile(path)
    tracemalloc.start()
    try:
        with pytest.raises(PackageError) as caught:
            file.read(offset, "int4", 9)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert why in str(caught.value) and str(path) in str(caught.value) and f"offset {offset}" in str(caught.value)


def test_data_of_two_records_may_not_overlap(tmp_path):
    path = tmp_path / "weight.bin"
    one, other = write(path, ("fp32", values("fp32", 32)), ("fp32", values("fp32", 32)))
    data = bytearray(path.read_bytes())
    *start, first, padding = RECORD.unpack_from(data, other)
    for taken in (one + 64, one + 128, one):
        RECORD.pack_into(data, other, *start, taken, padding)
        path.write_bytes(data)
        file = WeightFile(path)
        file.locate(one, "fp32", 32)
        with pytest.raises(PackageError, match="belong to another record"):
            file.locate(other, "fp32", 32)
        backwards = WeightFile(path)
        with pytest.raises(PackageError, match="belong to another record"):  # whichever is read first
            backwards.locate(other, "fp32", 32)
            backwards.locate(one, "fp32", 32)
    RECORD.pack_into(data, other, *start, first, padding)
    path.write_bytes(data)
    file = WeightFile(path)
    for offset in (other, one, other, one):
        file.locate(offset, "fp32", 32)


@pytest.mark.parametrize("offset", [0, 1, 63, 65, 128, -64, 1 << 40, (1 << 64) - 64, (1 << 64) - 1])
def test_offsets_without_a_record(offset, tmp_path):
    damaged(tmp_path / "weight.bin")
    with pytest.raises(PackageError, match=f"offset {offset}"):
        WeightFile(tmp_path / "weight.bin").locate(offset, "int4", 9)


@pytest.mark.parametrize("count", [0, 8, 10, 11, 1 << 61])
def test_a_count_that_the_record_does_not_hold(count, tmp_path):
    offset = damaged(tmp_path / "weight.bin")
    with pytest.raises(PackageError, match="the program declares"):
        WeightFile(tmp_path / "weight.bin").locate(offset, "int4", count)


def test_files_cut_off_anywhere(tmp_path):
    whole, path = tmp_path / "whole.bin", tmp_path / "cut.bin"
    (offset,) = write(whole, ("fp16", values("fp16", 50)))
    data = whole.read_bytes()
    assert len(data) == 128 + 100
    for length in (0, 1, 63, 64, 127, 128, 129, 200, 227):
        path.write_bytes(data[:length])
        with pytest.raises(PackageError, match=r"cut\.bin"):
            WeightFile(path).read(offset, "fp16", 50)
    path.write_bytes(data)
    np.testing.assert_array_equal(WeightFile(path).read(offset, "fp16", 50), values("fp16", 50))


def test_what_is_no_weight_file(tmp_path):
    with pytest.raises(PackageError, match="cannot be read"):
        WeightFile(tmp_path / "absent.bin")
    with pytest.raises(PackageError, match="cannot be read"):
        WeightFile(tmp_path)
    (tmp_path / "old.bin").write_bytes(struct.pack("<II", 1, 1).ljust(256, b"\0"))
    with pytest.raises(PackageError, match="version 1, not 2"):
        WeightFile(tmp_path / "old.bin")
