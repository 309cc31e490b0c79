"""A capture of something that is no vision-language model (a Core ML program, its twin), through the bundle's one writer.

    record(manifest, items, run_item, runs=Path("reports/runs"), prepare=...)

Resumes, returns a complete bundle as it is, and sets a former one aside when asked, as ``workbench capture`` does. No time is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.backends.hardware import cpu_model, describe_hardware, memory_bytes
from workbench.capture.program_inputs import ProgramItem
from workbench.errors import BundleError
from workbench.fingerprint import of_json
from workbench.run import journal
from workbench.run import writer as writing
from workbench.run.bundle import CAPTURE, LAYERS_FILE, Run, run_key
from workbench.run.input_records import write_inputs
from workbench.run.layer_records import ItemRecords, Record, lines_of, write_layers
from workbench.run.progress import Progress

VERSION = 1
NOTHING = {"metric": "none", "value": None, "unit": "", "of": None}
Recorded = tuple[dict[str, dict[str, Record]], dict[str, Any]]
"""What running an item gives: records by pass and layer, and what else its line says under ``capture``."""


def manifest_of(
    *,
    label: str,
    backend: Mapping[str, Any],
    identity: Mapping[str, Any],
    evidence: str,
    items: Sequence[ProgramItem],
    options: Mapping[str, Any],
    task: Mapping[str, Any],
    libraries: Mapping[str, str],
) -> dict[str, Any]:
    """What is known before anything is run. ``identity``: at least ``weights``, ``size_bytes`` and ``source``."""
    data = {
        "revision": None,
        "fingerprint": of_json([[item.id, item.input_hash] for item in items], 32),
        "items": of_json([item.id for item in items], 32),
    }
    key = {
        "task": {"name": CAPTURE, "version": VERSION, "localise": None, **task},
        "data": data,
        "model": {"quantisation": None, "adapter": None, **identity},
        "backend": {"device": "cpu", **backend},
        "options": dict(options),
        "generation": {},
        "libraries": dict(libraries),
    }
    asked = {"task": CAPTURE, "model": label, "options": dict(options), "inputs": data["fingerprint"], **task, "shard": None}
    return {
        "kind": CAPTURE,
        "run_key": run_key(key),
        "key": key,
        "asked": asked,
        "task": {"name": CAPTURE, "version": VERSION, "scorer": "none", "card": None, "headline": None, "path": None},
        "model": {"text": label, "backend": backend["name"], "revision": None},
        "identity": dict(identity),
        "evidence": evidence,
        "device": {"name": cpu_model(), "kind": "cpu", "memory_bytes": memory_bytes()},
        "n": len(items),
    }


def find(manifest: Mapping[str, Any], runs: Path, *, fresh: bool) -> tuple[Path, Run | None]:
    """(folder to write, the complete bundle when there is one). Raises BundleError."""
    writing.make_folder(runs)
    try:
        folder, known = writing.locate(runs, manifest["asked"], manifest["key"], allow_mixed=False, fresh=fresh)
    except BundleError as error:
        if "--allow-mixed" in str(error.fix):  # values of two versions of a library would be compared as one model's
            raise BundleError(
                error.what, why=error.why, fix="add --fresh to start anew: a capture is of one set of versions"
            ) from error
        raise
    if not known or known["status"] != "complete":
        return folder, None
    run = Run(folder)
    run.was_complete = True
    return folder, run


def record(
    folder: Path,
    manifest: dict[str, Any],
    items: Sequence[ProgramItem],
    run_item: Callable[[ProgramItem], Recorded],
    *,
    artifact: Callable[[], dict[str, Any]],
    loaded: Mapping[str, Any],
    notes: Sequence[str] = (),
    progress: Progress,
) -> Run:
    """Run every item that has no line yet and finish the bundle."""
    with writing.BundleWriter(folder, manifest) as bundle:
        done = {line["id"]: line for line in journal.read(folder / "samples.jsonl")}
        bundle.add_session({**describe_hardware(), "device": manifest["device"], "libraries": manifest["key"]["libraries"]})
        if not (folder / "artifact.json").exists():
            journal.write_json(folder / "artifact.json", artifact())
        bundle.event("loaded", model=dict(loaded))
        for note in notes:
            bundle.event("note", text=note)
            progress.say(note)
        progress.start(f"capture  {manifest['model']['text']}", len(items), len(done))
        try:
            for item in items:
                if item.id not in done:
                    done[item.id] = one(bundle, item, *run_item(item))
                progress.update(len(done), item.id)
        finally:
            progress.finish()
        layers = {line["layer"] for line in journal.read(folder / LAYERS_FILE)}
        bundle.finish(
            [done[item.id] for item in items],
            {
                "scorer": "none",
                "version": VERSION,
                "n": len(items),
                "headline": NOTHING,
                "layers": len(layers),
                "item_errors": 0,
            },
        )
    return Run(folder)


def one(
    bundle: writing.BundleWriter, item: ProgramItem, passes: dict[str, dict[str, Record]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all of one item; its line of ``samples.jsonl`` comes last, so that what has a line is whole."""
    write_inputs(bundle.folder / "tensors", {item.id: item.arrays})
    records = ItemRecords(item.id, passes)
    write_layers(bundle.folder, records)
    with journal.Journal(bundle.folder / LAYERS_FILE) as file:
        file.append(*lines_of(records))
    line = {
        "id": item.id,
        "group": item.id,
        "groups": [],
        "input_hash": item.input_hash,
        "input": {"text": item.text, "media": [], "target": None, "seen": item.seen},
        "output": {"value": "", "tokens": None, "finish": "stop"},
        "score": {"value": None, "answer": None, "reason": "missing", "counts": {}},
        "timing": None,
        "capture": {"causality": None, "replayed": None, **more},
    }
    bundle.append([line])
    return line
