"""Which inner values of a graph leave the range of a 16-bit type on given inputs, and which fall to zero in it.

    seen = overflow_of(Path("fp32/vision.onnx"), feeds, typed=facts_of("fp16/vision.onnx"))
    seen.over[0]       # {"value": "add_3", "largest": 81920.0, "nonfinite": 0, "here": "FP16"}

The graph that is run is the fp32 one where there is one: it shows what a value would be. What the typed graph keeps in fp32 is counted,
and not held against it. Without an fp32 graph the typed one is run, and what became infinite in it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.onnx.facts import Facts, bytes_of, facts_of

if TYPE_CHECKING:
    import numpy as np

RANGES = {"FP16": (65504.0, 2.0**-25), "BF16": (3.3895313892515355e38, 2.0**-134)}
"""The largest number of a type, and half its smallest: what is smaller rounds to 0 (IEEE 754 binary16; bfloat16 as truncated binary32)."""
FLOATS = frozenset({"FP32", "FP16", "BF16", "FP64"})
NEAR = 0.9
AT_ONCE_BYTES = 256 * 2**20
"""Inner values that are asked for in one call: more are asked for in several."""
SHOWN = 20


@dataclass
class Seen:
    """One value over all calls."""

    largest: float = 0.0
    nonfinite: int = 0
    nonzero: int = 0
    flushed: int = 0


@dataclass
class Overflow:
    """``applies``: the judged graph computes in ``type``; otherwise it is what that type would make of it. Rows are bounded, counts are not."""

    type: str
    limit: float
    applies: bool
    ran: str
    calls: int
    values: int
    over: list[dict[str, Any]] = field(default_factory=list)
    near: list[dict[str, Any]] = field(default_factory=list)
    flushed: list[dict[str, Any]] = field(default_factory=list)
    over_count: int = 0
    near_count: int = 0
    kept: int = 0
    inputs: str = ""

    @property
    def ok(self) -> bool:
        return not (self.applies and self.over_count)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def overflow_of(
    path: str | Path, feeds: Sequence[Mapping[str, np.ndarray]], *, typed: Facts | None = None, inputs: str = ""
) -> Overflow:
    """``path``: the graph that is run. ``typed``: the graph that is judged, where it is another. ``feeds``: the calls' arrays.

    Raises ModelError, ItemError(reason="model") and RuntimeMissing as the runtime does.
    """
    from workbench.backends.onnx import ONNXBackend

    run = facts_of(path)
    judged = typed or run
    kinds = [kind for kind in judged.types.values() if kind in RANGES]
    kind = max(sorted(set(kinds)), key=kinds.count) if kinds else "FP16"
    seen: dict[str, Seen] = {}
    program = ONNXBackend().open(path, {"reading": "pure"})
    try:
        for arrays in feeds:
            for names in _portions(run):
                _, inner = program.observe(arrays, names)
                for name, array in inner.items():
                    _count(seen.setdefault(name, Seen()), array, kind)
    finally:
        program.close()
    low = _low(run)
    found = Overflow(kind, RANGES[kind][0], bool(kinds), kind.lower() if low else "fp32", len(feeds), len(seen))
    found.inputs = inputs
    for name, value in sorted(seen.items(), key=lambda pair: (-pair[1].largest, pair[0])):
        _sort(found, name, value, judged, low=low)
    found.flushed = sorted(found.flushed, key=lambda row: (-row["share"], row["value"]))[:SHOWN]
    found.over, found.near = found.over[:SHOWN], found.near[:SHOWN]
    return found


def _low(facts: Facts) -> bool:
    return any(kind in RANGES for kind in facts.types.values())


def _portions(facts: Facts) -> Iterator[list[str]]:
    """The floating-point values that nodes of the graph itself make, few enough at once to be held."""
    names: list[str] = []
    held = 0
    for node in facts.nodes:
        for name in node.outputs:
            if node.inner or name in facts.constants or facts.types.get(name) not in FLOATS:
                continue
            count = 1
            for size in facts.shapes.get(name, ()):
                count *= size if isinstance(size, int) else 64
            names.append(name)
            held += bytes_of("FP32", count)
            if held > AT_ONCE_BYTES:
                yield names
                names, held = [], 0
    if names:
        yield names


def _count(seen: Seen, array: np.ndarray, kind: str) -> None:
    import numpy

    values = numpy.abs(array.astype(numpy.float32, copy=False))
    finite = numpy.isfinite(values)
    seen.nonfinite += int(values.size - finite.sum())
    if finite.any():
        seen.largest = max(seen.largest, float(values[finite].max()))
    seen.nonzero += int((values > 0).sum())
    seen.flushed += int(((values > 0) & (values <= RANGES[kind][1])).sum())


def _sort(found: Overflow, name: str, value: Seen, judged: Facts, *, low: bool) -> None:
    here = judged.types.get(name)
    row = {"value": name, "largest": value.largest, "nonfinite": value.nonfinite, "here": here}
    over = value.largest > found.limit or (low and value.nonfinite > 0)
    if found.applies and here in ("FP32", "FP64"):
        found.kept += over
    elif over:
        found.over.append(row)
        found.over_count += 1
    elif value.largest > NEAR * found.limit:
        found.near.append(row)
        found.near_count += 1
    if value.flushed and not (found.applies and here in ("FP32", "FP64")):
        found.flushed.append({"value": name, "share": value.flushed / value.nonzero, "count": value.flushed, "here": here})
