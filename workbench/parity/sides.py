"""One side of a comparison: the runs of one model on one task or several.

    reference, candidate = read_sides(["reports/runs/mmmu-...-torch-1f2e", "reports/runs/mmmu-...-mlx-9c0d"])

Runs of one model with the same settings belong to one side, so the bundles of a whole suite can be given in any number:
``workbench parity reports/runs/*torch* reports/runs/*mlx*`` compares two sides of four tasks each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import BundleError, UsageError
from workbench.fingerprint import of_json
from workbench.run.bundle import Run, differences, find_bundles

OF_THE_SELECTION = ("task", "data")
"""Fields of the run key that say what was asked, not by which model: runs of one side differ in them."""


@dataclass
class Side:
    """``runs`` by task name; several under one name are shards of one run. ``label`` tells the sides of a report apart."""

    label: str
    runs: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return list(self.runs)

    @property
    def all_runs(self) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs]

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of the first run: what all runs of a side share (model, backend, options, libraries, evidence) stands there."""
        return self.all_runs[0].manifest

    @cached_property
    def lines(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The lines of all items: ``{task: {id: line}}``. Read once."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for task, runs in self.runs.items():
            found[task] = {}
            for run in runs:
                found[task] |= run.items()
        return found

    @cached_property
    def loaded(self) -> Mapping[str, Any]:
        """What the model said of itself when it was loaded (``describe()``), of the latest session; {} where none is recorded."""
        for run in self.all_runs:
            said = [event["model"] for event in run.events() if event["event"] == "loaded" and event.get("model")]
            if said:
                return said[-1]
        return {}

    @property
    def text(self) -> str:
        return self.manifest["model"]["text"]

    def takes(self, run: Run) -> bool:
        """Does ``run`` belong to this side: same model and settings, and another task, or another shard of a task it has?"""
        if signature(run) != signature(self.all_runs[0]):
            return False
        others = self.runs.get(run.manifest["task"]["name"], [])
        shards = [other.manifest["asked"].get("shard") for other in others]
        return not others or (None not in shards and (own := run.manifest["asked"].get("shard")) is not None and own not in shards)

    def add(self, run: Run) -> None:
        self.runs.setdefault(run.manifest["task"]["name"], []).append(run)


def signature(run: Run) -> str:
    """What one side's runs have in common: everything in the run key but the task and its data."""
    key = {name: value for name, value in run.manifest["key"].items() if name not in (*OF_THE_SELECTION, "generation")}
    return of_json([key, run.manifest["model"]["text"], run.manifest["evidence"], hardware_of(run)])


def hardware_of(run: Run) -> str | None:
    sessions = run.environment
    return sessions[-1].get("hardware_key") if sessions else None


def machine_of(run: Run) -> str:
    """The hardware by name, with the start of its key: ``AMD EPYC, 2 cores (fe8ff3e3)``."""
    session = run.environment[-1] if run.environment else {}
    names = [str(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu) for gpu in session.get("gpus") or ()]
    parts = [*names, session.get("cpu") or "unknown machine", *([f"{session['cores']} cores"] if session.get("cores") else [])]
    return f"{', '.join(map(str, parts))} ({str(session.get('hardware_key'))[:8]})"


def read_sides(sources: Sequence[str | Path | Run], *, reference: str | None = None, partial: bool = False) -> list[Side]:
    """The sides of the given runs, the reference first.

    A source is a ``Run``, a bundle's folder or packed zip, or a folder of bundles. The first source's model is the reference,
    unless ``reference`` names another one. Raises UsageError or BundleError: nothing there, an unfinished run (unless ``partial``).
    """
    sides: list[Side] = []
    for run in [run for source in sources for run in open_source(source)]:
        if run.status != "complete" and not partial:
            raise BundleError(
                f"{run.name} is not complete",
                why=f"its status is {run.status}, {len(run.items())} of {run.manifest['n']} items are there",
                fix="type its eval command again to finish it, or add --partial to compare what is there",
            )
        side = next((side for side in sides if side.takes(run)), None)
        if side is None:
            side = Side(run.manifest["model"]["text"])
            sides.append(side)
        side.add(run)
    if reference is not None:
        chosen = next((side for side in sides if reference in (side.text, *(run.name for run in side.all_runs))), None)
        if chosen is None:
            models = sorted({side.text for side in sides})
            raise UsageError(f"no run is of {reference!r}", why=f"models here: {', '.join(models)}", fix=f"--reference {models[0]}")
        sides = [chosen, *(side for side in sides if side is not chosen)]
    name_apart(sides)
    return sides


def open_source(source: str | Path | Run) -> list[Run]:
    """The runs that one argument names."""
    if isinstance(source, Run):
        return [source]
    path = Path(source)
    if path.is_dir() and not (path / "manifest.json").is_file():
        found = [Run(folder) for folder, _ in find_bundles(path) if "~" not in folder.name]
        if not found:
            raise UsageError(f"{str(source)!r} holds no run", why="no folder in it has a manifest.json", fix="workbench list runs")
        return found
    if not path.exists():
        raise UsageError(f"there is no run {str(source)!r}", fix="workbench list runs")
    return Run.open(path)


def name_apart(sides: Sequence[Side]) -> None:
    """Sides of the same model text get what tells them apart added: ``torch:./m (options.dtype float16)``."""
    for side in sides:
        twins = [other for other in sides if other.text == side.text]
        if len(twins) < 2:
            side.label = side.text
            continue
        mine = told(side)
        fields = {name for other in twins if other is not side for name in differences(mine, told(other))}
        parts = [f"{name.rpartition('.')[2]} {value}" for name, value in flat(mine).items() if name in fields and value is not None]
        side.label = f"{side.text} ({', '.join(parts[:3]) or side.all_runs[0].name})"
    taken: set[str] = set()
    for side in sides:
        label, number = side.label, 2
        while side.label in taken:
            side.label, number = f"{label} #{number}", number + 1
        taken.add(side.label)


def told(side: Side) -> dict[str, Any]:
    """The fields that may tell two sides of one model apart, the most telling first."""
    manifest = side.manifest
    return {
        "options": dict(manifest["key"]["options"]),
        "weights": str(manifest["key"]["model"].get("weights"))[:8],
        "hardware": hardware_of(side.all_runs[0]),
        "libraries": dict(manifest["key"]["libraries"]),
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"options": {"dtype": "float16"}}`` -> ``{"options.dtype": "float16"}``."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        full = f"{prefix}.{name}" if prefix else str(name)
        found |= flat(item, full) if isinstance(item, Mapping) else {full: item}
    return found
