"""Bundles of the bundled MMStar sample, written by the real writer from made-up answers: no model is needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from workbench.fingerprint import of_json
from workbench.run import journal
from workbench.run.bundle import folder_name, run_key
from workbench.run.finalise import finalise
from workbench.run.key import in_shard, parse_shard, prompt_fingerprint
from workbench.run.summary import performance
from workbench.run.writer import BundleWriter
from workbench.tasks.catalogue import load_task
from workbench.types import Timing

TASK = "mmstar-sample"


@cache
def data(task: str):
    found = load_task(task)
    return found, found.load()


def answer(sample, place: int) -> dict:
    """Right, right, wrong, in turn; the eighth item failed, and the ninth is silent."""
    if place == 7:
        error = {"reason": "memory", "what": "too much of a secret", "why": None, "fix": None}
        return {"value": None, "tokens": None, "finish": "error", "error": error}
    text = "" if place == 8 else f"({sample.target})" if place % 3 else "(none of them)"
    return {"value": text, "tokens": [5, 6, 7], "finish": "stop"}


def line_of(task, sample, place: int) -> dict:
    request = task.ask(sample)
    return {
        "id": sample.id,
        "group": sample.group,
        "groups": [[axis, str(name)] for axis, name in task.groups(sample)],
        "input_hash": request.input_hash,
        "input": {
            "text": request.inputs["text"],
            "media": [media.sha256 for media in request.inputs["images"]],
            "target": sample.target,
            "seen": {"prompt": f"USER: {request.inputs['text']}", "tokens": {"n": 9, "hash": "ab"}, "arrays": {}},
        },
        "output": answer(sample, place),
        "score": {"value": None, "answer": None, "reason": "missing", "counts": {}},
        "timing": asdict(Timing(0.001, 0.002, 0.01 + place / 1000, 30, 3)),
    }


def manifest_of(task, loaded, samples, shard, **changes) -> dict:
    key = {
        "task": {"name": task.name, "version": task.version, "prompt": prompt_fingerprint(task, samples)},
        "data": {
            "revision": loaded.revision,
            "fingerprint": loaded.fingerprint,
            "items": of_json([sample.id for sample in samples], 32),
        },
        "model": {"source": "demo:vlm", "weights": "w1", "adapter": None},
        "backend": {"name": "torch", "device": "cpu"},
        "options": {},
        "generation": {**task.generation.to_dict(), **changes},
        "libraries": {"numpy": "2.3"},
    }
    asked = {"task": task.name, "model": "demo:vlm@torch", "options": {}, "limit": None, "sample_ids": [], "shard": shard}
    return {
        "run_key": run_key(key),
        "key": key,
        "asked": asked,
        "task": {
            "name": task.name,
            "version": task.version,
            "scorer": task.scorer,
            "card": task.card_name,
            "headline": task.headline,
            "path": None,
        },
        "model": {"text": "demo:vlm@torch", "backend": "torch", "revision": None},
        "identity": key["model"],
        "evidence": "host",
        "device": {"name": "made up", "kind": "cpu", "memory_bytes": 1},
        "n": len(samples),
    }


def make(
    runs: Path,
    shard: str | None = None,
    *,
    task: str = TASK,
    hardware: str = "h1",
    finish: bool = True,
    media: bool = False,
    **changes,
) -> Path:
    """The folder of a run in ``runs``. ``changes`` go into its generation settings, so that it is another run."""
    found, loaded = data(task)
    samples = [sample for sample in loaded.samples if in_shard(sample.id, parse_shard(shard))]
    places = {sample.id: place for place, sample in enumerate(loaded.samples)}
    manifest = manifest_of(found, loaded, samples, shard, **changes)
    folder = runs / folder_name(found.name, "demo:vlm@torch", manifest["run_key"])
    lines = {sample.id: line_of(found, sample, places[sample.id]) for sample in samples}
    with BundleWriter(folder, manifest) as bundle:
        bundle.add_session({"cpu": "made up", "hardware_key": hardware})
        bundle.event("session", done=0, pending=len(samples))
        bundle.event("item error", id="7", reason="memory", what="too much of a secret", why=None, fix=None)
        final, results = finalise(found, samples, lines)
        bundle.append(final)
        facts = {"load_seconds": 1.0, "cold_start_seconds": 2.0, "session_items": len(samples), "session_seconds": 3.0}
        results["performance"] = performance(
            final, evidence="host", hardware_key=hardware, **facts, peak_memory_bytes=int(hardware[1:])
        )
        if media:
            (folder / "media").mkdir()
            for sample in samples:
                for picture in found.ask(sample).inputs["images"]:
                    (folder / "media" / f"{picture.sha256}.png").write_bytes(picture.read())
        if finish:
            bundle.finish(final, results)
    (folder / ".lock").touch()
    return folder


def as_schema_1(folder: Path) -> Path:
    """Rewrite a bundle as the first release wrote it: no strata, no questions, no checksums."""
    path = folder / "samples.jsonl"
    lines = [{name: value for name, value in line.items() if name not in ("groups", "input")} for line in journal.read(path)]
    path.write_bytes(b"".join(map(journal.encode, lines)))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest = {name: value for name, value in manifest.items() if name != "checksums"} | {"schema": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def edit(path: Path, change) -> None:
    """Change a JSON file, or every line of a journal, by hand."""
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_bytes(b"".join(map(journal.encode, [change(line) or line for line in lines])))
        return
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value, indent=1) + "\n")


@pytest.fixture
def make_run(tmp_path):
    """``make_run(shard=None, hardware="h1", finish=True, media=False, **generation)`` writes a run and returns its folder."""
    return lambda shard=None, **more: make(tmp_path / "runs", shard, **more)


@pytest.fixture(name="as_schema_1")
def as_schema_1_fixture():
    return as_schema_1


@pytest.fixture(name="edit")
def edit_fixture():
    return edit
