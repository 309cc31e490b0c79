"""What a report shows of a model's readiness for TensorRT: nodes listed for a version or not, restrictions, memory, what leaves fp16's range.

    for view in readiness_views(sides):
        view.stages[0].sentence       # "138 of 138 nodes are listed for v11.1; opset 20 is in its 9 to 24"

It comes from the bundle (what the model said of itself when it was loaded), made by ``workbench.convert.onnx.readiness`` when the model was
converted, and is foreign text. "Listed" is a fact of a dated table. Whether an engine can be built is not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import BundleError
from workbench.parity.shapes import SIZE, Each, Maybe, misfit
from workbench.parity.sides import Side
from workbench.report.text import bounded, byte_text, markdown, significant

LISTED = 12
LARGEST_FP16 = 65504
LONGEST = 400
ABOUT = (
    "What ONNX-TensorRT's own list says of every node of the graphs, by type and restriction, for one version. "
    "Listed is not built: whether TensorRT makes an engine of a graph is known where TensorRT is."
)
STAGE = {
    "version": str,
    "sentence": str,
    "nodes": int,
    "listed": int,
    "source": {"words": str},
    "not_listed": [{"kind": str, "op": str, "why": str, "count": int, "nodes": [str]}],
    "not_listed_rows": int,
    "unchecked": [{"op": str, "words": str, "count": int}],
    "dynamic": [{"input": str, "size": str, "range": Maybe([int])}],
    "data_dependent": [{"op": str, "why": str, "count": int}],
    "int64": {"nodes": int},
    "memory": {"weight_bytes": SIZE, "activation_bytes": SIZE, "unsized": int, "sizes": dict},
    "overflow": Maybe(
        {
            "type": str,
            "limit": float,
            "calls": int,
            "values": int,
            "over_count": int,
            "near_count": int,
            "kept": int,
            "inputs": str,
            "over": [{"value": str, "largest": Maybe(float)}],
            "near": [{"value": str, "largest": Maybe(float)}],
            "flushed": [{"value": str, "share": float}],
        }
    ),
    "capability": Maybe({"tensorrt": str, "error_count": int}),
    "notes": [str],
}
KINDS = {"operator": "not listed", "plugin": "not listed", "type": "types", "restriction": "restricted"}


@dataclass(frozen=True)
class StageView:
    """One graph. ``problems``: what is not listed, or outside of what is; ``remarks``: what is worth knowing beside."""

    name: str
    sentence: str
    ok: bool
    problems: list[str]
    remarks: list[str]
    memory: str
    range: str


@dataclass(frozen=True)
class ReadinessView:
    """One artifact: sides that ran the same graphs share one."""

    label: str
    version: str
    source: str
    stages: list[StageView]
    notes: list[str]

    @property
    def ok(self) -> bool:
        return all(stage.ok for stage in self.stages)


def readiness_views(sides: Sequence[Side]) -> list[ReadinessView]:
    """Of every side whose model says its readiness, in their order. Raises BundleError where what it says is damaged."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for side in sides:
        said = side.loaded.get("readiness")
        if not said:
            continue
        check(said, side.label)
        same = next((labels for labels, other in found if other == said), None)
        if same is None:
            found.append(([side.label], said))
        else:
            same.append(side.label)
    return [view_of(", ".join(dict.fromkeys(labels)), said) for labels, said in found]


def check(said: Any, label: str) -> None:
    """Raises BundleError for a readiness of another kind than is written."""
    why = misfit(said, Each(STAGE), "model.readiness")
    if why:
        raise BundleError(f"the bundle of {label} is damaged", why=why, fix="workbench eval ... --fresh")


def view_of(label: str, stages: Mapping[str, Any]) -> ReadinessView:
    first = next(iter(stages.values()))
    notes = list(dict.fromkeys(note for stage in stages.values() for note in stage["notes"]))
    views = [stage_view(name, stage) for name, stage in stages.items()]
    return ReadinessView(label, first["version"], first["source"]["words"], views, notes)


def stage_view(name: str, stage: Mapping[str, Any]) -> StageView:
    """One graph's verdict as text; ``stage`` is what ``workbench.convert.onnx.readiness.Readiness.to_json`` wrote."""
    problems = [problem_text(row) for row in stage["not_listed"][:LISTED]]
    more = stage["not_listed_rows"] - len(problems)
    problems += [f"and {more:,} more reasons, in the bundle"] if more > 0 else []
    return StageView(
        name,
        stage["sentence"],
        stage.get("ok") is True,
        problems,
        list(remarks(stage)),
        memory_text(stage["memory"]),
        range_text(stage["overflow"]),
    )


def problem_text(row: Mapping[str, Any]) -> str:
    """``not listed: Unique × 1 (node_7): is listed as not supported for v11.1``."""
    op = f"{row['domain']}.{row['op']}" if row.get("domain") else row["op"]
    return f"{KINDS.get(row['kind'], row['kind'])}: {op} × {row['count']:,} ({', '.join(row['nodes'][:3])}): {row['why']}"


def remarks(stage: Mapping[str, Any]) -> Iterator[str]:
    """What is not held against a graph: rules that cannot be told from it, sizes that vary, values that decide how much comes out."""
    for row in stage["unchecked"][:LISTED]:
        yield f"cannot be told from the graph: {row['op']} × {row['count']:,}: {row['words']}"
    sizes: dict[tuple[str, str], list[str]] = {}
    for row in stage["dynamic"]:
        known = row["range"]
        words = f"{known[0]:,} to {known[2]:,}, mostly {known[1]:,}" if known and len(known) == 3 else "no range is known"
        sizes.setdefault((row["size"], words), []).append(row["input"])
    for (size, words), inputs in list(sizes.items())[:LISTED]:
        yield f"varies: {size} of {', '.join(inputs)}: {words}"
    for row in stage["data_dependent"][:LISTED]:
        yield f"depends on the data: {row['op']} × {row['count']:,}: {row['why']}"
    if stage["int64"]["nodes"]:
        made = ", ".join(f"{op} × {count}" for op, count in (stage["int64"].get("operators") or {}).items())
        yield f"64-bit integers come out of {_count(stage['int64']['nodes'], 'node')}{f' ({made})' if made else ''}"
    if seen := stage["overflow"]:
        rows = [f"{row['value']} {100 * row['share']:.3g} %" for row in seen["flushed"][:3]]
        falls = "falls" if seen.get("applies") else "would fall"
        if rows:
            yield f"{falls} to zero in {seen['type']}, of what is not 0: {', '.join(rows)}{', ...' if len(seen['flushed']) > 3 else ''}"
    if asked := stage["capability"]:
        verdict = "takes it" if asked.get("ok") is True else f"names {_count(asked['error_count'], 'error')}"
        yield f"the parser of the TensorRT {asked['tensorrt']} that is installed {verdict}"


def memory_text(memory: Mapping[str, Any]) -> str:
    """``4.5 MB weights, 0.5 MB values at most (T = 512)``: an estimate."""
    sizes = ", ".join(f"{name} = {size:,}" for name, size in memory["sizes"].items() if isinstance(size, int))
    text = f"{byte_text(memory['weight_bytes'])} weights, {byte_text(memory['activation_bytes'])} values at most"
    return (
        text
        + (f" ({sizes})" if sizes else "")
        + (f"; {_count(memory['unsized'], 'value')} of unknown size" if memory["unsized"] else "")
    )


def range_text(seen: Mapping[str, Any] | None) -> str:
    """``1 of 412 values over 65,504: add_3 (81,920); 2 near it``; nothing where it was not looked at."""
    if seen is None:
        return "not looked at"
    head = f"{seen['over_count']:,} of {seen['values']:,} values over {number_text(seen['limit'])}"
    if seen["over"]:
        head += f": {_values(seen['over'])}"
    parts = [head]
    parts += [f"{seen['near_count']:,} within a tenth of it: {_values(seen['near'])}"] if seen["near_count"] else []
    parts += [f"{seen['kept']:,} more stay fp32"] if seen["kept"] else []
    parts += [] if seen.get("applies") else [f"in {seen['type']}, which this graph is not"]
    return f"{'; '.join(parts)} (on {_count(seen['calls'], 'call')}{f' of {inputs}' if (inputs := seen['inputs']) else ''})"


def number_text(value: float) -> str:
    if isinstance(value, int) and abs(value) > 10**300:
        return "beyond any float"
    return f"{value:.3g}" if abs(value) > 1e9 else significant(float(value))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _values(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['value']} ({_largest(row)})" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")


def _largest(row: Mapping[str, Any]) -> str:
    """The largest of one value; what became infinite in fp16 itself has none."""
    if row["largest"] is None or (row.get("nonfinite") and abs(row["largest"]) <= LARGEST_FP16):
        return "not finite"
    return number_text(row["largest"])


def readiness_parts(sides: Sequence[Side]) -> Iterator[str]:
    """The same in Markdown."""
    views = readiness_views(sides)
    if views:
        yield "## Readiness for TensorRT"
        yield ABOUT
    for view in views:
        yield f"**{markdown(view.label, LONGEST)}**, by {markdown(view.source, LONGEST)}:"
        lines = []
        for stage in view.stages:
            lines.append(f"- {markdown(stage.name, 80)}: {markdown(stage.sentence, LONGEST)}")
            lines += [f"  - {markdown(text, LONGEST)}" for text in [*stage.problems, *stage.remarks]]
            lines.append(f"  - memory, estimated: {markdown(stage.memory, LONGEST)}")
            lines.append(f"  - range: {markdown(stage.range, LONGEST)}")
        lines += [f"- {markdown(bounded(note, LONGEST), LONGEST + 100)}" for note in view.notes]
        yield "\n".join(lines)
