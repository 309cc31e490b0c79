"""Small made-up runs on disk: every field a comparison reads, and no model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.fingerprint import of_file, of_json
from workbench.run import journal
from workbench.run.bundle import SCHEMA, Run, folder_name, run_key

KEY: dict[str, Any] = {
    "task": {"name": "made", "version": "1", "prompt": "p"},
    "data": {"revision": "r1", "fingerprint": "f1", "items": "i1"},
    "model": {
        "source": "demo:vlm",
        "revision": None,
        "weights": "w1",
        "config": "c1",
        "size_bytes": 11_000_000,
        "quantisation": None,
        "adapter": None,
    },
    "backend": {"name": "torch", "device": "cpu"},
    "options": {},
    "generation": {"max_tokens": 16, "temperature": 0.0, "seed": 0, "stop": []},
    "libraries": {"torch": "2.13.0"},
}


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with dotted fields replaced: ``{"generation.max_tokens": 8}``."""
    made = copy.deepcopy(dict(base))
    for path, value in changes.items():
        *groups, last = path.split(".")
        place = made
        for group in groups:
            place = place[group]
        place[last] = value
    return made


def line(name: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """One item; right answers are ``A``, wrong ones ``B``."""
    text = None if value is None else "A" if value else "B"
    made = {
        "id": name,
        "group": name,
        "groups": [["half", "first" if int(name) % 2 else "second"]],
        "input_hash": f"h{name}",
        "input": {
            "text": f"Question {name}?",
            "media": [],
            "target": "A",
            "seen": {
                "prompt": f"USER: Question {name}? ASSISTANT:",
                "tokens": {"n": 9, "hash": f"t{name}"},
                "arrays": {"pixel_values": {"hash": f"x{name}", "shape": [1, 3, 8, 8], "dtype": "float32"}},
            },
        },
        "output": {"value": text, "tokens": [5, 6, 1] if value else [5, 7, 1], "finish": "stop"},
        "score": {"value": value, "answer": text, "reason": "parsed", "counts": {"correct": int(bool(value)), "total": 1}},
        "timing": {"prepare": 0.001, "first": 0.002, "total": 0.01, "n_in": 9, "n_out": 3, "batch": 1},
    }
    return changed(made, changes)


def make_run(
    runs: Path,
    model: str,
    lines: Sequence[Mapping[str, Any]],
    *,
    status: str = "complete",
    evidence: str = "host",
    hardware: str = "machine-a",
    shard: str | None = None,
    scorer: str = "official",
    artifact: Mapping[str, Any] | None = None,
    loaded: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A bundle with these lines; ``changes`` are dotted fields of the run key with ``__`` for the dot."""
    key = changed(KEY, {name.replace("__", "."): value for name, value in changes.items()})
    name = key["task"]["name"]
    folder = runs / folder_name(name, model, of_json([key, model, evidence, hardware, shard, scorer]))
    folder.mkdir(parents=True)
    right = sum(line["score"]["counts"].get("correct", 0) for line in lines)
    reasons: dict[str, int] = {}
    for each in lines:
        reasons[each["score"]["reason"]] = reasons.get(each["score"]["reason"], 0) + 1
    results = {
        "task": name,
        "version": "1",
        "scorer": scorer,
        "n": len(lines),
        "scored": len(lines),
        "missing": 0,
        "correct": right,
        "headline": {"metric": "accuracy", "value": 100 * right / len(lines), "unit": "%", "of": None},
        "interval": None,
        "metrics": {"accuracy": 100 * right / len(lines)},
        "groups": {},
        "reasons": reasons,
        "random_fallbacks": 0,
        "item_errors": sum(each["output"]["finish"] == "error" for each in lines),
        "performance": {
            "n": len(lines),
            "items_per_second": 100.0,
            "item_seconds": {"median": 0.01, "p90": 0.012},
            "first_token_seconds": {"median": 0.004},
            "tokens_per_second": 300.0,
            "cold_start_seconds": 1.5,
            "load_seconds": 1.4,
            "peak_memory_bytes": 500_000_000,
            "evidence": evidence,
            "hardware_key": hardware,
        },
    }
    journal.write_atomically(folder / "samples.jsonl", (journal.encode(dict(each)) for each in lines))
    journal.write_json(folder / "results.json", results)
    journal.write_json(
        folder / "environment.json", [{"started": "2026-01-01T00:00:00Z", "cpu": "Some CPU", "hardware_key": hardware}]
    )
    event = {
        "time": "2026-01-01T00:00:00Z",
        "event": "loaded",
        "model": {"dtype": "float32", "quantisation": None, **(loaded or {})},
    }
    journal.write_atomically(folder / "events.jsonl", journal.encode(event))
    if artifact is not None:
        journal.write_json(folder / "artifact.json", dict(artifact))
    manifest = {
        "schema": SCHEMA,
        "status": status,
        "workbench": "0",
        "created": "2026-01-01T00:00:00Z",
        "finished": "2026-01-01T00:01:00Z",
        "run_key": run_key(key),
        "key": key,
        "asked": {"task": name, "model": model, "options": key["options"], "limit": None, "sample_ids": [], "shard": shard},
        "task": {
            "name": name,
            "version": key["task"]["version"],
            "scorer": scorer,
            "card": name,
            "headline": "accuracy",
            "path": None,
        },
        "model": {"text": model, "backend": key["backend"]["name"], "revision": None},
        "identity": key["model"],
        "evidence": evidence,
        "device": {"name": "Some CPU", "kind": "cpu"},
        "n": len(lines),
        "checksums": {file: of_file(folder / file) for file in ("samples.jsonl", "results.json")},
    }
    journal.write_json(folder / "manifest.json", manifest)
    return Run(folder)


def rewrite(run: Run, file: str, change: Callable[[Any], Any]) -> None:
    """One JSON file of a bundle (the first line of a journal) changed in place; checksums stay as they were."""
    path = run.folder / file
    first, *rest = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
    path.write_text("\n".join([json.dumps(change(json.loads(first))), *rest]) + "\n")


def lines_of(right: int, wrong: int, **changes: Any) -> list[dict[str, Any]]:
    """The first ``right`` items right, the rest wrong."""
    return [line(str(place), float(place < right), **changes) for place in range(right + wrong)]
