"""How every weight of a program is stored: a table to read before a compressed model is trusted or blamed.

coremltools leaves a weight as it is when it cannot compress it (a convolution of 16 input channels in blocks of 32) and says so only
in its log; here such a weight is a row like any other. Shapes and types are enough: no weight is read but small zero points.

    for row in weight_table(program.function):
        print(row.name, row.shape, row.kind, f"{row.bits_per_weight:.2f}", row.words)
    summary(rows)       # totals by kind
    left_out(rows)      # weights that stayed as they were while others were compressed
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from workbench.mil.graph import Block, Constant, Function, Op
from workbench.mil.types import BITS, FLOATS, INTEGERS, TensorType

SMALLEST = 1024
"""Elements from which on a plain constant is a row. What is compressed is one whatever its size."""
COMPRESSIBLE = 2048
"""coremltools compresses weights of more elements than these unless told otherwise (coremltools.optimize.coreml, weight_threshold)."""

_STORED = ("quantized_data", "zero_point", "scale", "indices", "lut", "nonzero_data", "mask", "data", "offset")
_STORED += ("indices_mask", "indices_nonzero_data", "data_mask", "source_val")


@dataclass(frozen=True)
class Reader:
    """An op that reads a weight: its name, its type, by which parameter."""

    op: str
    type: str
    parameter: str


@dataclass(frozen=True)
class Weight:
    """One weight. ``kind``: none, or what was done, joined by ``+``: sparse, palette4 (16 entries), int8, int4-block32, cast."""

    name: str
    readers: tuple[Reader, ...]
    shape: tuple[int, ...]
    dtype: str
    """The type that ops compute with."""
    stored_bytes: int
    """All that is stored for it: values, scales, offsets, tables, masks."""
    quantized: str | None = None
    """The integer type that is stored, of the values or of a palette's entries."""
    per: str | None = None
    """What shares one scale: tensor, channel, block."""
    block: tuple[int, ...] | None = None
    """Values that share one scale along each axis that is split."""
    offset: bool = False
    palette_bits: int | None = None
    tables: int | None = None
    vector: int | None = None
    """Values that one entry of a table holds."""
    scaled: bool = False
    """A palette's values are multiplied by scales of their own."""
    density: float | None = None
    """Share of values that are stored; the others are 0."""
    cast: str | None = None
    """The narrower type that is stored."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        return _bytes(self.elements, self.dtype)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.stored_bytes / self.elements if self.elements else 0.0

    @property
    def kind(self) -> str:
        parts = ["sparse"] if self.density is not None else []
        parts += [f"palette{self.palette_bits}"] if self.palette_bits is not None else []
        if self.quantized is not None:
            parts.append(self.quantized + (f"-block{'x'.join(map(str, self.block))}" if self.block else ""))
        parts += ["scale"] if self.scaled else []
        return "+".join([*parts, *(["cast"] if self.cast else [])]) or "none"

    @property
    def words(self) -> str:
        """How it is stored, for people."""
        parts = []
        if self.density is not None:
            parts.append(f"{100 * self.density:.1f} % of the values, the others 0")
        if self.palette_bits is not None:
            many = f"one table of {2**self.palette_bits}" if self.tables == 1 else f"{self.tables} tables of {2**self.palette_bits}"
            parts.append(f"{many} {'entries' if self.vector == 1 else f'vectors of {self.vector} values'}")
        if self.quantized is not None:
            parts.append(f"{'entries in ' if self.palette_bits is not None else ''}{self.quantized}, a scale per {self.per}")
            parts[-1] += f" of {' x '.join(map(str, self.block))}" if self.block else ""
            parts[-1] += " and offsets" if self.offset else ""
        if self.scaled:
            parts.append("scaled afterwards")
        if self.cast:
            parts.append(f"stored as {self.cast}")
        return "; ".join(parts) or f"{self.dtype} as it is"


@dataclass(frozen=True)
class Total:
    """All weights of one kind."""

    kind: str
    weights: int
    elements: int
    stored_bytes: int
    dense_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.stored_bytes / self.elements if self.elements else 0.0


def weight_table(function: Function, smallest: int = SMALLEST) -> list[Weight]:
    """One row per weight that an op reads, in the order of first use; plain constants of at least ``smallest`` elements."""
    found: dict[Any, tuple[str, Constant | _Made, list[Reader]]] = {}
    for name, source, reader in _reads(function.block, {}):
        key = source.place if isinstance(source, Constant) else (id(source.op), source.number)
        found.setdefault(key, (name, source, []))[2].append(reader)
    rows = []
    for name, source, readers in found.values():
        kind = source.type
        if not isinstance(kind, TensorType) or kind.dtype == "string" or kind.shape is None or None in kind.shape:
            continue
        plain = isinstance(source, Constant)
        shape: tuple[int, ...] = kind.shape  # type: ignore[assignment]
        if plain and math.prod(shape) < smallest:
            continue
        row = Weight(name, tuple(dict.fromkeys(readers)), shape, kind.dtype, _stored({}, source))
        rows.append(row if isinstance(source, Constant) else _described(row, source))
    return rows


def summary(rows: list[Weight]) -> list[Total]:
    """Totals by kind, the largest first."""
    totals = []
    for kind in dict.fromkeys(row.kind for row in rows):
        alike = [row for row in rows if row.kind == kind]
        sums = (sum(getattr(row, name) for row in alike) for name in ("elements", "stored_bytes", "dense_bytes"))
        totals.append(Total(kind, len(alike), *sums))
    return sorted(totals, key=lambda total: -total.stored_bytes)


def left_out(rows: list[Weight]) -> list[Weight]:
    """Weights of floats that coremltools would have compressed by their size and that are not, where others are."""
    if all(row.kind == "none" for row in rows):
        return []
    return [row for row in rows if row.kind == "none" and row.dtype in FLOATS and row.elements > COMPRESSIBLE]


@dataclass(frozen=True, eq=False)
class _Made:
    """An output of a constexpr op, with where its inputs come from."""

    op: Op
    number: int
    inputs: dict[str, Constant | _Made]

    @property
    def type(self) -> Any:
        return self.op.outputs[self.number][1]


def _reads(block: Block, outer: dict[str, Constant | _Made]) -> Iterator[tuple[str, Constant | _Made, Reader]]:
    """Every (value's name, where it comes from, who reads it) that is a constant or made of constants by constexpr ops."""
    scope = {name: source for name, source in outer.items() if name not in dict(block.inputs)}
    scope.update(block.constants)
    for op in block.ops:
        given = [(parameter, argument) for parameter, arguments in op.inputs.items() for argument in arguments]
        sources = [
            (p, a if isinstance(a, Constant) else scope.get(a), f"{op.name}.{p}" if isinstance(a, Constant) else a)
            for p, a in given
        ]
        if op.type.startswith("constexpr_"):
            inputs = {parameter: source for parameter, source, _ in sources if source is not None}
            scope.update({name: _Made(op, number, inputs) for number, (name, _) in enumerate(op.outputs)})
            continue
        for parameter, source, name in sources:
            if source is not None:
                yield name, source, Reader(op.name, op.type, parameter)
        for name, _ in op.outputs:
            scope.pop(name, None)
        for inner in op.blocks:
            yield from _reads(inner, scope)
    for name in block.outputs:
        if name in scope and name not in outer:
            yield name, scope[name], Reader("", "output", name)


def _stored(seen: dict[Any, int], source: Constant | _Made) -> int:
    """Bytes of all constants that ``source`` is made of, each counted once."""
    if isinstance(source, Constant):
        seen[source.place] = _bytes(math.prod(source.type.shape), source.type.dtype)
    else:
        for parameter, inner in source.inputs.items():
            if parameter in _STORED:
                _stored(seen, inner)
    return sum(seen.values())


def _described(row: Weight, made: _Made) -> Weight:
    """The row with what ``made`` and the constexpr ops before it do."""
    op, inputs = made.op.type, made.inputs
    if op == "constexpr_cast":
        return replace(row, cast=inputs["source_val"].type.dtype)
    if op == "constexpr_sparse_to_dense":
        row = replace(row, density=_count(inputs["nonzero_data"]) / max(row.elements, 1))
        return _before(row, inputs["nonzero_data"])
    if op in ("constexpr_lut_to_dense", "constexpr_lut_to_sparse"):
        *tables, entries, vector = inputs["lut"].type.shape if "shape" not in inputs else (*inputs["lut"].type.shape, 1)
        row = replace(row, palette_bits=entries.bit_length() - 1, tables=math.prod(tables), vector=vector)
        return _before(row, inputs["lut"])
    data = inputs.get("quantized_data") or inputs.get("data") or inputs["nonzero_data"]
    scale = inputs["scale"].type.shape
    if data.type.dtype not in INTEGERS:
        return _before(replace(row, scaled=True), data)
    if "axis" in inputs:
        shape = data.type.shape
        (axis,) = np.ravel(inputs["axis"].value())  # type: ignore[union-attr]
        scale = [math.prod(scale) if number == axis % len(shape) else 1 for number in range(len(shape))]
        offset = bool(np.any(inputs["zero_point"].value()))  # type: ignore[union-attr]
    else:
        shape, offset = inputs.get("data_mask", data).type.shape, "offset" in inputs
    block = tuple(size // parts for size, parts in zip(shape, scale, strict=True) if 1 < parts < size)
    per = "block" if block else ("tensor" if math.prod(scale) == 1 else "channel")
    row = replace(row, quantized=data.type.dtype, per=per, block=block or None, offset=offset)
    return _before(row, data)


def _before(row: Weight, source: Constant | _Made) -> Weight:
    return row if isinstance(source, Constant) else _described(row, source)


def _count(source: Constant | _Made) -> int:
    return math.prod(source.type.shape)


def _bytes(elements: int, dtype: str) -> int:
    return -(-elements * BITS[dtype] // 8)
