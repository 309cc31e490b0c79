"""What each side ran on and with, side by side, with the rows that differ marked.

[row.name for row in environment_rows(sides) if row.differs]     # ['torch', 'mlx', 'device']
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.parity.sides import Side, flat
from workbench.report.text import byte_text
from workbench.report.timings import gpu_text

HASH = re.compile(r"[0-9a-f]{32,}")
TIMES = ("first created", "last finished")


@dataclass(frozen=True)
class EnvironmentRow:
    """One property: a value a side, None where the side does not have it. Dates never count as a difference."""

    topic: str
    name: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        return self.name not in TIMES and any(value != self.values[0] for value in self.values)


def environment_rows(sides: Sequence[Side]) -> list[EnvironmentRow]:
    """Rows by topic; a property that no side has is left out."""
    told = [properties(side) for side in sides]
    names = list(dict.fromkeys(key for found in told for key in found))
    order = list(dict.fromkeys(topic for topic, _ in names))
    rows = [EnvironmentRow(topic, name, tuple(found.get((topic, name)) for found in told)) for topic, name in names]
    rows = [row for row in rows if any(value is not None for value in row.values)]
    return sorted(rows, key=lambda row: order.index(row.topic))


def properties(side: Side) -> dict[tuple[str, str], Any]:
    """``{(topic, name): value}`` of one side: its first run's key and latest session, and what differs by task."""
    manifest = side.manifest
    key = manifest["key"]
    found: dict[tuple[str, str], Any] = {}

    def add(topic: str, values: Mapping[str, Any]) -> None:
        found.update({(topic, name.replace("_", " ")): shown(value) for name, value in flat(values).items()})

    add("model", {name: value for name, value in key["model"].items() if name != "size_bytes"})
    add("backend", {**key.get("backend", {}), "evidence": manifest.get("evidence")})
    add("options", key.get("options", {}))
    sessions = [session for run in side.all_runs for session in run.environment]
    if sessions:
        latest = sessions[-1]
        memory = latest.get("memory_bytes")
        add("machine", {"cpu": latest.get("cpu"), "cores": latest.get("cores"), "memory": byte_text(memory) if memory else None})
        add("machine", {"gpus": gpu_text(latest) or None})
        add("machine", {name: latest.get(name) for name in ("system", "system_release", "machine", "python")})
        add("machine", {"device": (latest.get("device") or {}).get("name") or (latest.get("device") or {}).get("kind")})
        add("machine", {"hardware key": latest.get("hardware_key")})
    add("libraries", {**key.get("libraries", {}), "workbench": manifest.get("workbench")})
    for topic, values in (("generation", generation_of), ("task and data", data_of)):
        add(topic, merged({task: flat(values(runs[0].manifest)) for task, runs in side.runs.items()}))
    add("capture", merged({str(number): flat(capture_of(run.manifest)) for number, run in enumerate(side.captures, 1)}))
    created = sorted(run.manifest["created"] for run in side.all_runs if run.manifest.get("created"))
    finished = sorted(run.manifest["finished"] for run in side.all_runs if run.manifest.get("finished"))
    captures = len(side.captures)
    add("run", {"runs": len(side.all_runs) - captures or None, "captures": captures or None, "sessions": len(sessions)})
    add("run", {"first created": created[0] if created else None, "last finished": finished[-1] if finished else None})
    mixed = sorted({name for run in side.all_runs for name in run.manifest.get("mixed_fields", ())})
    add("run", {"mixed fields": ", ".join(mixed) or None})
    return found


def generation_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return manifest["key"].get("generation", {})


def data_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Task version, scorer, data revision and hashes of one run."""
    about = {"version": manifest["task"].get("version"), "scorer": manifest["task"].get("scorer")}
    return {**about, **manifest["key"].get("data", {}), "prompt": manifest["key"].get("task", {}).get("prompt")}


def capture_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What was recorded of which inputs."""
    asked, data = manifest["key"].get("task", {}), manifest["key"].get("data", {})
    found = {name: text_of(asked.get(name)) for name in ("version", "layers", "keep", "also", "localise")}
    names = {"keep": "values kept", "also": "further precisions", "localise": "on the activations of"}
    return {**{names.get(name, name): value for name, value in found.items()}, "inputs": data.get("fingerprint")}


def text_of(value: Any) -> Any:
    """A list in one cell, which differs from another as a whole."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def merged(by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One row where all tasks agree, else one a task: ``{"seed": 0, "max_tokens (mmmu)": 32, "max_tokens (ocrbench)": 128}``."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for values in by_task.values() for name in values):
        each = {task: values.get(name) for task, values in by_task.items()}
        alike = all(value == next(iter(each.values())) for value in each.values())
        found |= {name: next(iter(each.values()))} if alike else {f"{name} ({task})": value for task, value in each.items()}
    return found


def shown(value: Any) -> Any:
    """A value as the table holds it: long hashes by their first digits."""
    if isinstance(value, str) and HASH.fullmatch(value):
        return f"{value[:16]}…"
    return value
