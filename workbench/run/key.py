"""What a run's outputs and scores depend on: the run key, and what the user asked for.

``asked`` is what was typed (task, model, options, selection); ``key`` adds what it resolved to (weights, data,
libraries, device). Same ``asked`` and another ``key`` is how an upgraded library is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from workbench.errors import ItemError, UsageError
from workbench.fingerprint import of_json, versions
from workbench.types import Generation, ModelSpec, Sample, Task

PROMPTS = 8

ASKING_ERRORS = (ItemError, ValueError, KeyError, TypeError, OSError)
"""What ``task.ask`` may raise for one bad item."""


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``"2/4"`` -> (2, 4): the second of four shards. Raises UsageError."""
    if text is None:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"cannot read shard {text!r}", why="a shard is written i/n with 1 <= i <= n", fix="--shard 1/4")
    return int(number), int(count)


def in_shard(item_id: str, shard: tuple[int, int] | None) -> bool:
    """Shards are by hash of the item id, so they do not depend on order or on the other items."""
    if shard is None:
        return True
    number, count = shard
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") % count == number - 1


def asked(
    task: Task,
    spec: ModelSpec,
    generation: Generation,
    limit: int | None,
    sample_ids: Sequence[str],
    shard: str | None,
    subset: int | None = None,
) -> dict[str, Any]:
    """What the user typed, as JSON; ``subset`` stands in it where one was asked for."""
    found = {
        "task": task.name,
        "model": spec.label,
        "options": dict(sorted(spec.options.items())),
        "generation": generation.to_dict(),
        "limit": limit,
        "sample_ids": sorted(sample_ids),
        "shard": shard,
    }
    return found if subset is None else {**found, "subset": subset}


def prompt_fingerprint(task: Task, samples: Sequence[Sample]) -> str:
    """One hash over what the first ``PROMPTS`` items ask: an own eval whose wording was changed is another run.

    An item that cannot be asked (its file is unreadable, say) counts as that; the run records its error.
    """
    hashes: list[str | None] = []
    for sample in samples[:PROMPTS]:
        try:
            hashes.append(task.ask(sample).input_hash)
        except ASKING_ERRORS:
            hashes.append(None)
    return of_json(hashes, 32)


def full_key(
    task: Task,
    spec: ModelSpec,
    generation: Generation,
    samples: Sequence[Sample],
    data: dict[str, Any],
    identity: dict[str, Any],
    distributions: Sequence[str],
    prepared: dict[str, Any],
    device: dict[str, Any],
    options: dict[str, str],
) -> dict[str, Any]:
    """Everything the answers depend on, as JSON with named fields (a refusal to resume names them).

    ``options`` are those of ``spec`` that can change an answer, ``distributions`` the libraries that make them.
    """
    return {
        "task": {"name": task.name, "version": task.version, "prompt": prompt_fingerprint(task, samples)},
        "data": {**data, "items": of_json([sample.id for sample in samples], 32)},
        "model": {**identity, "adapter": spec.adapter},
        "backend": {
            "name": spec.backend,
            "device": device["kind"],
            **{f"setup.{name}": value for name, value in sorted(prepared.items())},
        },
        "options": dict(options),
        "generation": generation.to_dict(),
        "libraries": versions(distributions),
    }
