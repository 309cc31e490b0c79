"""Whether a bundle is what its run wrote: shape, checksums, media, tensors, and results that follow from the answers.

    for finding in verify(Run("reports/runs/a")):
        print(finding.level, finding.what, finding.detail)

    quick_check(run)    # the warnings a reader of any run should give; no data set, about 2 s for 100,000 items

Checksums are in the bundle itself: they catch accidents and careless edits. Scoring the answers again catches the others,
except an edited answer: no bundle can prove what a model said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import BundleError, WorkbenchError
from workbench.fingerprint import of_file
from workbench.run import journal
from workbench.run.bundle import BUNDLE_FILES, CAPTURE, CHECKED_FILES, LAYERS_FILE, MEDIA_NAME, Run, belongs, migrate, run_key
from workbench.run.lines import problem
from workbench.run.rederive import differing, from_lines, officially, scorer_of
from workbench.run.token_records import OWN, items_of, misfit, recorded_tokens

Level = Literal["ok", "note", "failed"]
BROKEN = (WorkbenchError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading somebody else's file may raise when its values are not of the kinds they should be."""

MANIFEST_FIELDS: dict[str, type] = {
    "status": str,
    "run_key": str,
    "key": dict,
    "asked": dict,
    "task": dict,
    "model": dict,
    "evidence": str,
    "n": int,
    "created": str,
}
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``note``: could not be checked, or is worth knowing; ``failed``: is not as it should be."""

    level: Level
    what: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def verify(run: Run, task: str | None = None) -> list[Finding]:
    """Every check, in the order a reader would ask. ``task`` names the eval's file where it is an own one: its code is run.

    Raises BundleError only where the bundle cannot be read at all (``Run`` does that).
    """
    found = [check_manifest(run), *check_files(run)]
    lines, media, about_lines = check_lines(run)
    found += [about_lines, check_checksums(run), *check_media(run, media), *check_tensors(run, lines)]
    if run.kind is not None:
        return [*found, check_layers(run, lines)]
    if any(each.level == "failed" for each in (found[0], about_lines)):
        return [*found, Finding("note", "results", "not worked out again: manifest or lines are damaged")]
    return [*found, *check_results(run, lines, task)]


def quick_check(run: Run) -> list[str]:
    """Warnings where files have another checksum, or headline and n do not follow from the lines' scores; [] when all is well."""
    if run.manifest.get("status") != "complete":
        return []
    try:
        checksums = check_checksums(run)
        if run.kind is not None:
            return [f"{run.name}: {checksums.detail}"] if checksums.level == "failed" else []
        said = [f"{run.name}: {checksums.detail}"] if checksums.level == "failed" else []
        scorer = scorer_of(run)
        derived = from_lines(scorer, run.iter_items()) if scorer else {"n": sum(1 for _ in run.iter_items())}
        if (asked := run.manifest.get("n")) != derived["n"]:
            said.append(f"{run.name}: its manifest says n = {asked}, samples.jsonl holds {derived['n']} items")
        chosen = {name: derived[name] for name in ("n", "headline") if name in derived}
        return said + [f"{run.name}: {each}" for each in differing(results_of(run), chosen)]
    except (*BROKEN, OSError) as error:
        return [f"{run.name}: its results cannot be worked out again ({brief(error)})"]


def check_manifest(run: Run) -> Finding:
    manifest = run.manifest
    for name, kind in MANIFEST_FIELDS.items():
        if not isinstance(manifest.get(name), kind) or isinstance(manifest[name], bool):
            return Finding("failed", "manifest", f"{name} is missing or not of its type")
    if manifest["status"] not in ("running", "complete"):
        return Finding("failed", "manifest", f"status is {manifest['status']!r}")
    if not (isinstance(manifest["task"].get("name"), str) and isinstance(manifest["model"].get("text"), str)):
        return Finding("failed", "manifest", "it names no task or no model")
    try:
        whole = manifest["run_key"] == run_key(manifest["key"])
    except BROKEN:
        whole = False
    if not whole:
        return Finding("failed", "manifest", "run_key is not the hash of key: one of them was changed")
    said = [f"schema {manifest['schema']}"]
    if first := manifest.get("migrated_from"):
        said.append(f"first written in schema {first}")
    if manifest.get("redacted"):
        said.append("redacted")
    if isinstance(merged := manifest.get("merged"), list):
        said.append(f"merged from {len(merged)} runs")
    if manifest["run_key"][:12] not in run.name:
        return Finding("note", "manifest", f"{', '.join(said)}; the folder was renamed: its run is {manifest['run_key'][:12]}")
    return Finding("ok", "manifest", ", ".join(said))


def check_files(run: Run) -> list[Finding]:
    """All files of a complete run are there, and no others."""
    complete = run.status == "complete"
    needed = ("samples.jsonl", "environment.json", *(("results.json",) if complete else ()))
    missing = [name for name in needed if not (run.folder / name).is_file()]
    found = [Finding("failed", "files", f"missing: {', '.join(missing)}") if missing else Finding("ok", "files", "all there")]
    if not complete:
        found.append(Finding("note", "status", "the run is not complete; type its eval command again to finish it"))
    strange = [path.name for path in run.folder.iterdir() if not path.name.startswith(".") and not known(path)]
    if strange:
        found.append(Finding("note", "files", f"no part of a bundle: {listed(strange)}"))
    for path in sorted(
        path for path in run.folder.iterdir() if belongs(path.name) and path.name not in ("manifest.json", "samples.jsonl")
    ):
        try:
            if path.suffix == ".json":
                run._json(path.name)
            else:
                for _ in journal.read(path):
                    pass
        except (BundleError, RecursionError) as error:
            found.append(Finding("failed", "files", brief(error)))
    return found


def known(path: Path) -> bool:
    return not path.is_symlink() and (path.name in BUNDLE_FILES if path.is_file() else path.name in ("media", "tensors"))


def check_lines(run: Run) -> tuple[dict[str, dict[str, Any]], set[str], Finding]:
    """(good lines by id, hashes of the media they ask about, finding).

    An unfinished journal may hold an item twice and end in a torn line. What scoring does not need is not kept: a line of
    long token lists would be most of the memory, and of the time that the interpreter's garbage collector takes.
    """
    lines: dict[str, dict[str, Any]] = {}
    media: set[str] = set()
    bad: list[str] = []
    complete, first = run.status == "complete", run.manifest.get("migrated_from")
    path = run.folder / "samples.jsonl"
    if path.is_file():
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n") and not complete:
                    break
                try:
                    line = json.loads(raw)
                    why = "it is cut off" if not raw.endswith(b"\n") else None
                    if isinstance(line, dict) and first is not None:
                        line = migrate.line(line, first)
                    why = why or problem(line)
                except (ValueError, RecursionError) as error:
                    why = f"it is no JSON ({brief(error)})"
                if why is None and complete and line["id"] in lines:
                    why = f"item {line['id']!r} is there twice"
                if why is not None:
                    bad.append(f"line {number}: {why}")
                else:
                    media.update((line.pop("input", None) or {}).get("media", ()))
                    line["output"].pop("tokens", None)
                    line.pop("timing", None)
                    lines[line["id"]] = line
    if bad:
        return lines, media, Finding("failed", "samples.jsonl", listed(bad, "; "))
    if complete and run.manifest.get("n") != len(lines):
        return (
            lines,
            media,
            Finding("failed", "samples.jsonl", f"the manifest says n = {run.manifest.get('n')}, it holds {len(lines)} items"),
        )
    return lines, media, Finding("ok", "samples.jsonl", f"{len(lines)} items")


def check_checksums(run: Run) -> Finding:
    if run.status != "complete":
        return Finding("note", "checksums", "an unfinished run has none")
    sums = run.manifest.get("checksums")
    if not isinstance(sums, Mapping) or not all(isinstance(sums.get(name), str) for name in CHECKED_FILES):
        if run.manifest.get("migrated_from") and not sums:
            return Finding("note", "checksums", "its schema had none; workbench verify --migrate RUN makes them")
        return Finding("failed", "checksums", "the manifest lacks them: it was changed")
    names = [*CHECKED_FILES, *([LAYERS_FILE] if (run.folder / LAYERS_FILE).is_file() else [])]
    changed = [name for name in names if (run.folder / name).is_file() and of_file(run.folder / name) != sums.get(name)]
    if changed:
        return Finding("failed", "checksums", f"{' and '.join(changed)} changed after the run was finished")
    return Finding("ok", "checksums", f"{' and '.join(names)} are as written")


def check_media(run: Run, named: set[str]) -> list[Finding]:
    """Every image's and sound's bytes hash to its name, and each that was asked about is there."""
    folder = run.folder / "media"
    if not folder.is_dir():
        text = "removed by redaction" if run.manifest.get("redacted") else "not recorded (eval --record media)"
        return [Finding("note", "media", f"{len(named)} media files {text}")] if named else []
    strange, changed = [], []
    for path in sorted(folder.iterdir()):
        match = MEDIA_NAME.fullmatch(path.name)
        if path.is_symlink() or not match:
            strange += [path.name] if not path.name.startswith(".") else []
        elif of_file(path) != match[1]:
            changed.append(path.name)
    found = []
    if strange:
        found.append(Finding("failed", "media", f"no media file of a bundle: {listed(strange)}"))
    if changed:
        found.append(Finding("failed", "media", f"other bytes than their names say: {listed(changed)}"))
    if missing := sorted(each for each in named if run.media(each) is None):
        found.append(Finding("failed", "media", f"{len(missing)} of {len(named)} media files are missing: {listed(missing)}"))
    return found or [Finding("ok", "media", f"{len(named)} media files, bytes as named")]


def check_tensors(run: Run, lines: Mapping[str, Any]) -> list[Finding]:
    """Every tensor file is whole, its records are of this run's items, and those of its own answers hold their tokens."""
    if run.tensors is None:
        return []
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        return [Finding("note", "tensors", "not looked at: pip install safetensors")]
    paths = sorted(path for path in run.tensors.iterdir() if not path.name.startswith("."))
    broken = []
    for path in paths:
        try:
            if path.is_symlink() or not belongs(f"tensors/{path.name}"):
                raise OSError("no file of a bundle")
            with safe_open(path, "numpy") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping
            if why := about_records(path, shapes, lines):
                raise OSError(why)
        except (SafetensorError, OSError, BundleError) as error:
            broken.append(f"{path.name} ({brief(error)})")
    if broken:
        return [Finding("failed", "tensors", listed(broken))]
    if run.kind is None and (other := other_tokens(run)):
        return [Finding("failed", "tensors", f"{len(other)} token records are of other answers: {listed(other)}")]
    return [Finding("ok", "tensors", f"{len(paths)} files")]


def check_layers(run: Run, lines: Mapping[str, Any]) -> Finding:
    """Every layer's line is whole and of an item of this bundle; a capture's arrays are those that its lines describe."""
    from workbench.run.layer_records import LayerRecords

    try:
        if run.kind != CAPTURE:
            known = [line.get("id") for line in journal.read(run.folder / LAYERS_FILE)]
        else:
            records = LayerRecords(run)
            known = list(records.lines)
            for name in known:
                records.read(name)
    except BROKEN as error:
        return Finding("failed", "layers", brief(error))
    strange = sorted({str(name) for name in known} - set(lines))
    if strange:
        return Finding("failed", "layers", f"of no item of this bundle: {listed(strange)}")
    lacking = [
        name for name, line in lines.items() if run.kind == CAPTURE and line["output"]["finish"] != "error" and name not in known
    ]
    if lacking:
        return Finding("failed", "layers", f"{len(lacking)} items have no layer: {listed(lacking)}")
    return Finding("ok", "layers", f"of {len(set(known))} items")


def about_records(path: Path, shapes: Mapping[str, Sequence[int]], lines: Mapping[str, Any]) -> str | None:
    """What is wrong with a part of a recording; None when nothing, or when it is another kind of file."""
    kind = (
        "tokens" if re.fullmatch(r"tokens-.+-\d{5}", path.stem) else "inputs" if re.fullmatch(r"inputs-\d{5}", path.stem) else None
    )
    if kind is None:
        return None
    items = items_of(path)
    if kind == "tokens" and (why := misfit(shapes)):
        return why
    if kind == "tokens" and sum(length for _, length in items) != shapes["tokens"][0]:
        return "its header and its arrays differ in length"
    unknown = next((name for name, _ in items if name not in lines), None)
    return None if unknown is None else f"the run has no item {unknown!r}"


def other_tokens(run: Run) -> list[str]:
    """The items whose record of their own answer follows other tokens than the answer has."""
    recorded = recorded_tokens(run.tensors, OWN)
    try:
        own = ((line["id"], line["output"].get("tokens")) for line in (run.iter_items() if recorded else ()))
        return [name for name, tokens in own if name in recorded and recorded[name] != tokens]
    except BROKEN:
        return []  # damaged lines are a finding of their own


def check_results(run: Run, lines: Mapping[str, Mapping[str, Any]], task: str | None) -> list[Finding]:
    """The results that follow from the lines, against those on disk."""
    if run.status != "complete":
        return []
    found: list[Finding] = []
    try:
        stored = results_of(run)
        derived, changed, version = officially(run, lines, task)
        if version == stored.get("version"):
            found = [Finding("failed", "results", each) for each in differing(stored, derived)]
            if changed:
                found.append(Finding("failed", "scores", f"{len(changed)} items score differently: {listed(changed)}"))
            return found or [Finding("ok", "results", "scoring the answers again gives the same scores and results")]
        why = f"scored by version {stored.get('version')}, this is version {version}: workbench score RUN"
    except BROKEN as error:
        why = brief(error)
    except Exception as error:  # noqa: BLE001  an own eval's scorer may raise anything
        why = f"the scorer failed: {brief(error)}"
    found.append(Finding("note", "results", f"the answers were not scored again ({why})"))
    try:
        scorer = scorer_of(run, plugins=True)
        if scorer is None:
            return [*found, Finding("note", "results", f"the metric {run.manifest['task'].get('headline')!r} is not known here")]
        said = differing(results_of(run), from_lines(scorer, lines.values()))
    except BROKEN as error:
        said = [f"they cannot be worked out from the lines ({brief(error)})"]
    found += [Finding("failed", "results", each) for each in said]
    return found if said else [*found, Finding("ok", "results", "the scores of the lines give these results")]


def results_of(run: Run) -> dict[str, Any]:
    found = run.results
    if not isinstance(found, dict):
        raise BundleError(f"{run.name} holds no results", why="results.json is missing or no mapping")
    return found


def brief(error: BaseException) -> str:
    text = f"{getattr(error, 'what', None) or error}"
    if fix := getattr(error, "fix", None):
        text += f"; {fix}"
    return re.sub(r"\s+", " ", text)[:200] or type(error).__name__


def listed(names: Iterable[str], comma: str = ", ") -> str:
    """The first few, and how many more."""
    every = list(names)
    more = f"{comma}and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return comma.join(every[:SHOWN]) + more
