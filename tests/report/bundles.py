"""Bundles for the report's tests, written to disk as ``workbench eval`` writes them: no model, no runtime.

folder = make_run(tmp_path, "demo:a", [make_line("1", right=True), make_line("2", right=False)])
sides, comparisons = compared(reference_folder, candidate_folder)
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from workbench.fingerprint import of_file
from workbench.metrics.stats import Margin, wilson
from workbench.run.bundle import folder_name, run_key
from workbench.run.summary import performance

PROMPT = "<|user|>\nWhat colour is the square?\nA. red\nB. blue\nAnswer with the letter.<|assistant|>\n"
MACHINES: dict[str, dict[str, Any]] = {
    "host": {
        "cpu": "AMD EPYC 9654",
        "cores": 16,
        "memory_bytes": 137_438_953_472,
        "gpus": [],
        "system": "Linux",
        "machine": "x86_64",
    },
    "device": {
        "cpu": "Apple M4 Max",
        "cores": 16,
        "memory_bytes": 68_719_476_736,
        "gpus": [{"name": "Apple M4 Max GPU"}],
        "system": "Darwin",
        "machine": "arm64",
    },
}
MACHINES["reference"] = MACHINES["server"] = MACHINES["host"]


def picture(number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A PNG of a coloured square on a plain ground; another one for each number."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, (236, 233, 226))
    hue = (37 * number % 200, 90 + 53 * number % 150, 60 + 91 * number % 190)
    left, top = 8 + 5 * number % (size[0] // 3), 6 + 7 * number % (size[1] // 3)
    ImageDraw.Draw(image).rectangle((left, top, left + size[0] // 3, top + size[1] // 3), fill=hue)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_line(name: str, right: bool = True, **more: Any) -> dict[str, Any]:
    """One line of ``samples.jsonl``. ``more``: text, answer, reason, finish, gold, prompt, rendered, media, groups, error, seconds."""
    answer = more.get("answer", "A" if right else "B")
    reason = more.get("reason", "parsed")
    finish = more.get("finish", "error" if more.get("error") else "stop")
    output: dict[str, Any] = {"value": more.get("text", f"The answer is {answer}."), "tokens": None, "finish": finish}
    if more.get("error"):
        output |= {"value": None, "error": more["error"]}
        reason, answer = "error", None
    score: dict[str, Any] = {
        "value": float(right),
        "answer": answer,
        "reason": reason,
        "counts": {"correct": int(right), "total": 1},
    }
    seconds = more.get("seconds", 0.05)
    timing = {"prepare": seconds / 10, "first": seconds / 3, "total": seconds, "n_in": 80, "n_out": 5, "batch": 1}
    prompt = more.get("prompt", "What colour is the square?\nA. red\nB. blue\nAnswer with the letter.")
    seen = {"prompt": more.get("rendered", PROMPT), "tokens": {"n": 80, "hash": "f" * 16}, "arrays": {}}
    asked = {"text": prompt, "media": more.get("media", []), "target": more.get("gold", "A"), "seen": seen}
    return {
        "id": name,
        "group": name,
        "groups": more.get("groups", []),
        "input_hash": hashlib.sha256(f"{name}{prompt}".encode()).hexdigest()[:32],
        "input": asked,
        "output": output,
        "score": score,
        "timing": None if more.get("untimed") else timing,
    }


def make_run(
    where: Path,
    model: str,
    lines: list[dict[str, Any]],
    *,
    task: str = "colours",
    evidence: str = "host",
    libraries: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    media: dict[str, bytes] | None = None,
    weights: str = "a" * 64,
    headline: str = "accuracy",
    results: dict[str, Any] | None = None,
) -> Path:
    """A complete bundle in a folder under ``where``; ``media`` by file name (``<sha256>.png``)."""
    backend = model.partition(":")[0]
    key = {
        "task": {"name": task, "version": "1", "prompt": "p" * 8},
        "data": {"revision": "sha256:0123", "fingerprint": "0123", "items": "0123"},
        "model": {
            "source": model,
            "revision": None,
            "weights": weights,
            "format": "safetensors",
            "size_bytes": 2_740_000,
            "adapter": None,
        },
        "backend": {"name": backend, "device": "cpu"},
        "options": options or {},
        "generation": {"max_tokens": 32, "temperature": 0.0, "seed": 0, "stop": []},
        "libraries": libraries or {backend: "1.0", "numpy": "2.3.5"},
    }
    name = run_key(key)
    folder = where / folder_name(task, model, name)
    folder.mkdir(parents=True)
    manifest = {
        "schema": 2,
        "status": "complete",
        "workbench": "0.1.0",
        "created": "2026-10-02T09:00:00Z",
        "finished": "2026-10-02T09:05:00Z",
        "run_key": name,
        "key": key,
        "asked": {"task": task, "model": model, "options": {}, "limit": None, "sample_ids": [], "shard": None},
        "task": {"name": task, "version": "1", "scorer": "official", "card": task, "headline": headline, "path": None},
        "model": {"text": model, "backend": backend, "revision": None},
        "identity": {},
        "evidence": evidence,
        "device": {"kind": "cpu"},
        "n": len(lines),
    }
    hardware = MACHINES[evidence]
    session = {**hardware, "python": "3.11.9", "hardware_key": hashlib.sha256(str(hardware).encode()).hexdigest()[:16]}
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    write_json(
        folder / "environment.json",
        [{"started": "2026-10-02T09:00:00Z", **session, "device": {"kind": "cpu"}, "libraries": key["libraries"]}],
    )
    write_json(folder / "results.json", results or results_of(task, lines, evidence, session["hardware_key"]))
    (folder / "events.jsonl").write_text("")
    for file_name, data in (media or {}).items():
        (folder / "media").mkdir(exist_ok=True)
        (folder / "media" / file_name).write_bytes(data)
    manifest["checksums"] = {file: of_file(folder / file) for file in ("samples.jsonl", "results.json")}
    write_json(folder / "manifest.json", manifest)
    return folder


def results_of(task: str, lines: list[dict[str, Any]], evidence: str, hardware_key: str) -> dict[str, Any]:
    correct = sum(line["score"]["counts"]["correct"] for line in lines)
    low, high = (100 * bound for bound in wilson(correct, len(lines)))
    groups: dict[str, dict[str, list[int]]] = {}
    for line in lines:
        for axis, name in line["groups"]:
            groups.setdefault(axis, {}).setdefault(name, []).append(line["score"]["counts"]["correct"])
    speed = performance(lines, evidence=evidence, hardware_key=hardware_key, cold_start_seconds=1.92, peak_memory_bytes=412_000_000)
    value = 100 * correct / len(lines) if lines else None
    return {
        "task": task,
        "version": "1",
        "scorer": "official",
        "n": len(lines),
        "scored": len(lines),
        "missing": 0,
        "correct": correct,
        "headline": {"metric": "accuracy", "value": value, "unit": "%", "of": None},
        "interval": {"low": low, "high": high, "unit": "%", "confidence": 0.95, "method": "wilson"},
        "metrics": {"accuracy": value},
        "groups": {
            axis: {
                name: {"n": len(each), "correct": sum(each), "value": 100 * sum(each) / len(each)} for name, each in names.items()
            }
            for axis, names in groups.items()
        },
        "reasons": dict(Counter(line["score"]["reason"] for line in lines)),
        "chance": 0.25,
        "random_fallbacks": sum(bool(line["score"].get("random")) for line in lines),
        "score_range_over_seeds": None,
        "item_errors": sum(line["output"]["finish"] == "error" for line in lines),
        "performance": speed,
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def compared(*folders: Path, margin: float = 2.0) -> tuple[list[Any], list[Any]]:
    """(sides, comparisons) of bundles on disk, as ``workbench report`` makes them."""
    from workbench.parity.ladder import compare_all
    from workbench.parity.sides import read_sides

    sides = read_sides(folders)
    return sides, compare_all(sides, Margin(margin)) if len(sides) > 1 else []
