"""Runs one task on one model into one bundle, and continues where a former session stopped.

run = evaluate("mmmu-sample", "demo:vlm@torch", limit=20)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.run import writer as writing
from workbench.run.bundle import DEFAULT_RUNS, Run, run_key
from workbench.run.plan import first_manifest, plan
from workbench.run.progress import Progress, Silent
from workbench.run.recording import Recorder, find_followed
from workbench.run.session import OpenModel, Session
from workbench.types import ModelSpec, Task


def evaluate(
    task: str | Task,
    model: str | ModelSpec,
    *,
    runs: str | Path = DEFAULT_RUNS,
    fresh: bool = False,
    allow_mixed: bool = False,
    retry_errors: bool = False,
    progress: Progress | None = None,
    models: OpenModel | None = None,
    record: str | Sequence[str] = (),
    follow: str | Path | Sequence[str | Path] = (),
    **selection: Any,
) -> Run:
    """Run a task (name, path or ``Task``) on a model and return its bundle; a complete one is returned as it is.

    ``selection``: ``limit, subset, sample_ids, shard, max_tokens, seed``. ``models`` keeps a model open from one call to the
    next. ``record``: evidence to keep beside the answers, one or several of ``tokens, inputs, media``; ``follow``: the run, or
    the text of a model that ran here, whose answers the token records follow (its own without one). Raises WorkbenchError for
    what a user can mend; items that fail are recorded and do not end the run (``run.results["item_errors"]``).
    ``run.was_complete`` says that nothing had to be done.
    """
    record, follow = ([each] if isinstance(each, (str, Path)) else each for each in (record, follow))
    progress = progress or Silent()
    todo = plan(task, model, **selection)
    writing.make_folder(Path(runs))
    followed = find_followed(follow, Path(runs), todo) if "tokens" in record else None  # before a former run is set aside
    folder, manifest = writing.locate(Path(runs), todo.asked, todo.key, allow_mixed=allow_mixed, fresh=fresh)
    recorder = Recorder(todo, folder, record, followed)
    complete = bool(manifest) and manifest["status"] == "complete"
    if complete:
        run = Run(folder)
        complete = not (retry_errors and run.results["item_errors"])
        if complete and not (record and recorder.missing(run.items())):
            run.was_complete = True
            return run
    with writing.BundleWriter(folder, first_manifest(todo)) as bundle:
        if run_key(todo.key) not in (bundle.manifest["run_key"], *bundle.manifest.get("mixed_keys", ())):
            bundle.mixed(todo.key)
        with models if models is not None else OpenModel() as opened:
            if not complete:
                if bundle.manifest["status"] == "complete":
                    bundle.reopen()
                Session(todo, bundle, progress, retry_errors, opened).run()
            recorder.run(Run(folder).items(), bundle, lambda: opened.get(todo.spec, todo.task.family)[0], progress)
    return Run(folder)
