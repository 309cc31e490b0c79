"""The run bundle: a folder that says what was asked of which model, what came back, and what it was worth.

Reading needs no runtime::

    run = Run("reports/runs/mmmu-sample-demo-vlm-torch-1f2e3d4c5b6a")
    run.results["headline"]      # {'value': 71.5, 'unit': '%', 'of': None}
    run.to_frame()               # one row an item
    Run("shared.zip")            # what `workbench pack` made of one; Run.open reads several

Files: ``manifest.json`` (first ``running``, replaced last: ``complete``), ``samples.jsonl`` (one line an item),
``events.jsonl``, ``environment.json`` (one entry a session), ``results.json`` (derived), and where recorded
``artifact.json`` (the weights, by name), ``media/`` (images and sounds by the hash of their bytes) and ``tensors/``.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.fingerprint import of_json
from workbench.run import journal, migrate
from workbench.run.kit import KIT_FILE

SCHEMA = 2
"""The version of the bundle format. Readers refuse a newer one and bring an older one forward (``workbench.run.migrate``)."""

CHECKED_FILES = ("samples.jsonl", "results.json")
"""Files whose SHA-256 a complete run's manifest holds."""

LAYERS_FILE = "layers.jsonl"
"""What a capture or the zoo knows of each layer (``workbench.run.layer_records``); checked too where there is one."""

BUNDLE_FILES = (
    "manifest.json",
    "environment.json",
    "events.jsonl",
    "samples.jsonl",
    "results.json",
    "artifact.json",
    "trials.jsonl",
    "extractions.jsonl",
    LAYERS_FILE,
)
JUDGE_NAME = re.compile(r"judge-[0-9a-f]{12}\.jsonl?")
MEDIA_NAME = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
TENSORS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}\.safetensors")

CAPTURE, ZOO = "capture", "zoo"
"""Kinds of bundles beside runs of a task: a manifest's ``kind``, absent in runs."""

DEFAULT_RUNS = Path("reports/runs")


def belongs(name: str) -> bool:
    """Whether a bundle may hold a file of this name (relative, with ``/``): nothing else is packed, unpacked or read."""
    folder, _, file = name.rpartition("/")
    if folder == "media":
        return MEDIA_NAME.fullmatch(file) is not None
    if folder == "tensors":
        return TENSORS_NAME.fullmatch(file) is not None
    return not folder and (file in BUNDLE_FILES or JUDGE_NAME.fullmatch(file) is not None)


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
    """A bundle's manifest in today's schema, whatever schema it is kept in.

    Raises BundleError when there is none, it is damaged, or its schema is newer than ours.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"] = int(manifest["schema"])
        if schema < 1:
            raise ValueError(f"there is no schema {schema}")
        if not isinstance(manifest.get("migrated_from"), int | None):
            raise ValueError("migrated_from is no schema")
    except (FileNotFoundError, NotADirectoryError) as error:
        why = "it holds no manifest.json" if folder.is_dir() else "there is no such folder"
        raise BundleError(f"{folder} is no run bundle", why=why, fix="workbench list runs") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BundleError(f"the manifest of {folder.name} cannot be read", why=f"{type(error).__name__}: {error}") from error
    if schema > SCHEMA:
        raise BundleError(
            f"{folder.name} was written by a newer workbench",
            why=f"its bundle schema is {schema}, this version reads up to {SCHEMA}",
            fix="pip install --upgrade parity-workbench",
        )
    return migrate.manifest(manifest)


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
    """A bundle, read: a folder, a ``.zip`` of one run, or ``FILE.zip/NAME`` for one of several.

    Unfinished ones can be read too: ``results`` is then None. A zip is unpacked into a private temporary folder that is
    gone with the last Run that reads it. Raises BundleError.

    ``was_complete``: the evaluation that returned this run found it complete and did nothing. ``kit``: the record of the kit
    (``workbench.run.kit``) that it came in, if it did.
    """

    was_complete = False
    kit: Any = None

    def __init__(self, folder: str | Path, unpacked: Any = None):
        self.folder, self.unpacked = Path(folder), unpacked
        if unpacked is None and (self.folder.is_file() or self.folder.parent.is_file()):
            self.folder, self.unpacked = packed_folder(self.folder)
        self.kit = getattr(self.unpacked, "kit", None)
        self.manifest = read_manifest(self.folder)

    @classmethod
    def open(cls, path: str | Path) -> list[Run]:
        """The run in a folder, or every run in a ``.zip``, sorted by name; of a kit, zip or folder, in the order of its plan.

        Raises BundleError.
        """
        path = Path(path)
        if not path.is_file():
            return open_kit_folder(path) if is_kit_folder(path) else [cls(path)]
        from workbench.run.archive import unpack_temporarily

        folders, keep = unpack_temporarily(path)
        return [cls(folder, keep) for folder in folders]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str | None:
        """``"capture"``, ``"zoo"``, or None for a run of a task."""
        return self.manifest.get("kind")

    @property
    def status(self) -> str:
        return str(self.manifest.get("status"))

    @property
    def results(self) -> dict[str, Any] | None:
        """``results.json``; of reference evidence without times and memory, whatever was written there."""
        found = self._json("results.json")
        speed = found.get("performance") if isinstance(found, dict) else None
        if isinstance(speed, dict) and self.manifest.get("evidence") == "reference":
            untold = ("second", "rtf", "memory")
            found["performance"] = {name: None if any(part in name for part in untold) else value for name, value in speed.items()}
        return found

    @property
    def environment(self) -> list[dict[str, Any]]:
        return self._json("environment.json") or []

    @property
    def artifact(self) -> dict[str, Any] | None:
        """The model's files and weights by name, where recorded."""
        return self._json("artifact.json")

    @property
    def tensors(self) -> Path | None:
        """The folder of ``*.safetensors``, where recorded."""
        path = self.folder / "tensors"
        return path if path.is_dir() and not path.is_symlink() else None

    @cached_property
    def checked(self) -> list[str]:
        """Warnings for a reader: where files or results are not what this run wrote. Empty when all is well."""
        from workbench.run.verify import quick_check

        return quick_check(self)

    @cached_property
    def _media(self) -> dict[str, Path]:
        folder = self.folder / "media"
        if folder.is_symlink() or not folder.is_dir():
            return {}
        # A link in somebody's bundle would put a file of this machine into a report.
        found = ((MEDIA_NAME.fullmatch(path.name), path) for path in sorted(folder.iterdir()) if not path.is_symlink())
        return {match[1]: path for match, path in found if match}

    def media(self, sha256: str) -> Path | None:
        """The recorded image or sound whose encoded bytes have this hash; None where it was not recorded."""
        return self._media.get(sha256)

    def iter_items(self) -> Iterator[dict[str, Any]]:
        """The lines one by one, without keeping those of a complete run in memory. Raises BundleError where one is damaged."""
        if self.manifest.get("status") != "complete":  # a journal in use may hold an item twice: the last line counts
            yield from self.items().values()
            return
        yield from self._lines()

    def items(self) -> dict[str, dict[str, Any]]:
        """The last line of each item by id, in the order of first appearance. Raises BundleError where one is damaged."""
        return {line["id"]: line for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, Any]]:
        first = self.manifest.get("migrated_from")
        try:
            for number, line in enumerate(journal.read(self.folder / "samples.jsonl"), 1):
                if not isinstance(line, dict) or not isinstance(line.get("id"), str):
                    raise BundleError(f"samples.jsonl of {self.name} is damaged at line {number}", why="it is no item with an id")
                yield line if first is None else migrate.line(line, first)
        except RecursionError as error:
            raise BundleError(f"samples.jsonl of {self.name} is damaged", why="a line is nested too deeply") from error

    def migrate(self) -> bool:
        """Rewrite this bundle on disk in today's schema; False when it is in it. Raises BundleError."""
        if self.unpacked is not None:
            raise BundleError(f"{self.name} is packed", why="a zip is only read", fix="unzip it, and name the folder")
        changed = migrate.migrate(self.folder)
        self.manifest = read_manifest(self.folder)
        return changed

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{name} of {self.name} cannot be read", why=f"{type(error).__name__}: {error}") from error

    def events(self) -> list[dict[str, Any]]:
        return list(journal.read(self.folder / "events.jsonl"))

    def to_frame(self):
        """One row an item as a ``pandas.DataFrame``: id, group, response, finish, answer, correct, reason, timing in seconds (none of reference
        evidence); of speech also words and the kinds of errors."""
        import pandas

        timed = self.manifest.get("evidence") != "reference"
        rows = []
        for item in self.items().values():
            output, score, timing = item["output"], item["score"], (item.get("timing") or {}) if timed else {}
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
            if "words" in (counts := score.get("counts") or {}):
                rows[-1] |= {name: counts.get(name) for name in ("words", "substitutions", "deletions", "insertions")}
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.status})"

    def __str__(self) -> str:
        rows = self._rows()
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in self._rows().items()
        )
        return f"<table>{cells}</table>"

    def _rows(self) -> dict[str, Any]:
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
        return rows


def with_answers(run: Run) -> Run:
    """``run`` itself. Raises BundleError for a capture or a table of the zoo: they hold no answers to score, merge or redact."""
    if run.kind is not None:
        what = {CAPTURE: "a capture", ZOO: "a table of the zoo"}.get(run.kind, f"a bundle of kind {run.kind!r}")
        raise BundleError(
            f"{run.name} is {what}", why="it holds no answers", fix="workbench report RUN, or workbench parity RUN RUN"
        )
    return run


def is_kit_folder(path: Path) -> bool:
    """Whether somebody, or a browser, unpacked a kit there."""
    return (path / KIT_FILE).is_file() and not (path / "manifest.json").exists()


def open_kit_folder(path: Path) -> list[Run]:
    from workbench.run.archive import in_order, read_kit

    kit = read_kit(path)
    runs = [
        Run(path / name) for name in in_order([each.name for each in path.iterdir() if (each / "manifest.json").is_file()], kit)
    ]
    for run in runs:
        run.kit = kit
    if not runs:
        raise BundleError(
            f"{path.name} holds no run bundle", why="no folder in it has a manifest.json", fix=f"workbench verify {path}"
        )
    return runs


def packed_folder(path: Path) -> tuple[Path, Any]:
    """The folder of ``FILE.zip`` or ``FILE.zip/NAME``, unpacked, and what keeps it there."""
    from workbench.run.archive import unpack_temporarily

    file, name = (path, None) if path.is_file() else (path.parent, path.name)
    folders, keep = unpack_temporarily(file)
    names = sorted(folder.name for folder in folders)
    if name is None and len(folders) == 1:
        return folders[0], keep
    found = next((folder for folder in folders if folder.name == name), None)
    if found is None:
        what = f"{file.name} holds {len(folders)} runs" if name is None else f"{file.name} holds no run {name!r}"
        raise BundleError(what, why=f"they are {', '.join(names)}", fix=f"{file}/{names[0]}")
    return found, keep
