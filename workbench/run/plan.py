"""One evaluation, resolved but not begun: names, data, weights, device and the run key; no model is loaded.

todo = plan("mmmu-sample", "demo:vlm@torch", limit=20)
todo.key["model"]["weights"]     # what the run's name depends on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import RuntimeMissing, UsageError
from workbench.models import options
from workbench.models.source import identify, running_options
from workbench.registry import get_backend
from workbench.run import key as run_keys
from workbench.run.bundle import run_key
from workbench.run.libraries import FAMILIES, check_libraries, libraries, system_libraries
from workbench.tasks.catalogue import load_task
from workbench.types import Generation, ModelSpec, Sample, Task


@dataclass(frozen=True)
class Plan:
    """One evaluation, resolved but not begun: everything that the run key needs, and no model loaded."""

    task: Task
    spec: ModelSpec
    generation: Generation
    samples: Sequence[Sample]
    asked: Mapping[str, Any]
    key: Mapping[str, Any]
    evidence: str
    device: Mapping[str, Any]
    identity: Mapping[str, Any]
    running: Mapping[str, str]
    """What the runtime is asked with (``source.running_options``)."""
    path: str | None = None
    """Of an own eval's file, as typed; None for named tasks and for absolute paths (they may name a user)."""


def select(
    samples: Sequence[Sample],
    limit: int | None,
    sample_ids: Sequence[str],
    shard: tuple[int, int] | None,
    subset: int | None = None,
) -> list[Sample]:
    """The items to run: by id, then ``subset`` of them spread evenly over the set, then by shard, then the first ``limit``.

    A subset is the same every time, and holds every stratum of a set that is ordered by strata. Raises UsageError for unknown ids,
    numbers below 1, both a subset and a limit, or an empty choice.
    """
    chosen = list(samples)
    if sample_ids:
        missing = sorted(set(sample_ids) - {sample.id for sample in chosen})
        if missing:
            raise UsageError(
                f"no item has the id {missing[0]!r}", why=f"ids look like {chosen[0].id!r}", fix="leave --sample-id out to run all"
            )
        chosen = [sample for sample in chosen if sample.id in set(sample_ids)]
    if subset is not None:
        if subset < 1:
            raise UsageError(f"--subset must be at least 1, not {subset}")
        if limit is not None:
            raise UsageError("--subset and --limit were both given", why="each says which items", fix=f"--subset {subset}")
        if subset < len(chosen):
            chosen = [chosen[place * len(chosen) // subset] for place in range(subset)]
    chosen = [sample for sample in chosen if run_keys.in_shard(sample.id, shard)]
    if limit is not None:
        if limit < 1:
            raise UsageError(f"--limit must be at least 1, not {limit}")
        chosen = chosen[:limit]
    if not chosen:
        raise UsageError("there is no item to run", why="the data set, shard or selection is empty")
    return chosen


def plan(
    task: str | Task,
    model: str | ModelSpec,
    *,
    limit: int | None = None,
    sample_ids: Sequence[str] = (),
    shard: str | None = None,
    subset: int | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Plan:
    """Resolve names, data and weights. Raises before anything is written; the model is not loaded yet."""
    path = task if isinstance(task, str) and task.partition("::")[0].endswith(".py") and not Path(task).is_absolute() else None
    task = task if isinstance(task, Task) else load_task(task)
    spec = model if isinstance(model, ModelSpec) else ModelSpec.parse(model)
    if task.family not in FAMILIES:
        raise UsageError(f"task {task.name!r} asks a {task.family} model", why=f"this version runs {' and '.join(FAMILIES)} models")
    changes = {name: value for name, value in (("max_tokens", max_tokens), ("seed", seed)) if value is not None}
    generation = replace(task.generation, **changes)
    backend = get_backend(spec.backend)
    availability = backend.available()
    if not availability.ok:
        raise RuntimeMissing(f"the runtime {spec.backend!r} is not here", why=availability.reason, fix=availability.fix)
    options.read(spec.backend, spec.options, task.family)  # before anything is downloaded or converted
    check_libraries(task.family, spec)
    identity = identify(spec)
    part = limit is not None and limit > 0 and not sample_ids and shard is None and subset is None
    loaded = task.load(limit if part else None)  # a few items of a hub's data set need not download all of it
    samples = select(loaded.samples, limit, sample_ids, run_keys.parse_shard(shard), subset)
    chosen = running_options(spec)
    prepared = backend.prepare(chosen)
    device = backend.device(chosen)
    key = run_keys.full_key(
        task,
        spec,
        generation,
        samples,
        {"revision": loaded.revision, "fingerprint": loaded.fingerprint},
        identity,
        libraries(task.family, backend, spec, chosen),
        prepared,
        device,
        options.in_key(spec.backend, spec.options),
    )
    key["libraries"] |= system_libraries(backend, spec, chosen)
    asked = run_keys.asked(task, spec, generation, limit, sample_ids, shard, subset)
    return Plan(task, spec, generation, samples, asked, key, backend.evidence(chosen), device, identity, chosen, path)


def first_manifest(todo: Plan) -> dict[str, Any]:
    """What is known before the first answer."""
    task, spec = todo.task, todo.spec
    return {
        "run_key": run_key(todo.key),
        "key": todo.key,
        "asked": todo.asked,
        "task": {
            "name": task.name,
            "version": task.version,
            "scorer": task.scorer,
            "family": task.family,
            "card": task.card_name,
            "headline": task.headline,
            "path": todo.path,
        },
        "model": {"text": spec.label, "backend": spec.backend, "revision": spec.revision},
        "identity": todo.identity,
        "evidence": todo.evidence,
        "device": todo.device,
        "n": len(todo.samples),
    }
