"""Scores of finished runs, again, from their answers alone: for a newer scorer, for a check, or for shards put together.

rescore(Path("reports/runs/mmmu-sample-..."))            # rewrites scores and results of that bundle
merge([Path("reports/runs/a"), Path("reports/runs/b")])  # the results of all shards; only reads
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.run.bundle import Run, differences, with_answers
from workbench.run.finalise import finalise
from workbench.run.writer import BundleWriter
from workbench.tasks.asr import FAMILY as SPEECH_TO_TEXT
from workbench.tasks.asr import with_profile
from workbench.tasks.catalogue import load_task
from workbench.types import Sample, Task

OF_ONE_SHARD = ("data.items", "task.prompt")
"""Fields of the run key in which shards of one run differ."""


@dataclass(frozen=True)
class Shards:
    """Shards of one run, read and scored as a whole. ``lines`` are final, in data order; ``samples`` are those that have one."""

    runs: Sequence[Run]
    task: Task
    samples: Sequence[Sample]
    lines: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]


def rescore(folder: Path, profile: str | None = None) -> dict[str, Any]:
    """Rewrite scores and results of a complete bundle; answers stay as they are. Returns the results, with ``changed``: ids.

    ``profile`` names the normaliser of a word error rate (None: that of the results that are there). Raises UsageError for a profile that
    is unknown, or where the task has none. Raises BundleError when the run is unfinished, packed or redacted, or its data set is not the one that is here now.
    """
    run = complete_run(folder)
    if run.unpacked is not None:
        raise BundleError(f"{run.name} is packed", why="a zip is only read", fix="unzip it, and name the folder")
    lines = run.items()
    task, samples = task_and_samples(run)
    task = task if profile is None else with_profile(task, profile)
    with BundleWriter(folder, {}) as bundle:
        final, results = finalise(task, [sample for sample in samples if sample.id in lines], lines)
        results["performance"] = run.results["performance"]
        bundle.event("scored again", scorer=task.scorer, version=task.version)
        bundle.finish(final, results)
    changed = [line["id"] for line in final if line["score"] != lines[line["id"]]["score"]]
    return {**results, "changed": changed}


def merge(folders: Sequence[Path], profile: str | None = None) -> dict[str, Any]:
    """The results of several shards as one run, with ``runs``: their names. Nothing is written; ``profile`` as in ``rescore``.

    Raises BundleError when one is unfinished, when they are not shards of one run (the field is named), or overlap.
    """
    shards = put_together(folders, profile=profile)
    return {**shards.results, "runs": [run.name for run in shards.runs]}


def put_together(folders: Sequence[Path | Run], task: str | None = None, profile: str | None = None) -> Shards:
    """Read the shards (folders, zips of one run, or Runs) and score their items as one run. ``task`` names the task where the runs' own name does not find it.

    Raises BundleError like ``merge``, and DataError where the data are not here.
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
    found, samples = task_and_samples(runs[0], task)
    found = found if profile is None else with_profile(found, profile)
    chosen = [sample for sample in samples if sample.id in lines]
    final, results = finalise(found, chosen, lines)
    return Shards(runs, found, chosen, final, {**results, "missing": len(samples) - len(lines)})


def complete_run(folder: Path | Run) -> Run:
    """Raises BundleError when the run is unfinished, or its answers were taken out."""
    run = with_answers(folder if isinstance(folder, Run) else Run(folder))
    if run.status != "complete":
        raise BundleError(
            f"{run.name} is not complete", why="only whole runs have final scores", fix="type the eval command again to finish it"
        )
    if run.manifest.get("redacted"):
        raise BundleError(f"{run.name} is redacted", why="without its answers nothing can be scored", fix="use the original run")
    return run


def task_and_samples(run: Run, task: str | Task | None = None) -> tuple[Task, Sequence[Sample]]:
    """The run's task and all samples of its data. Raises BundleError when the data here are others.

    A task file that the run names is code, and is run: a manifest can name only one by a relative path outside the bundle.
    """
    task = as_scored(run, task if isinstance(task, Task) else load_task(task or own_name(run)))
    loaded = task.load()
    expected = run.manifest["key"]["data"]["fingerprint"]
    if loaded.fingerprint != expected:
        raise BundleError(
            f"the data of {run.name} is not the data that is here now",
            why=f"fingerprint {expected[:12]} then, {loaded.fingerprint[:12]} now",
            fix="score with the data revision of the run",
        )
    known = {sample.id for sample in loaded.samples}
    unknown = next((each["id"] for each in run.iter_items() if each["id"] not in known), None)
    if unknown is not None:
        raise BundleError(f"{run.name} holds an item that its data do not have", why=f"item {unknown!r}")
    return task, loaded.samples


def as_scored(run: Run, task: Task) -> Task:
    """The task under the profile that the run's results name: scored again, they stay what they say they are."""
    profile = (run.results or {}).get("profile")
    return with_profile(task, profile) if task.family == SPEECH_TO_TEXT and isinstance(profile, str) else task


def own_name(run: Run) -> str:
    """The task file or name in a run's manifest. Raises BundleError for a file that came with the run."""
    task = run.manifest["task"]
    name = task.get("path") or task["name"]
    file = Path(name.partition("::")[0])
    if file.suffix == ".py" and (not task.get("path") or file.is_absolute() or file.resolve().is_relative_to(run.folder.resolve())):
        raise BundleError(
            f"{run.name} names a task file that is not run: {name}", why="it came with the run, or its path is absolute"
        )
    return name
