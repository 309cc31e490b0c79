"""Score a finished run again from its answers, without a model: for a newer scorer, or to check the stored scores.

changed = rescore(Path("reports/runs/mmmu-sample-..."))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.run.bundle import Run
from workbench.run.finalise import finalise
from workbench.run.writer import BundleWriter
from workbench.tasks.catalogue import load_task


def rescore(folder: Path) -> dict[str, Any]:
    """Rewrite scores and results of a complete bundle; answers stay as they are. Returns the results, with ``changed``: ids.

    Raises BundleError when the run is unfinished or its data set is not the one that is here now.
    """
    run = Run(folder)
    if run.status != "complete":
        raise BundleError(
            f"{run.name} is not complete", why="only whole runs have final scores", fix="type the eval command again to finish it"
        )
    task = load_task(run.manifest["task"].get("path") or run.manifest["task"]["name"])
    lines = run.items()
    loaded = task.load()
    expected = run.manifest["key"]["data"]["fingerprint"]
    if loaded.fingerprint != expected:
        raise BundleError(
            f"the data of {run.name} is not the data that is here now",
            why=f"fingerprint {expected[:12]} then, {loaded.fingerprint[:12]} now",
            fix="score with the data revision of the run",
        )
    samples = [sample for sample in loaded.samples if sample.id in lines]
    with BundleWriter(folder, {}) as bundle:
        final, results = finalise(task, samples, lines)
        results["performance"] = run.results["performance"]
        bundle.event("scored again", scorer=task.scorer, version=task.version)
        bundle.finish(final, results)
    changed = [line["id"] for line in final if line["score"] != lines[line["id"]]["score"]]
    return {**results, "changed": changed}
