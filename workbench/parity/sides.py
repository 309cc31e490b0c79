"""One side of a comparison: the runs of one model on one task or several.

    reference, candidate = read_sides(["reports/runs/mmmu-...-torch-1f2e", "reports/runs/mmmu-...-mlx-9c0d"])

Runs of one model with the same settings belong to one side, so the bundles of a whole suite can be given in any number:
``workbench parity reports/runs/*torch* reports/runs/*mlx*`` compares two sides of four tasks each.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import BundleError, UsageError
from workbench.fingerprint import of_json
from workbench.parity.families import SPEECH, by_family, family_of, family_of_inputs
from workbench.parity.shapes import check, check_line
from workbench.run.bundle import CAPTURE, ZOO, Run, differences, is_kit_folder

OF_THE_SELECTION = ("task", "data")
"""Fields of the run key that say what was asked, not by which model: runs of one side differ in them."""


@dataclass
class Side:
    """``runs`` by task name; several under one name are shards of one run. ``label`` tells the sides of a report apart."""

    label: str
    runs: dict[str, list[Run]] = field(default_factory=dict)
    captures: list[Run] = field(default_factory=list)
    """What its layers put out (``workbench capture``): evidence for rung 3, beside the runs or alone."""
    superseded: dict[str, str] = field(default_factory=dict)
    """Older runs of the same command that stood in the same folder, and the run that counts instead of each."""
    passed_over: list[str] = field(default_factory=list)
    """Tables of the zoo that stood in a folder of bundles; a comparison has no use for them. The same for all sides."""

    @property
    def tasks(self) -> list[str]:
        return list(self.runs)

    @cached_property
    def family(self) -> str | None:
        """Of its tasks, which are of one family; of captures alone what their inputs tell. None where nothing does."""
        known = [found for runs in self.runs.values() for run in runs if (found := family_of(run)) is not None]
        return known[0] if known else family_of_inputs(line for run in self.captures for line in run.iter_items())

    @property
    def all_runs(self) -> list[Run]:
        """Of tasks first, then the captures."""
        return [*(run for runs in self.runs.values() for run in runs), *self.captures]

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
                found[task] |= {line["id"]: line for line in read_lines(run)}
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
        if run.kind == CAPTURE:
            return True
        if any(family_of(other) != family_of(run) for runs in self.runs.values() for other in runs):
            return False
        others = self.runs.get(run.manifest["task"]["name"], [])
        shards = [other.manifest["asked"].get("shard") for other in others]
        own = run.manifest["asked"].get("shard")
        if None in (own, *shards):
            return not others
        return own not in shards and all(own.partition("/")[2] == shard.partition("/")[2] for shard in shards)

    def add(self, run: Run) -> None:
        if run.kind == CAPTURE:
            self.captures.append(run)
        else:
            self.runs.setdefault(run.manifest["task"]["name"], []).append(run)


class ZooAlone(UsageError):
    """The one bundle that was named is a table of the zoo: ``run``. It has a page of its own and no sides."""

    def __init__(self, run: Run):
        super().__init__(
            f"{run.name} is a table of the zoo", why="it holds its comparisons already", fix=f"workbench report {run.name}"
        )
        self.run = run


@contextmanager
def collector_paused() -> Iterator[None]:
    """Nothing here is garbage, but half a gigabyte of small objects makes the interpreter search it again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@collector_paused()
def read_lines(run: Run) -> list[dict[str, Any]]:
    """The lines of a run, each checked, and with them ``run.checked``, which would read the whole file once more.

    Raises BundleError for a line that is no finished item.
    """
    from workbench.run.verify import quick_check

    lines = list(run.iter_items())
    for number, line in enumerate(lines, 1):
        check_line(run, number, line)
    if "checked" not in vars(run):
        known: Any = copy(run)
        known.iter_items = lambda: iter(lines)
        run.checked = quick_check(known)
    return lines


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


def read_sides(
    sources: Sequence[str | Path | Run], *, reference: str | Sequence[str] | None = None, partial: bool = False
) -> list[Side]:
    """The sides of the given runs, the reference first.

    A source is a ``Run``, a bundle's folder or packed zip, a kit, or a folder of bundles. The first source's model is the reference (of each
    family: the first of that family), unless ``reference`` names others: a model's text, a side's label or the name of a run. A run that is given twice counts once,
    shards are left out beside the run that they were merged to, and of a folder's runs of one command the newest counts. Raises UsageError or BundleError: nothing there, damage, an
    unfinished run (unless ``partial``), a ``reference`` that is none or several, two references of one family.
    """
    sides: list[Side] = []
    superseded: dict[str, str] = {}
    passed_over: list[str] = []
    runs = [run for source in sources for run in open_source(source, superseded, passed_over)]
    for run in runs:
        if run.kind == ZOO:
            if len(runs) == 1:
                raise ZooAlone(run)
            why = "it holds its comparisons already, and is not put beside other runs"
            raise UsageError(f"{run.name} is a table of the zoo", why=why, fix=f"workbench report {run.name}, by itself")
        check(run)
    for run in each_once(runs):
        if run.status != "complete" and not partial:
            raise BundleError(
                f"{run.name} is not complete",
                why=f"its status is {run.status}, {len(run.items())} of {run.manifest['n']} items are there",
                fix="type its eval command again to finish it, or add --partial to compare what is there",
            )
        side = next((side for side in sides if side.takes(run)), None)
        if side is None:
            side = Side(run.manifest["model"]["text"], passed_over=passed_over)
            sides.append(side)
        side.add(run)
        side.superseded |= {old: new for old, new in superseded.items() if new == run.name}
    name_apart(sides)
    if reference is not None:
        return with_references(sides, [reference] if isinstance(reference, str) else list(reference))
    return sides


def with_references(sides: Sequence[Side], references: Sequence[str]) -> list[Side]:
    """The sides that are named first. Raises UsageError where one name is none or several, or a family would have two references."""
    chosen: list[Side] = []
    for name in references:
        side = named(sides, name)
        if not any(side is other for other in chosen):
            chosen.append(side)
    for family, members in by_family(sides).items():
        twice = [side.label for side in members if any(side is other for other in chosen)]
        if len(twice) > 1:
            raise UsageError(
                f"{' and '.join(twice)} cannot both be the reference",
                why=f"both are {family} models, which are compared with one of them",
                fix=f"--reference {twice[0]}",
            )
    return [*chosen, *(side for side in sides if not any(side is other for other in chosen))]


def named(sides: Sequence[Side], reference: str) -> Side:
    """The one side that ``reference`` means. Raises UsageError when it is none or several."""
    meant = [side for side in sides if reference in (side.label, *(run.name for run in side.all_runs))]
    meant = meant or [side for side in sides if reference == side.text]
    if not meant:
        models = sorted({side.text for side in sides})
        raise UsageError(f"no run is of {reference!r}", why=f"models here: {', '.join(models)}", fix=f"--reference {models[0]}")
    if len(meant) > 1:
        raise UsageError(
            f"{reference!r} is no single reference",
            why=f"it is {', '.join(side.label for side in meant)}",
            fix=f"--reference {meant[0].all_runs[0].name}",
        )
    return meant[0]


def each_once(runs: Sequence[Run]) -> list[Run]:
    """Without the second of two equal runs (overlapping folders, a zip beside its folder) and without shards whose merged run is given."""
    kept: list[Run] = []
    for run in runs:
        if not any((run.name, run.manifest) == (other.name, other.manifest) for other in kept):
            kept.append(run)
    whole = {part["run_key"]: run for run in kept for part in run.manifest.get("merged") or ()}
    return [run for run in kept if whole.get(run.manifest["run_key"], run) is run]


def open_source(source: str | Path | Run, superseded: dict[str, str], passed_over: list[str]) -> list[Run]:
    """The runs that one argument names; what a folder's newer runs supersede is added to ``superseded``, a zoo beside them to ``passed_over``."""
    if isinstance(source, Run):
        return [source]
    path = Path(source)
    if path.is_dir() and not (path / "manifest.json").is_file() and not is_kit_folder(path):
        # Not find_bundles: it passes over a damaged run, and a comparison must not quietly lack one.
        found = [
            Run(folder) for folder in sorted(path.iterdir()) if (folder / "manifest.json").is_file() and "~" not in folder.name
        ]
        if not found:
            raise UsageError(f"{str(source)!r} holds no run", why="no folder in it has a manifest.json", fix="workbench list runs")
        found = without_zoos(found, passed_over)
        return found if found[0].kind == ZOO else newest(found, superseded)
    if not path.exists():
        raise UsageError(f"there is no run {str(source)!r}", fix="workbench list runs")
    return without_zoos(Run.open(path), passed_over)


def without_zoos(runs: list[Run], passed_over: list[str]) -> list[Run]:
    """Tables of the zoo go to ``passed_over``, where anything else stands beside them."""
    others = [run for run in runs if run.kind != ZOO]
    if not others:
        return runs
    passed_over += [run.name for run in runs if run.kind == ZOO]
    return others


def newest(runs: Sequence[Run], superseded: dict[str, str]) -> list[Run]:
    """Of runs of the same command on the same machine (a library was upgraded in between, say) the one that finished last.

    Complete ones come before unfinished ones. To compare the older with the newer, name both.
    """
    commands: dict[str, list[Run]] = {}
    for run in runs:
        check(run)
        commands.setdefault(of_json([run.manifest["asked"], run.manifest["evidence"], hardware_of(run)]), []).append(run)
    for group in commands.values():
        last = max(group, key=lambda run: (run.status == "complete", run.manifest.get("finished") or run.manifest["created"]))
        superseded |= {run.name: last.name for run in group if run is not last}
    return [run for run in runs if run.name not in superseded]


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
        "family": SPEECH if side.family == SPEECH else None,
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
