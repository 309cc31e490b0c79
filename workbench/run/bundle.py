"""The run bundle: a folder that says what was asked of which model, what came back, and what it was worth.

Reading needs no runtime::

    run = Run("reports/runs/mmmu-sample-demo-vlm-torch-1f2e3d4c5b6a")
    run.results["headline"]      # {'value': 71.5, 'unit': '%', 'of': None}
    run.to_frame()               # one row an item

Files: ``manifest.json`` (first ``running``, replaced last: ``complete``), ``samples.jsonl`` (one line an item),
``events.jsonl``, ``environment.json`` (one entry a session), ``results.json`` (derived).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.fingerprint import of_json
from workbench.run import journal

SCHEMA = 1
"""The version of the bundle format. Readers refuse a newer one; a change that older readers misread raises it."""

DEFAULT_RUNS = Path("reports/runs")


def run_key(key: Mapping[str, Any]) -> str:
    """The hash that names a run: over everything that its outputs and scores depend on."""
    return of_json(key)


def folder_name(task: str, model: str, key: str) -> str:
    """``<task>-<model>-<key12>`` in letters, digits, dots and dashes alone (names come from users)."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{task}-{model}").strip("-.")
    return f"{slug[:100]}-{key[:12]}"


def differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two JSON values differ: ``{"libraries.torch": ("2.12.0", "2.13.0")}``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted({*before, *after}):
            found |= differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else str(name))
        return found
    return {} if before == after else {prefix: (before, after)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest. Raises BundleError when there is none, it is damaged, or its schema is newer than ours."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        schema = int(manifest["schema"])
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no run bundle", why="it holds no manifest.json", fix="workbench list runs") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the manifest of {folder.name} cannot be read", why=f"{type(error).__name__}: {error}") from error
    if schema > SCHEMA:
        raise BundleError(
            f"{folder.name} was written by a newer workbench",
            why=f"its bundle schema is {schema}, this version reads up to {SCHEMA}",
            fix="pip install --upgrade parity-workbench",
        )
    return manifest


def find_bundles(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every bundle under ``runs`` that can be read, with its manifest; damaged and newer ones are passed over."""
    if not runs.is_dir():
        return
    for path in sorted(runs.iterdir()):
        if (path / "manifest.json").is_file():
            try:
                yield path, read_manifest(path)
            except BundleError:
                continue


class Run:
    """A bundle, read. Unfinished ones can be read too: ``results`` is then None.

    ``was_complete``: the evaluation that returned this run found it complete and did nothing.
    """

    was_complete = False

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        return self.manifest["status"]

    @property
    def results(self) -> dict[str, Any] | None:
        path = self.folder / "results.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    @property
    def environment(self) -> list[dict[str, Any]]:
        path = self.folder / "environment.json"
        return json.loads(path.read_bytes()) if path.is_file() else []

    def items(self) -> dict[str, dict[str, Any]]:
        """The last line of each item by id, in the order of first appearance."""
        found: dict[str, dict[str, Any]] = {}
        for line in journal.read(self.folder / "samples.jsonl"):
            found[line["id"]] = line
        return found

    def events(self) -> list[dict[str, Any]]:
        return list(journal.read(self.folder / "events.jsonl"))

    def to_frame(self):
        """One row an item as a ``pandas.DataFrame``: id, group, response, finish, answer, correct, reason, timing in seconds."""
        import pandas

        rows = []
        for item in self.items().values():
            output, score, timing = item["output"], item["score"], item.get("timing") or {}
            rows.append(
                {
                    "id": item["id"],
                    "group": item.get("group"),
                    "response": output["value"],
                    "finish": output["finish"],
                    "answer": score["answer"],
                    "value": score["value"],
                    "reason": score["reason"],
                    "seconds": timing.get("total"),
                    "first_token_seconds": timing.get("first"),
                    "tokens_in": timing.get("n_in"),
                    "tokens_out": timing.get("n_out"),
                }
            )
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.status})"

    def _repr_html_(self) -> str:
        results = self.results
        rows = {
            "run": self.name,
            "task": self.manifest["task"]["name"],
            "model": self.manifest["model"]["text"],
            "status": self.status,
        }
        if results:
            from workbench.run.summary import interval_text, score_text

            rows |= {"n": results["n"], "score": score_text(results), "95 % interval": interval_text(results)}
        cells = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"
