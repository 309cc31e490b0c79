"""What a report shows of a Core ML program's capture: its ops, how its weights are compressed, findings, and how far its outputs are from
the twin's in every reading.

    for view in program_views(sides):
        view.band        # [BandRow("logits", [("float32", TensorError(...)), ...])]

Everything comes from the bundle (``artifact.json``: ``program``, ``twin``), and is foreign text. There is no timing: a reference executor
says nothing about speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from workbench.metrics.tensors import TensorError
from workbench.parity.shapes import Each, Maybe, damaged, misfit
from workbench.parity.sides import Side
from workbench.parity.tensors import error_of
from workbench.report.text import bounded, error_text
from workbench.run.bundle import Run
from workbench.run.layer_records import LayerRecords, Record

OUTPUT = "output."
TRUTH = "float64"
LISTED = 12
FINDING = {"kind": str, "text": str, "ops": Maybe([str])}
PROGRAM = Maybe(
    {
        "path": str,
        "function": str,
        "opset": str,
        "precision": str,
        **dict.fromkeys(("inputs", "outputs", "states"), [str]),
        "ops": [{"type": str, "opset": str, "count": int, "precisions": [str], "reason": Maybe(str)}],
        "weights": [{"name": str, "compression": str, "stored_bytes": int, "dense_bytes": int}],
        "findings": [FINDING],
        "metadata": Each(str),
    }
)
TWIN = Maybe({"of": Maybe(str), "outputs": [{"output": str, "twin": Maybe(str), "how": str}]})
RUN_FINDINGS = Maybe([FINDING])
WORDS = {
    "unsupported": "not supported",
    "dynamic-shape": "shapes",
    "neural-engine": "placement",
    "nan": "not a number",
    "overflow": "range of fp16",
    "constant": "constants",
    "compression": "compression",
}
METADATA = {"source": "converted from", "source_dialect": "dialect", "version": "coremltools"}
READINGS = {
    "float16": "fp16, as it is written",
    "float32": "fp32, as it is written",
    "emulate": "emulate: fp32, each fp16 result rounded",
    "fp16-weights": "only the stored values are fp16",
    "float64": "no rounding (float64)",
}


@dataclass(frozen=True)
class BandRow:
    """One output in every reading. ``how``: by what the twin's output was told to be this one."""

    output: str
    errors: list[tuple[str, TensorError]]
    twin: str | None = None
    how: str | None = None

    @property
    def n(self) -> int:
        """Values over all inputs."""
        return max((error.n for _, error in self.errors), default=0)

    @property
    def cells(self) -> list[tuple[str, str, str]]:
        """(reading, SNR, largest error) as text."""
        return [(READINGS.get(name, name), snr_text(error), error_text(error.max_abs)) for name, error in self.errors]


@dataclass(frozen=True)
class WeightGroup:
    """Weights of one kind of compression; ``names`` of the first few."""

    compression: str
    count: int
    stored_bytes: int
    dense_bytes: int
    names: list[str]
    skipped: list[str]
    """Of these, the ones that were left as they are while others were compressed."""


@dataclass(frozen=True)
class ProgramView:
    """One program. ``against``: whose outputs the band is measured from."""

    label: str
    facts: list[tuple[str, str]]
    ops: list[Mapping[str, Any]]
    weights: list[Mapping[str, Any]]
    groups: list[WeightGroup]
    findings: list[tuple[str, str, int]]
    band: list[BandRow]
    against: str

    @property
    def readings(self) -> list[str]:
        return list(dict.fromkeys(READINGS.get(name, name) for row in self.band for name, _ in row.errors))


def program_views(sides: Sequence[Side]) -> list[ProgramView]:
    """Of every capture of a program, in the order of the sides. Raises BundleError where one is damaged."""
    found = []
    for side in sides:
        for run in side.captures:
            program = part_of(run, "program", PROGRAM)
            if program is not None:
                found.append(view_of(side, run, program, sides))
    return found


def part_of(run: Run, name: str, shape: Any) -> Any:
    """A part of ``artifact.json``, checked; None where the bundle has none. Raises BundleError."""
    value = (run.artifact or {}).get(name)
    if why := misfit(value, shape, name):
        raise damaged(run, "artifact.json", why)
    return value


def view_of(side: Side, run: Run, program: Mapping[str, Any], sides: Sequence[Side]) -> ProgramView:
    twin_side, twin = twin_of(side, sides)
    rows = band(run, twin, matches_of(run, twin))
    if twin is not None and not any(row.errors for row in rows) and not matches_of(run, twin):
        twin_side, rows = None, band(run, None, {})
    metadata = {name.rpartition(".")[2]: value for name, value in program["metadata"].items()}
    facts = [
        ("function", program["function"]),
        ("opset", program["opset"]),
        ("precision", program["precision"]),
        *((name, "; ".join(program[name])) for name in ("inputs", "outputs", "states") if program[name]),
        *((words, metadata[name]) for name, words in METADATA.items() if name in metadata),
    ]
    found = [*program["findings"], *(each for line in run.items().values() for each in run_findings(run, line))]
    unique = {(each["kind"], each["text"]): each for each in found}
    return ProgramView(
        side.label,
        facts,
        program["ops"],
        program["weights"],
        weight_groups(program["weights"]),
        [(WORDS.get(each["kind"], each["kind"]), each["text"], len(each.get("ops") or ())) for each in unique.values()],
        rows,
        "the program without rounding (float64)" if twin_side is None else twin_side.label,
    )


def matches_of(run: Run, twin: Run | None) -> dict[str, Mapping[str, Any]]:
    """By output; {} where the reference was not captured as this program's twin."""
    if twin is None or (twin.manifest["key"]["task"].get("twin_of") or "") != run.manifest["run_key"][:12]:
        return {}
    return {match["output"]: match for match in (part_of(twin, "twin", TWIN) or {"outputs": []})["outputs"]}


def run_findings(run: Run, line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = (line.get("capture") or {}).get("findings")
    if why := misfit(found, RUN_FINDINGS, "capture.findings"):
        raise damaged(run, "samples.jsonl", why)
    return found or []


def twin_of(side: Side, sides: Sequence[Side]) -> tuple[Side | None, Run | None]:
    """The reference, where this side is not itself the reference and the two share inputs."""
    reference = sides[0]
    if reference is side or not reference.captures:
        return None, None
    mine = {(name, line["input_hash"]) for run in side.captures for name, line in run.items().items()}
    run = next(
        (each for each in reference.captures if mine & {(name, line["input_hash"]) for name, line in each.items().items()}), None
    )
    return (reference, run) if run is not None else (None, None)


def band(run: Run, twin: Run | None, matches: Mapping[str, Mapping[str, Any]]) -> list[BandRow]:
    """The error of each output in each reading, over all inputs: from the twin's own pass, else from the program's float64 one."""
    mine, theirs = LayerRecords(run), None if twin is None else LayerRecords(twin)
    pooled: dict[str, dict[str, TensorError]] = {}
    for item in mine.lines:
        if theirs is not None and item not in theirs:
            continue
        passes = mine.read(item).passes
        truth = passes.get(TRUTH, {}) if theirs is None else next(iter(theirs.read(item).passes.values()), {})
        for name, records in passes.items():
            if theirs is None and name == TRUTH:
                continue
            for layer, record in records.items():
                if layer.startswith(OUTPUT) and layer in truth and same_size(truth[layer], record):
                    known = pooled.setdefault(layer.removeprefix(OUTPUT), {})
                    known[name] = known.get(name, TensorError()) + error_of(truth[layer], record)
    rows = []
    for output in dict.fromkeys([*pooled, *matches]):
        match = matches.get(output, {})
        rows.append(BandRow(output, list(pooled.get(output, {}).items()), match.get("twin"), match.get("how")))
    return rows


def same_size(one: Record, other: Record) -> bool:
    return one.line["n"] == other.line["n"]


def weight_groups(weights: Sequence[Mapping[str, Any]]) -> list[WeightGroup]:
    """By how they are stored, the largest first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for weight in weights:
        groups.setdefault(bounded(weight["compression"], 120), []).append(weight)
    found = [
        WeightGroup(
            name,
            len(held),
            sum(each["stored_bytes"] for each in held),
            sum(each["dense_bytes"] for each in held),
            [each["name"] for each in held[:LISTED]],
            [each["name"] for each in held if each.get("skipped") is True],
        )
        for name, held in groups.items()
    ]
    return sorted(found, key=lambda group: -group.stored_bytes)


def snr_text(error: TensorError) -> str:
    """``57.3 dB``; no error at all has no end."""
    if error.n == 0:
        return "–"
    if error.error_square == 0:
        return "∞"
    return f"{error.snr_db:.1f} dB".replace("-", "−") if isfinite(error.snr_db) else "–"
