"""Is every node of an ONNX file listed for a TensorRT version? Judged from a dated table, before there is a GPU.

    found = judge("prefill.onnx", version="11.4")
    found.sentence        # "512 of 512 nodes are listed for v11.1; opset 20 is in its 9 to 24"
    readiness_of("prefill.onnx", feeds=calls)["overflow"]["over"]

Listed means that ONNX-TensorRT's own list has the operator with these types, and that no restriction in its words is broken as far as a
graph shows. It does not mean that an engine can be built, which only TensorRT can say (``workbench.convert.onnx.capability``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.onnx.facts import Facts, Node, facts_of
from workbench.convert.onnx.memory import Memory, memory_of
from workbench.convert.onnx.overflow import Overflow
from workbench.convert.onnx.restrictions import violated
from workbench.convert.onnx.tables import Table, number, table_for

if TYPE_CHECKING:
    import numpy as np

SHOWN = 30
EXAMPLES = 3
DATA_DEPENDENT = {
    "NonZero": "how many values it finds is known when it has run",
    "NonMaxSuppression": "how many boxes it keeps is known when it has run",
    "Unique": "how many values it finds is known when it has run",
    "Compress": "how many values it keeps is known when it has run",
    "If": "which branch runs is known when its condition is",
    "Loop": "how often it runs is known when its condition is",
}
OUTPUT_TYPED = frozenset({"Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "OneHot", "Where", "If"})
"""Whose listed types are about what comes out too."""
CONTROL = frozenset({"If", "Loop", "Scan"})


@dataclass(frozen=True)
class Row:
    """One reason with the nodes that it is about. ``kind``: operator, plugin, type, restriction."""

    kind: str
    op: str
    domain: str
    why: str
    count: int
    nodes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "op": self.op,
            "domain": self.domain,
            "why": self.why,
            "count": self.count,
            "nodes": list(self.nodes),
        }


@dataclass
class Readiness:
    """``rows``: what is not listed, or outside of what is. ``unchecked``: restrictions that a graph does not show to be kept or broken."""

    table: Table
    asked: str | None
    opset: int
    nodes: int
    listed: int
    operators: dict[str, int]
    rows: list[Row]
    unchecked: list[dict[str, Any]]
    dynamic: list[dict[str, Any]]
    data_dependent: list[dict[str, Any]]
    int64: dict[str, Any]
    memory: Memory
    functions: tuple[str, ...] = ()
    external: dict[str, int] = field(default_factory=dict)
    overflow: Overflow | None = None
    capability: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def opset_listed(self) -> bool:
        low, high = self.table.opsets
        return low <= self.opset <= high

    @property
    def ok(self) -> bool:
        """Nothing to report: every node listed, the opset too, and nothing over the range of its type. Never that it will build."""
        return self.listed == self.nodes and self.opset_listed and (self.overflow is None or self.overflow.ok)

    @property
    def sentence(self) -> str:
        low, high = self.table.opsets
        opset = f"opset {self.opset} is {'in' if self.opset_listed else 'NOT in'} its {low} to {high}"
        return f"{self.listed:,} of {self.nodes:,} nodes are listed for v{self.table.version}; {opset}"

    def to_json(self) -> dict[str, Any]:
        """For a manifest; rows are bounded, counts are not."""
        return {
            "version": self.table.version,
            "asked": self.asked,
            "source": {**self.table.source, "words": self.table.words},
            "sentence": self.sentence,
            "ok": self.ok,
            "opset": self.opset,
            "opsets": list(self.table.opsets),
            "opset_listed": self.opset_listed,
            "nodes": self.nodes,
            "listed": self.listed,
            "operators": self.operators,
            "not_listed": [row.to_json() for row in self.rows[:SHOWN]],
            "not_listed_rows": len(self.rows),
            "unchecked": self.unchecked[:SHOWN],
            "dynamic": self.dynamic[:SHOWN],
            "data_dependent": self.data_dependent[:SHOWN],
            "int64": self.int64,
            "functions": list(self.functions),
            "external": self.external,
            "memory": self.memory.to_json(),
            "overflow": self.overflow.to_json() if self.overflow else None,
            "capability": self.capability,
            "notes": self.notes,
        }


def readiness_of(
    path: str | Path,
    version: str | None = None,
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    *,
    fp32: str | Path | None = None,
    sizes: Mapping[str, int] | None = None,
    inputs: str = "",
) -> dict[str, Any]:
    """The verdict as JSON. ``feeds``: calls to look for overflow on; ``fp32``: the graph before it was typed, which they are run on.
    ``sizes``: what sizes that vary are taken to be for the memory. Raises as ``judge``, and as a runtime does on ``feeds``."""
    return judge(path, version, feeds, fp32=fp32, sizes=sizes, inputs=inputs).to_json()


def with_overflow(found: dict[str, Any], overflow: Mapping[str, Any] | None) -> dict[str, Any]:
    """A verdict as JSON with the overflow that another run of the same graph showed."""
    whole = found["listed"] == found["nodes"] and found["opset_listed"]
    return {**found, "overflow": overflow, "ok": whole and (overflow is None or bool(overflow["ok"]))}


def judge(
    path: str | Path,
    version: str | None = None,
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    *,
    fp32: str | Path | None = None,
    sizes: Mapping[str, int] | None = None,
    inputs: str = "",
) -> Readiness:
    """Raises UsageError (no table is that old), ModelError (no ONNX file, weights missing or elsewhere, shapes that cannot be)."""
    from workbench.convert.onnx.capability import capability_of
    from workbench.convert.onnx.overflow import overflow_of

    table = table_for(version)
    facts = facts_of(path)
    overflow = None
    if feeds:
        overflow = overflow_of(fp32 or path, feeds, typed=facts if fp32 else None, inputs=inputs)
    found = of_facts(facts, table, version, sizes=sizes, overflow=overflow)
    found.capability = capability_of(path)
    return found


def of_facts(
    facts: Facts,
    table: Table,
    asked: str | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    overflow: Overflow | None = None,
) -> Readiness:
    """The verdict over facts that were read already."""
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    unchecked: Counter[tuple[str, str]] = Counter()
    unlisted = 0
    for node in facts.nodes:
        found = list(_reasons(node, facts, table, unchecked))
        unlisted += bool(found)
        for kind, why in found:
            reasons.setdefault((kind, node.op, node.domain, why), []).append(node.name)
    order = ("operator", "plugin", "type", "restriction")
    rows = [Row(*key, len(names), tuple(names[:EXAMPLES])) for key, names in reasons.items()]
    rows.sort(key=lambda row: (order.index(row.kind), -row.count, row.op, row.why))
    operators = Counter(f"{node.domain}.{node.op}" if node.domain else node.op for node in facts.nodes)
    return Readiness(
        table,
        asked,
        facts.opset,
        len(facts.nodes),
        len(facts.nodes) - unlisted,
        dict(operators.most_common()),
        rows,
        [{"op": op, "words": words, "count": count} for (op, words), count in unchecked.most_common()],
        [
            {"input": name, "size": size, "range": list(facts.ranges.get(size, ())) or None}
            for name, size in dict.fromkeys(facts.dynamic)
        ],
        _data_dependent(facts),
        _int64(facts),
        memory_of(facts, sizes),
        functions=facts.functions,
        external=facts.external,
        overflow=overflow,
        notes=_notes(facts, table, asked),
    )


def _reasons(node: Node, facts: Facts, table: Table, unchecked: Counter[tuple[str, str]]):
    """(kind, why) for everything that a node is not listed with."""
    if node.domain:
        yield "plugin", f"operators of the domain {node.domain} are not in the list: a plugin of that name is needed"
        return
    if table.operators.get(node.op) is None:
        why = f"has no row in the list for v{table.version}"
        if node.op in table.operators:
            why = f"is listed as not supported for v{table.version}"
        later = table.added_later(node.op)
        yield "operator", f"{why}; {later['source']} names it" if later else why
        return
    types = table.types(node.op) or ()
    wrong = sorted({kind for kind in _types_of(node, facts) if kind not in types})
    if wrong and types:
        yield "type", f"{', '.join(wrong)}: listed for v{table.version} with {', '.join(types)}"
    for rule in table.restrictions.get(node.op, ()):
        broken = violated(rule, node, facts)
        if broken:
            yield "restriction", rule["words"]
        elif broken is None:
            unchecked[node.op, rule["words"]] += 1


def _types_of(node: Node, facts: Facts) -> set[str]:
    """Those that an operator's listed types are about: its first input's and all of the same letter; what comes out, for some."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        first = [facts.type_of(value) for value in node.inputs[:1]]
        return {_cast(kind) for kind in first if kind}
    given = _pairs(schema.inputs, node.inputs)
    made = _pairs(schema.outputs, node.outputs)
    letters = {given[0][0]} if given and node.op not in CONTROL else set()
    letters |= {letter for letter, _ in made} if node.op in OUTPUT_TYPED else set()
    values = [value for letter, value in [*given, *made] if letter in letters and value]
    if node.op in ("QuantizeLinear", "DequantizeLinear", "ConstantOfShape"):
        values = list(node.outputs if node.op == "ConstantOfShape" else node.inputs[:1])
    return {_cast(kind) for value in values if (kind := facts.type_of(value))}


def _cast(kind: str) -> str:
    """FP64 is cast to FP32, as the list says at its head."""
    return "FP32" if kind == "FP64" else kind


def _pairs(formals: Any, values: Sequence[str]) -> list[tuple[str, str]]:
    """(type letter, value); the last formal may stand for any number of values."""
    formals = list(formals)
    return [(formals[min(place, len(formals) - 1)].type_str, value) for place, value in enumerate(values)] if formals else []


def _data_dependent(facts: Facts) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[str]] = {}
    for node in facts.nodes:
        why = DATA_DEPENDENT.get(node.op) if not node.domain else None
        if node.op == "TopK" and not node.domain and len(node.inputs) > 1 and node.inputs[1] not in facts.constants:
            why = "its K is computed"
        if why:
            found.setdefault((node.op, why), []).append(node.name)
    return [{"op": op, "why": why, "count": len(names), "nodes": names[:EXAMPLES]} for (op, why), names in found.items()]


def _int64(facts: Facts) -> dict[str, Any]:
    """Where 64-bit integers are: they are listed types, and slower than 32-bit ones where they are tensors and not shapes."""
    made = Counter(node.op for node in facts.nodes if any(facts.type_of(value) == "INT64" for value in node.outputs))
    ends = [value for value in (*facts.inputs, *facts.outputs) if facts.type_of(value) == "INT64"]
    return {"nodes": sum(made.values()), "operators": dict(made.most_common(10)), "inputs_and_outputs": ends}


def _notes(facts: Facts, table: Table, asked: str | None) -> list[str]:
    notes = []
    if asked and number(asked) != number(table.version):
        notes.append(f"asked for TensorRT {asked}: the newest list that is not newer is that for {table.version}")
        notes += [
            f"named by {row['source']}, and not in the list: {row['words']}"
            for row in table.later
            if number(row["tensorrt"]) <= number(asked)
        ]
    if any(kind == "FP64" for kind in facts.types.values()):
        notes.append(table.general[0])
    ends = {*facts.inputs, *facts.outputs}
    inner = [name for name, kind in facts.types.items() if kind == "UINT8" and name not in ends and name not in facts.constants]
    if inner:
        notes.append(f"{table.general[2]}; here also {', '.join(inner[:EXAMPLES])}")
    unknown = sorted({size for name, size in facts.dynamic if size not in facts.ranges})
    if unknown:
        notes.append(f"no range is known for {', '.join(unknown[:8])}: an optimisation profile has to say one")
    return notes
