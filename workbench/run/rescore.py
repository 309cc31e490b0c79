"""Scores of finished runs, again, from their answers alone: for a newer scorer, for a check, or for shards put together.

rescore(Path("reports/runs/mmmu-sample-..."))            # rewrites scores and results of that bundle
merge([Path("reports/runs/a"), Path("reports/runs/b")])  # the results of all shards; only reads
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.run.bundle import Run, differences
from workbench.run.finalise import finalise
from workbench.run.writer import BundleWriter
from workbench.tasks.catalogue import load_task
from workbench.types import Sample, Task

OF_ONE_SHARD = ("data.items", "task.prompt")
"""Fields of the run key in which shards of one run differ."""


def rescore(folder: Path) -> dict[str, Any]:
    """Rewrite scores and results of a complete bundle; answers stay as they are. Returns the results, with ``changed``: ids.

    Raises BundleError when the run is unfinished or its data set is not the one that is here now.
    """
    run = complete_run(folder)
    lines = run.items()
    task, samples = task_and_samples(run)
    with BundleWriter(folder, {}) as bundle:
        final, results = finalise(task, [sample for sample in samples if sample.id in lines], lines)
        results["performance"] = run.results["performance"]
        bundle.event("scored again", scorer=task.scorer, version=task.version)
        bundle.finish(final, results)
    changed = [line["id"] for line in final if line["score"] != lines[line["id"]]["score"]]
    return {**results, "changed": changed}


def merge(folders: Sequence[Path]) -> dict[str, Any]:
    """The results of several shards as one run, with ``runs``: their names. Nothing is written.

    Raises BundleError when one is unfinished, when they are not shards of one run (the field is named), or overlap.
    """
    runs = [complete_run(folder) for folder in folders]
    lines: dict[str, dict[str, Any]] = {}
    for run in runs:
        fields = differences(runs[0].manifest["key"], run.manifest["key"])
        other = next((field for field in fields if field not in OF_ONE_SHARD), None)
        if other:
            before, after = fields[other]
            raise BundleError(f"{run.name} and {runs[0].name} are not shards of one run", why=f"{other}: {before} and {after}")
        items = run.items()
        twice = next((name for name in items if name in lines), None)
        if twice is not None:
            raise BundleError(f"{run.name} holds an item that another run holds too", why=f"item {twice!r}")
        lines |= items
    task, samples = task_and_samples(runs[0])
    _, results = finalise(task, [sample for sample in samples if sample.id in lines], lines)
    return {**results, "missing": len(samples) - len(lines), "runs": [run.name for run in runs]}


def complete_run(folder: Path) -> Run:
    run = Run(folder)
    if run.status != "complete":
        raise BundleError(
            f"{run.name} is not complete", why="only whole runs have final scores", fix="type the eval command again to finish it"
        )
    return run


def task_and_samples(run: Run) -> tuple[Task, Sequence[Sample]]:
    """The run's task and all samples of its data. Raises BundleError when the data here are others."""
    task = load_task(run.manifest["task"].get("path") or run.manifest["task"]["name"])
    loaded = task.load()
    expected = run.manifest["key"]["data"]["fingerprint"]
    if loaded.fingerprint != expected:
        raise BundleError(
            f"the data of {run.name} is not the data that is here now",
            why=f"fingerprint {expected[:12]} then, {loaded.fingerprint[:12]} now",
            fix="score with the data revision of the run",
        )
    return task, loaded.samples
