"""Weight files (MIL blob storage, version 2): headers checked, values mapped into memory, nothing copied until it is used.

A file starts with a 64-byte header (count of blobs, version 2). An offset in a program names a 64-byte record: a sentinel, the data
type, the size in bytes, where the data lie, and how many bits at the end are padding. Records and data start at multiples of 64.
Read from coremltools 9.0, mlmodel/src/MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp; tested against its own writer.

    WeightFile(path).read(offset=64, dtype="fp16", count=1024)   # numpy array of 1,024 values
"""

from __future__ import annotations

import struct
from bisect import bisect
from pathlib import Path
from typing import Any

import numpy as np

from workbench.mil.errors import PackageError
from workbench.mil.types import BITS, NUMPY

SENTINEL = 0xDEADBEEF
_FIX = "get the package again"
_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<IIQQQ")
_ALIGNED = 64
"""Bytes of the header, of a record, and what every offset is a multiple of."""
_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    5: "bf16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
    16: "fp8e4m3fn",
    17: "fp8e5m2",
}


class WeightFile:
    """One blob file. Raises PackageError naming the file for everything that is not as the format says."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.bytes = path.stat().st_size
            # Copy on write: torch wants writable memory, and the file must never change.
            self._data = np.memmap(path, dtype=np.uint8, mode="c") if self.bytes else np.empty(0, np.uint8)
        except OSError as error:
            raise PackageError(f"weight file {path} cannot be read", why=str(error.strerror or error)) from error
        if self.bytes < _ALIGNED:
            raise PackageError(f"weight file {path} is cut off", why=f"it has {self.bytes} bytes, its header alone takes 64")
        _, version = _HEADER.unpack_from(self._data[: _HEADER.size].tobytes())
        if version != 2:
            raise PackageError(
                f"weight file {path} is damaged or of another format", why=f"its header says version {version}, not 2"
            )
        self._taken: list[tuple[int, int]] = [(0, _ALIGNED)]
        """(first byte, end) of the header and of the records and data located so far, ascending and apart."""
        self._located: dict[int, tuple[str, int, int, int]] = {}

    def locate(self, offset: int, dtype: str, count: int) -> tuple[int, int]:
        """(first byte, number of bytes) of the data behind the record at ``offset``, after checking that ``count`` values of
        ``dtype`` are what it holds and that no other record's data lie there."""
        where = f"weight file {self.path}, offset {offset}"
        if offset not in self._located:
            self._located[offset] = self._record(offset, where)
        held, first, size, padding = self._located[offset]
        if held != dtype:
            raise PackageError(f"{where}: holds {held}, the program declares {dtype}", fix=_FIX)
        if size * 8 - padding != count * BITS[dtype]:
            raise PackageError(f"{where}: holds {size:,} bytes of {held}, the program declares {count:,} values", fix=_FIX)
        return first, size

    def _record(self, offset: int, where: str) -> tuple[str, int, int, int]:
        """(data type, first byte, bytes, bits of padding)."""
        if offset % _ALIGNED or not _ALIGNED <= offset <= self.bytes - _ALIGNED:
            raise PackageError(f"{where}: there is no record", why=f"the file has {self.bytes:,} bytes", fix=_FIX)
        sentinel, number, size, first, padding = _RECORD.unpack_from(self._data[offset : offset + _RECORD.size].tobytes())
        if sentinel != SENTINEL:
            why = f"it starts with {sentinel:#x}, not {SENTINEL:#x}"
            raise PackageError(f"{where}: the record is damaged", why=why, fix=_FIX)
        held = _TYPES.get(number, f"unknown type {number}")
        packed = BITS.get(held, 8) < 8  # the field means something for these only: older writers left it unset
        if packed and padding > 7:
            raise PackageError(f"{where}: the record is damaged", why=f"{padding:,} bits of padding", fix=_FIX)
        if first % _ALIGNED:
            raise PackageError(f"{where}: the record is damaged", why=f"data at byte {first:,}: no multiple of 64", fix=_FIX)
        if first + size > self.bytes:
            why = f"the file has {self.bytes:,} bytes"
            raise PackageError(f"{where}: the data end at byte {first + size:,}", why=why, fix=_FIX)
        self._take(offset, offset + _ALIGNED, where)
        if size:
            self._take(first, first + size, where)
        return held, first, size, padding if packed else 0

    def _take(self, first: int, end: int, where: str) -> None:
        place = bisect(self._taken, (first, end))
        for other, stop in self._taken[max(place - 1, 0) : place + 1]:
            if first < stop and other < end:
                why = f"bytes {first:,} to {end:,} belong to another record too"
                raise PackageError(f"{where}: the record is damaged", why=why, fix=_FIX)
        self._taken.insert(place, (first, end))

    def read(self, offset: int, dtype: str, count: int) -> Any:
        """``count`` values, flat; sub-byte integers unpacked to one a byte; bf16 and fp8 as their raw bits (uint16, uint8)."""
        first, size = self.locate(offset, dtype, count)
        raw = self._data[first : first + size]
        if BITS[dtype] < 8:
            return unpack(raw, dtype, count)
        return np.asarray(raw).view({"bf16": np.uint16, "fp8e4m3fn": np.uint8, "fp8e5m2": np.uint8}.get(dtype) or NUMPY[dtype])


def unpack(raw: Any, dtype: str, count: int) -> Any:
    """Sub-byte integers, packed from the least significant bit on, as one int8 or uint8 a value. ``raw`` holds at least ``count``."""
    bits = BITS[dtype]
    # Eight values lie in as many bytes as a value has bits: each of the eight then has one place in every such group.
    groups = -(-count // 8)
    source = np.asarray(raw).view(np.uint8).reshape(-1)[: groups * bits]
    if source.size < groups * bits:
        source = np.concatenate([source, np.zeros(groups * bits - source.size, np.uint8)])
    source = source.reshape(groups, bits)
    values = np.empty((groups, 8), np.uint8)
    for number in range(8):
        byte, shift = divmod(number * bits, 8)
        value = source[:, byte] >> shift
        if shift + bits > 8:  # the rest is in the next byte
            value |= source[:, byte + 1] << (8 - shift)
        np.bitwise_and(value, (1 << bits) - 1, out=values[:, number])
    flat = values.reshape(-1)[:count]
    if dtype.startswith("u"):
        return flat
    signed = flat.view(np.int8)
    signed <<= 8 - bits
    signed >>= 8 - bits  # the highest bit is the sign
    return signed
