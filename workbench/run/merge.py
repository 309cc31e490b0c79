"""Shards of one run as a new complete bundle; the shards are only read.

    merge_to([Path("reports/runs/a-1"), Path("reports/runs/a-2")])    # Run(reports/runs/a)

The merged run has the key that one run over the same items would have, so it is that run: `workbench eval` without
``--shard`` finds it complete.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workbench
from workbench.errors import BundleError
from workbench.fingerprint import of_file, of_json
from workbench.run import journal
from workbench.run.archive import files_of
from workbench.run.bundle import CHECKED_FILES, SCHEMA, Run, belongs, folder_name, run_key
from workbench.run.key import prompt_fingerprint
from workbench.run.rescore import Shards, put_together
from workbench.run.summary import performance
from workbench.run.writer import make_folder, now

PART = re.compile(r"(.+)-\d{5}\.safetensors")
"""A numbered part of a recording: it lists its own items, so its number says nothing and the next free one is as good."""


def merge_to(folders: Sequence[Path | Run], target: Path | None = None, task: str | None = None) -> Run:
    """Write the shards as one bundle and return it. ``target``: its folder (default: beside the first shard).

    Items that no shard holds are counted in ``results["missing"]``. Raises BundleError: shards of different runs, an item
    twice, unfinished or redacted shards, an existing target, files of one name with other bytes; DataError without the data.
    """
    shards = put_together(folders, task)
    manifest = merged_manifest(shards)
    if target is None:
        beside = Path.cwd() if shards.runs[0].unpacked is not None else shards.runs[0].folder.parent
        target = beside / folder_name(manifest["asked"]["task"], manifest["asked"]["model"], manifest["run_key"])
    if target.exists():
        raise BundleError(f"{target} is there already", why="merging writes a new run", fix="--out ANOTHER_FOLDER")
    make_folder(target.parent)
    outer = Path(tempfile.mkdtemp(prefix=".merge-", dir=target.parent))
    draft = outer / target.name
    draft.mkdir()  # inside, because mkdtemp's own folder is closed to other users
    try:
        write(draft, shards, manifest)
        draft.rename(target)
    finally:
        shutil.rmtree(outer, ignore_errors=True)
    return Run(target)


def merged_manifest(shards: Shards) -> dict[str, Any]:
    """What the shards have in common, with the key and the selection of the whole."""
    runs = shards.runs
    first = runs[0].manifest
    evidence = sorted({str(run.manifest.get("evidence")) for run in runs})
    if len(evidence) > 1:
        raise BundleError("the shards are different kinds of evidence", why=" and ".join(evidence))
    key = {
        **first["key"],
        "task": {**first["key"]["task"], "prompt": prompt_fingerprint(shards.task, shards.samples)},
        "data": {**first["key"]["data"], "items": of_json([sample.id for sample in shards.samples], 32)},
    }
    asked = {**first["asked"], "shard": None}
    asked["sample_ids"] = sorted({name for run in runs for name in run.manifest["asked"].get("sample_ids", ())})
    if any(run.manifest["asked"].get("limit") != asked.get("limit") for run in runs):
        asked["limit"] = None
    dropped = ("checksums", "finished", "mixed_keys", "mixed_fields", "migrated_from")
    made = {
        **{name: value for name, value in first.items() if name not in dropped},
        "schema": SCHEMA,
        "workbench": workbench.__version__,
        "created": now(),
        "run_key": run_key(key),
        "key": key,
        "asked": asked,
        "task": {**first["task"], "scorer": shards.results["scorer"]},
        "n": len(shards.lines),
        "merged": [{"name": run.name, "run_key": run.manifest["run_key"]} for run in runs],
    }
    for name in ("mixed_keys", "mixed_fields"):
        if found := sorted({each for run in runs for each in run.manifest.get(name, ())}):
            made[name] = found
    return made


def write(folder: Path, shards: Shards, manifest: dict[str, Any]) -> None:
    """All files of the merged bundle, the manifest last."""
    lines, measured = timings(shards)
    sessions = [{**session, "shard": run.name} for run in shards.runs for session in run.environment]
    events = [{**event, "shard": run.name} for run in shards.runs for event in run.events()]
    events.append({"time": now(), "event": "merged", "runs": [run.name for run in shards.runs]})
    journal.write_json(folder / "environment.json", sessions)
    journal.write_atomically(folder / "events.jsonl", map(journal.encode, events))
    journal.write_atomically(folder / "samples.jsonl", map(journal.encode, lines))
    journal.write_json(folder / "results.json", {**shards.results, "performance": measured})
    copy_recordings(folder, shards.runs)
    checksums = {name: of_file(folder / name) for name in CHECKED_FILES}
    journal.write_json(folder / "manifest.json", {**manifest, "status": "complete", "finished": now(), "checksums": checksums})


def timings(shards: Shards) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(lines, performance). Times of one kind of hardware are pooled; of several kinds they are left out, and that is said."""
    parts = [(run.results or {}).get("performance") or {} for run in shards.runs]
    keys = {str(part.get("hardware_key")) for part in parts}
    keys |= {session["hardware_key"] for run in shards.runs for session in run.environment if "hardware_key" in session}
    facts: dict[str, Any] = {"evidence": shards.runs[0].manifest["evidence"], "load_seconds": None, "cold_start_seconds": None}
    if len(keys) > 1:
        lines = [{**line, "timing": None} for line in shards.lines]
        facts |= {"hardware_key": None, "hardware_keys": sorted(keys), "session_items": None, "session_seconds": None}
        note = f"no times: the shards ran on {len(keys)} kinds of hardware; theirs are in the shards"
        return lines, performance(lines, **facts, peak_memory_bytes=None, note=note)
    for name, reduce in (("session_items", sum), ("session_seconds", sum), ("peak_memory_bytes", max)):
        values = [part.get(name) for part in parts]
        facts[name] = None if None in values else reduce(values)
    return [dict(line) for line in shards.lines], performance(shards.lines, **facts, hardware_key=keys.pop())


def copy_recordings(folder: Path, runs: Sequence[Run]) -> None:
    """Media, tensors and the first shard's weight list. Parts of recordings are numbered anew."""
    for run in runs:
        for name in sorted(files_of(run.folder)):
            kind, _, file = name.rpartition("/")
            if not (belongs(name) and (kind or name == "artifact.json")):
                continue
            (folder / kind).mkdir(exist_ok=True)
            target = folder / name
            part = PART.fullmatch(file)
            if part and kind == "tensors":
                number = len(list(target.parent.glob(f"{part[1]}-[0-9][0-9][0-9][0-9][0-9].safetensors")))
                target = target.with_name(f"{part[1]}-{number:05d}.safetensors")
            elif target.exists():
                if kind and of_file(target) != of_file(run.folder / name):
                    raise BundleError(f"the shards hold different files of the name {name}", why=f"that of {run.name} is another")
                continue
            shutil.copyfile(run.folder / name, target)
