"""Bundles of recognisers, written as ``workbench eval`` writes them: no model, no runtime; counts by the metric itself.

folder = make_speech_run(tmp_path, "demo:a", [spoken("1", "the white paper", "a white paper", speaker="anna")])
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import wave
from pathlib import Path
from typing import Any

from tests.report.bundles import MACHINES, make_run
from workbench.metrics import wer
from workbench.metrics.normalise import profile_named
from workbench.run.summary import performance

PROMPT = "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"
SENTENCES = (
    "turn the kitchen light on",
    "set a timer for nine minutes",
    "the train leaves at half past four",
    "please read the second letter again",
    "call my brother on friday morning",
)


def tone(number: int, seconds: float = 0.05, rate: int = 16_000) -> bytes:
    """A WAV file with a tone of another pitch for each number."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        values = (int(9000 * math.sin(2 * math.pi * (200 + 7 * number) * place / rate)) for place in range(int(seconds * rate)))
        file.writeframes(b"".join(struct.pack("<h", value) for value in values))
    return buffer.getvalue()


def spoken(name: str, reference: str, hypothesis: str | None, **more: Any) -> dict[str, Any]:
    """One line of ``samples.jsonl``. ``more``: text, profile, speaker, voice, media, seconds, audio_seconds, mel, error, target, tokens."""
    failed = hypothesis is None
    profile = profile_named(more.get("profile", "whisper"))
    normalised = None if failed else profile.normalise(hypothesis)
    counts = wer.count(profile.normalise(reference), normalised or "", profile.merge_compounds)
    errors = wer.errors(counts)
    words = counts["words"]
    output: dict[str, Any] = {
        "value": None if failed else more.get("text", f" {hypothesis.capitalize()}."),
        "tokens": None if failed else more.get("tokens", [sum(map(ord, word)) % 500 for word in hypothesis.split()]),
        "finish": "error" if failed else "stop",
    }
    if failed:
        output["error"] = {"reason": "audio", "what": more.get("error", "audio cannot be decoded"), "why": None, "fix": None}
    score = {
        "value": None if not words else max(0.0, 1 - errors / words),
        "answer": normalised,
        "reason": "error" if failed else "parsed",
        "counts": counts,
    }
    seconds = more.get("seconds", 0.04)
    seen = {
        "prompt": PROMPT,
        "tokens": {"n": 4, "hash": "f" * 16},
        "arrays": {"input_features": {"hash": more.get("mel", f"m{name}"), "shape": [1, 80, 3000], "dtype": "float32"}},
    }
    asked = {"text": None, "media": more.get("media", []), "target": more.get("target", reference), "seen": seen}
    speaker = more.get("speaker")
    voices = [["voice", more["voice"]]] if more.get("voice") else []
    return {
        "id": name,
        "group": speaker or name,
        "groups": [*([["speaker", speaker]] if speaker else []), *voices],
        "input_hash": hashlib.sha256(f"{name}{reference}".encode()).hexdigest()[:32],
        "input": {**asked, "audio_seconds": more.get("audio_seconds", 2.0)},
        "output": output,
        "score": score,
        "timing": None if failed else {"prepare": seconds / 4, "first": None, "total": seconds, "n_in": 4, "n_out": 9, "batch": 1},
    }


def some_lines(n: int = 40, wrong: Any = (), speakers: int = 4, **more: Any) -> list[dict[str, Any]]:
    """``n`` utterances; those in ``wrong`` have one word mistaken, and one more in ten left out."""
    found = []
    for number in range(n):
        reference = SENTENCES[number % len(SENTENCES)]
        words = reference.split()
        if number in wrong:
            words[1] = "cat"
        if number % 10 == 9:
            words.pop()
        voice = "unheard" if number % speakers == speakers - 1 else "heard"
        found.append(spoken(str(number), reference, " ".join(words), speaker=f"speaker {number % speakers}", voice=voice, **more))
    return found


def make_speech_run(where: Path, model: str, lines: list[dict[str, Any]], **more: Any) -> Path:
    """A complete bundle. ``more``: profile, version, and what ``make_run`` takes."""
    profile, version = more.pop("profile", "whisper"), more.pop("version", "1")
    evidence = more.get("evidence", "host")
    task = more.pop("task", "asr-made")
    results = speech_results(task, lines, evidence, profile, version)
    return make_run(where, model, lines, task=task, headline="wer", results=results, **more)


def speech_results(task: str, lines: list[dict[str, Any]], evidence: str, profile: str, version: str) -> dict[str, Any]:
    counts = [line["score"]["counts"] for line in lines]
    sums, rates = wer.total(counts), wer.rates(counts)
    intervals = wer.intervals(counts, [line["group"] for line in lines])
    chosen = intervals.get("speaker") or intervals["utterance"]
    hardware = hashlib.sha256(str(MACHINES[evidence]).encode()).hexdigest()[:16]
    reasons = {name: sum(line["score"]["reason"] == name for line in lines) for name in ("parsed", "error")}
    return {
        "task": task,
        "version": "1",
        "scorer": "word error rate",
        "n": len(lines),
        "scored": len(lines),
        "missing": 0,
        "headline": {"metric": "wer", "value": 100 * rates["wer"], "unit": "%", "of": None},
        "metrics": {name: 100 * rate for name, rate in rates.items()},
        "profile": profile,
        "normaliser": {**profile_named(profile).normaliser().as_json(), "version": version},
        **rates,
        **{name: sums[name] for name in ("words", "hits", "substitutions", "deletions", "insertions")},
        "errors": wer.errors(sums),
        "interval": chosen,
        "intervals": intervals,
        "empty_references": {"n": 0, "ids": [], "rule": "kept"},
        "groups": {},
        "reasons": reasons,
        "chance": None,
        "random_fallbacks": 0,
        "score_range_over_seeds": None,
        "item_errors": reasons["error"],
        "performance": performance(lines, evidence=evidence, hardware_key=hardware, cold_start_seconds=1.0, peak_memory_bytes=9e8),
    }
