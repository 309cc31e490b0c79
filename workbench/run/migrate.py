"""Bundles written under an older schema, read as if written today; the disk is left alone unless that is asked for.

    manifest({"schema": 1, ...})       # {"schema": 2, "migrated_from": 1, ...}
    migrate(Path("reports/runs/old"))  # rewrites that bundle; `workbench verify --migrate RUN`

A new schema adds one entry to ``STEPS``; nothing else in the readers knows that older ones exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.run import journal

Step = Callable[[Mapping[str, Any]], dict[str, Any]]


def manifest_1(found: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 kept no checksums, and none are made up here."""
    return {**found, "schema": 2}


def line_1(found: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 kept neither the strata nor what was asked. Lines that a newer session added to an old run have both."""
    return {"groups": [], "input": None, **found}


STEPS: dict[int, tuple[Step, Step]] = {1: (manifest_1, line_1)}
"""From each schema to the next: (manifest, line of samples.jsonl). A line may have been brought forward before."""


def manifest(found: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest in today's shape; ``migrated_from`` is the schema that it was first written in."""
    made, first = dict(found), found["schema"]
    while made["schema"] in STEPS:
        made = STEPS[made["schema"]][0](made)
    if made["schema"] != first:
        made.setdefault("migrated_from", first)
    return made


def line(found: Mapping[str, Any], first: int) -> dict[str, Any]:
    """A line of ``samples.jsonl`` in today's shape, in a bundle first written in schema ``first``."""
    made = dict(found)
    for schema, (_, step) in STEPS.items():
        if schema >= first:
            made = step(made)
    return made


def migrate(folder: Path) -> bool:
    """Rewrite a bundle on disk in today's schema, under its lock; False when there is nothing to do.

    The lines go first and the manifest last, each replaced in one step: wherever the writer dies, the bundle can be read.
    A complete run gets the checksums that its schema did not have; they vouch for what is there now. Raises BundleError.
    """
    from workbench.fingerprint import of_file
    from workbench.run.bundle import CHECKED_FILES, read_manifest
    from workbench.run.writer import lock

    held = lock(folder)
    try:
        if json.loads((folder / "manifest.json").read_bytes())["schema"] == read_manifest(folder)["schema"]:
            return False
        made = read_manifest(folder)
        samples = folder / "samples.jsonl"
        if samples.exists():
            journal.write_atomically(samples, (journal.encode(line(each, made["migrated_from"])) for each in journal.read(samples)))
        if made.get("status") == "complete":
            made["checksums"] = {name: of_file(folder / name) for name in CHECKED_FILES}
        journal.write_json(folder / "manifest.json", made)
        return True
    finally:
        held.release()
