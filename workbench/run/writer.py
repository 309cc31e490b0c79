"""Writing a run bundle: one writer at a time, resumable at any moment.

The lock is the operating system's, so it is free again the moment its holder dies, by whatever signal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import workbench
from workbench.errors import BundleError
from workbench.fingerprint import of_file
from workbench.run import journal
from workbench.run.bundle import CHECKED_FILES, LAYERS_FILE, SCHEMA, differences, find_bundles, folder_name, read_manifest, run_key


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_folder(path: Path) -> None:
    """Create a folder. Raises BundleError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise BundleError(
            f"cannot write runs to {path}", why=str(error.strerror), fix="--runs ANOTHER_FOLDER"
        ) from error


def lock(folder: Path):
    """Hold the bundle. Raises BundleError when another process writes it. Release with ``.release()``."""
    from filelock import FileLock, Timeout

    held = FileLock(folder / ".lock", timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise BundleError(
            f"another process is writing {folder.name}",
            why="a bundle has one writer at a time",
            fix="wait for it to end, or give --runs another folder",
        ) from error
    except OSError as error:
        raise BundleError(f"cannot write {folder.name}", why=str(error.strerror), fix="--runs ANOTHER_FOLDER") from error
    return held


def locate(
    runs: Path, asked: Mapping[str, Any], key: Mapping[str, Any], *, allow_mixed: bool, fresh: bool
) -> tuple[Path, dict[str, Any] | None]:
    """The bundle folder for this key, and its manifest when it exists.

    An unfinished run of the same command whose key differs (a library was upgraded, say) is refused, naming the
    fields, unless ``allow_mixed``; then it is that folder that is continued. ``fresh`` sets a former run aside.
    """
    name = run_key(key)
    target = runs / folder_name(asked["task"], asked["model"], name)
    if fresh:
        set_aside(target)
        return target, None
    other = None
    for path, manifest in find_bundles(runs):
        if "~" in path.name:
            continue
        if name == manifest["run_key"] or name in manifest.get("mixed_keys", ()):
            return path, manifest
        if manifest["asked"] == asked and manifest["status"] != "complete":
            other = other or (path, manifest)
    if target.exists() and (target / "manifest.json").exists():
        read_manifest(target)  # a newer schema or a damaged manifest: say so rather than write into it
    if other is None:
        return target, None
    path, manifest = other
    changed = differences(manifest["key"], key)
    if allow_mixed:
        return path, manifest
    what = "; ".join(f"{field}: {before} then, {after} now" for field, (before, after) in list(changed.items())[:5])
    raise BundleError(
        f"an unfinished run of this command was made under other conditions: {path.name}",
        why=what,
        fix="add --allow-mixed to continue it (the change is recorded), or --fresh to start anew",
    )


def set_aside(folder: Path) -> None:
    """Rename a former run to ``NAME~1`` (``~2``, ...): ``--fresh`` throws nothing away."""
    if not folder.exists():
        return
    held = lock(folder)
    number = 1
    while folder.with_name(f"{folder.name}~{number}").exists():
        number += 1
    held.release()
    folder.rename(folder.with_name(f"{folder.name}~{number}"))


class BundleWriter:
    """A bundle held open by this process. Use as a context manager; the lock goes with it."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        make_folder(folder)
        self.folder = folder
        self._lock = lock(folder)
        try:
            if (folder / "manifest.json").exists():
                self.manifest = read_manifest(folder)  # another process may have finished it since it was looked up
            else:
                self.manifest = {
                    "schema": SCHEMA,
                    "status": "running",
                    "workbench": workbench.__version__,
                    "created": now(),
                    **manifest,
                }
                journal.write_json(folder / "manifest.json", self.manifest)
            self._events = journal.Journal(folder / "events.jsonl")
            self._samples = journal.Journal(folder / "samples.jsonl")
        except BaseException:
            self._lock.release()
            raise
        if self._samples.repaired_bytes:
            self.event("repaired", file="samples.jsonl", bytes=self._samples.repaired_bytes)

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *exception) -> None:
        try:
            self._samples.close()
        finally:
            try:
                self._events.close()
            finally:
                self._lock.release()

    def event(self, kind: str, **fields: Any) -> None:
        self._events.append({"time": now(), "event": kind, **fields})

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Finished items: on disk when this returns."""
        self._samples.append(*lines)

    def add_session(self, environment: Mapping[str, Any]) -> None:
        """Append this session's hardware and versions to ``environment.json``."""
        path = self.folder / "environment.json"
        sessions = json.loads(path.read_bytes()) if path.exists() else []
        journal.write_json(path, [*sessions, {"started": now(), **environment}])

    def mixed(self, key: Mapping[str, Any]) -> None:
        """Record that the run goes on under another key (``--allow-mixed``)."""
        changed = differences(self.manifest["key"], key)
        self.event("mixed", fields={field: {"before": before, "after": after} for field, (before, after) in changed.items()})
        self.manifest["mixed_keys"] = sorted({*self.manifest.get("mixed_keys", ()), run_key(key)})
        self.manifest["mixed_fields"] = sorted({*self.manifest.get("mixed_fields", ()), *changed})
        journal.write_json(self.folder / "manifest.json", self.manifest)

    def reopen(self) -> None:
        """A complete run goes on (``--retry-errors``)."""
        self.manifest["status"] = "running"
        journal.write_json(self.folder / "manifest.json", self.manifest)

    def finish(self, lines: list[dict[str, Any]], results: Mapping[str, Any]) -> None:
        """Compact the journal to one final line an item, write the results, and only then call the run complete.

        The manifest names the scorer that the results name: extractions change it, and answers made after them do again.
        """
        self._samples.close()
        journal.write_atomically(self.folder / "samples.jsonl", (journal.encode(line) for line in lines))
        journal.write_json(self.folder / "results.json", results)
        checksums = {name: of_file(self.folder / name) for name in (*CHECKED_FILES, LAYERS_FILE) if (self.folder / name).exists()}
        task = {**self.manifest["task"], "scorer": results["scorer"]}
        self.manifest |= {"status": "complete", "finished": now(), "checksums": checksums, "task": task}
        journal.write_json(self.folder / "manifest.json", self.manifest)
