"""Layer records: what every recorded layer put out, as statistics, sketches, and values where they were kept.

``layers.jsonl`` holds one line an item, pass and layer, in order of execution::

    {"id": "digits-0001", "pass": "float32", "order": 7, "layer": "vision.block.0", "path": "model.vision_tower.encoder.layers.0",
     "shape": [1, 17, 64], "calls": 1, "n": 1088, "non_finite": 0, "min": -3.1, "max": 2.9, "mean": 0.01, "rms": 0.98, "square": ...,
     "values": 1088, "one_in": 1}

``tensors/layers-<part>.safetensors`` holds one item's arrays: ``<pass>/<layer>/sketch`` (float64, ``metrics.sketch``) and, where kept,
``<pass>/<layer>/values``: all of them (``one_in`` 1), or those at the places that ``sampled`` names. Reading needs numpy and safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.run import journal
from workbench.run.bundle import LAYERS_FILE, Run
from workbench.run.token_records import items_of, next_part, parts_of

PREFIX = "layers"
PRECISIONS = ("float64", "float32", "float16", "bfloat16")
"""Names of passes in a precision, from the most exact on, by their rounding."""
LOCALISED = "localised-"
"""A pass on the activations of another capture: this and the first 12 digits of that one's run key."""
MIX = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiplied by it, places spread evenly, so a sample takes all channels alike."""
PIECE = 2**20
"""Places that are worked on at a time."""
COARSEST = 2**14
"""One value in so many is the thinnest sample: of a layer with 69 billion values, 4 million."""
MOST = 2**62
SLACK = 64
"""A sample holds one in ``one_in`` values to within a few: places are spread evenly."""


@dataclass
class Record:
    """One layer of one item in one pass: its line of ``layers.jsonl``, with the arrays of its tensors."""

    line: dict[str, Any]
    sketch: Any
    values: Any = None

    @property
    def layer(self) -> str:
        return self.line["layer"]

    @property
    def one_in(self) -> int:
        return int(self.line.get("one_in") or 1)

    def moments(self) -> dict[str, Any]:
        """As ``metrics.sketch.estimated_error`` takes them."""
        return {**self.line, "sketch": self.sketch}


@dataclass
class ItemRecords:
    """All passes of one item: ``{pass: {layer: Record}}``, layers in order of execution."""

    id: str
    passes: dict[str, dict[str, Record]] = field(default_factory=dict)


def sampled(n: int, one_in: int, begin: int = 0):
    """The places from ``begin`` on, of ``n``, that a sample of one in ``one_in`` (a power of two) holds; a coarser sample's are among a
    finer one's. Needs memory for the result and one piece."""
    import numpy

    if one_in == 1:
        return numpy.arange(begin, n)
    found = [numpy.zeros(0, numpy.int64)]
    for start in range(begin, n, PIECE):
        spread = numpy.arange(start, min(n, start + PIECE), dtype=numpy.uint64) * numpy.uint64(MIX)
        found.append(numpy.flatnonzero(spread < numpy.uint64(2**64 // one_in)) + start)
    return numpy.concatenate(found)


def write_layers(folder: Path, item: ItemRecords) -> Path:
    """Write one item's arrays, replaced in one step, then its lines belong into ``layers.jsonl`` (``lines_of``)."""
    import numpy
    from safetensors.numpy import save

    tensors = folder / "tensors"
    tensors.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, records in item.passes.items():
        for layer, record in records.items():
            arrays[f"{name}/{layer}/sketch"] = record.sketch
            if record.values is not None:
                arrays[f"{name}/{layer}/values"] = numpy.ascontiguousarray(record.values)
    path = next_part(tensors, PREFIX)
    journal.write_atomically(path, save(arrays, {"items": json.dumps([[item.id, len(arrays)]])}))
    return path


def lines_of(item: ItemRecords) -> list[dict[str, Any]]:
    return [record.line for records in item.passes.values() for record in records.values()]


class LayerRecords:
    """A capture's records, item by item; only the lines are held in memory. Raises BundleError where they are damaged."""

    def __init__(self, run: Run):
        self.run = run
        self.lines: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        for number, line in enumerate(lines_in(run), 1):
            if why := problem(line):
                raise BundleError(
                    f"{LAYERS_FILE} of {run.name} is damaged at line {number}", why=why, fix=f"workbench verify {run.name}"
                )
            known = self.lines.setdefault(line["id"], {})
            known.pop((line["pass"], line["layer"]), None)  # written again after a crash: the last counts, and in its order
            known[line["pass"], line["layer"]] = line
        # Of several files of one item (a crash between writing and noting) the last counts.
        self.files = {name: path for path in parts_of(run.tensors, PREFIX) for name, _ in items_of(path)}

    def __contains__(self, name: str) -> bool:
        return name in self.lines

    def read(self, name: str) -> ItemRecords:
        """All passes of one item, the model's own first. Raises BundleError where its tensors are missing or damaged."""
        if name not in self.files:
            raise BundleError(
                f"{self.run.name} lacks the tensors of {name!r}", why=f"{LAYERS_FILE} has its statistics", fix="capture again"
            )
        return read_item(self.run, name, self.files[name], self.lines[name])


def lines_in(run: Run) -> Iterator[Any]:
    """What ``layers.jsonl`` holds, unchecked. Raises BundleError."""
    try:
        yield from journal.read(run.folder / LAYERS_FILE)
    except RecursionError as error:
        raise BundleError(f"{LAYERS_FILE} of {run.name} is damaged", why="a line is nested too deeply") from error


def read_item(run: Run, name: str, path: Path, known: Mapping[tuple[str, str], dict[str, Any]]) -> ItemRecords:
    from safetensors import SafetensorError, safe_open

    found = ItemRecords(name)
    try:
        with safe_open(path, framework="numpy") as file:
            here = set(file.keys())
            for (kind, layer), line in known.items():
                key = f"{kind}/{layer}"
                kept = file.get_tensor(f"{key}/values").reshape(-1) if f"{key}/values" in here else None
                if (0 if kept is None else kept.size) != (line.get("values") or 0):
                    raise ValueError(
                        f"{key!r} has {0 if kept is None else kept.size} values, {LAYERS_FILE} says {line.get('values') or 0}"
                    )
                record = Record(line, file.get_tensor(f"{key}/sketch"), kept)
                if why := unlike(record):
                    raise ValueError(f"{key!r}: {why}")
                found.passes.setdefault(kind, {})[layer] = record
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path.name} of {run.name} is damaged", why=str(error)[:200], fix="capture again") from error
    return found


def unlike(record: Record) -> str | None:
    """What of a layer's arrays is not what ``write_layers`` writes; None when nothing. A sketch of another kind would be compared
    without a word."""
    import numpy

    from workbench.metrics.sketch import WIDTH

    if record.sketch.shape != (WIDTH,) or record.sketch.dtype.kind != "f" or not numpy.isfinite(record.sketch).all():
        return f"its sketch is no {WIDTH} finite numbers"
    if record.values is None:
        return None
    if record.values.dtype.kind != "f":
        return f"its values are {record.values.dtype}, not floating point"
    n, size, one_in = record.line["n"], record.values.size, record.one_in
    if size != n if one_in == 1 else abs(size - n / one_in) > SLACK:
        return f"{size} values are not one in {one_in} of {n}"
    return None


def problem(line: Any) -> str | None:
    """Why a line is no layer's; None when it is one."""
    if not isinstance(line, dict):
        return "it is no mapping"
    for name in ("id", "pass", "layer"):
        if not isinstance(line.get(name), str):
            return f"{name} is no text"
    for name in ("order", "n", "non_finite"):
        if not is_count(line.get(name)):
            return f"{name} is no count"
    if line["non_finite"] > line["n"]:
        return "more values are not finite than there are"
    if not is_number(line.get("square")) or line["square"] < 0:
        return "square is no sum of squares"
    for name in ("min", "max", "mean", "rms"):
        if line.get(name) is not None and not is_number(line[name]):
            return f"{name} is no number"
    shape = line.get("shape")
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(is_count, shape)):
        return "shape is no list of numbers"
    if prod(shape) != line["n"]:
        return f"shape {'×'.join(map(str, shape))[:60]} does not hold {line['n']} values"
    one_in = line.get("one_in")
    if one_in is not None and not (is_count(one_in) and 1 <= one_in <= COARSEST and one_in & (one_in - 1) == 0):
        return f"one_in is no power of two up to {COARSEST}"
    return None


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def is_number(value: Any) -> bool:
    """Finite as a float: JSON holds whole numbers of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
