"""A run without its texts: what was asked, answered and read becomes a marker; scores, strata and timings stay.

    redact(Run("reports/runs/a"), Path("safe/a"), key=b"...")

    "The answer is B."   ->   "[redacted hmac:5f0c1d2e3a4b5c6d 16 characters]"

The marker is keyed (HMAC-SHA256, 64 bits), because a bare hash of a short answer is undone by trying all answers. Two texts
redacted under one key can still be told equal or different. Ids, groups, token counts and the hashes of inputs stay, since
runs are joined on them: who has the data set can tell which of its items were asked. Of own evals the names of groups go too.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.fingerprint import of_file
from workbench.run import journal
from workbench.run.bundle import CHECKED_FILES, SCHEMA, Run, with_answers
from workbench.tasks.catalogue import BUILT_IN_TASKS

MARKER = re.compile(r"\[redacted hmac:[0-9a-f]{16} [0-9]+ characters\]")

PLAIN_EVENTS = ("session", "loaded", "answered", "interrupted", "repaired", "mixed", "scored again", "merged")
PLAIN_EVENT_FIELDS = ("time", "event", "id", "reason", "shard", "record", "followed", "n")
PLAIN_RESULTS = (
    *("task", "version", "scorer", "n", "scored", "missing", "correct", "headline", "interval", "metrics", "groups", "reasons"),
    *("chance", "random_fallbacks", "score_range_over_seeds", "item_errors", "performance", "extractor"),
)
DETAILS = (
    *("floor", "extractions", "recognition"),
    *("profile", "normaliser", "aligner", "intervals", "empty_references"),  # of speech: names of rules, ids of items and numbers
)
"""What the workbench itself, and what its own tasks write into results; an own eval's further texts may be anything."""


def is_redacted(value: Any) -> bool:
    """Whether a text is a marker."""
    return isinstance(value, str) and MARKER.fullmatch(value) is not None


def key_of(text: str | None) -> bytes:
    """The key from a text that the user keeps, so that zips made at different times can be compared; else a random one."""
    import hashlib
    import secrets

    return secrets.token_bytes(32) if text is None else hashlib.sha256(b"workbench redact " + text.encode()).digest()


def marker(value: Any, key: bytes) -> Any:
    """The marker of any JSON value (of its text, if it is one); None and markers stay."""
    if value is None or is_redacted(value):
        return value
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    digest = hmac.new(key, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
    return f"[redacted hmac:{digest[:16]} {len(text)} characters]"


def texts(value: Any, key: bytes, names: bool = False) -> Any:
    """Every text inside a JSON value replaced, with ``names`` also those of fields; numbers and the shape stay."""
    if isinstance(value, str):
        return marker(value, key)
    if isinstance(value, Mapping):
        return {marker(name, key) if names else name: texts(each, key, names) for name, each in value.items()}
    return [texts(each, key, names) for each in value] if isinstance(value, list) else value


def hidden(found: Mapping[str, Any], stay: Iterable[str], hide: Iterable[str], key: bytes) -> dict[str, Any]:
    """The fields that ``stay`` as they are and those to ``hide`` as markers; what is neither is left out."""
    made = {name: found[name] for name in stay if name in found}
    return made | {name: marker(found[name], key) for name in hide if name in found}


def redact_line(line: Mapping[str, Any], key: bytes, named_here: bool = True) -> dict[str, Any]:
    """One line of ``samples.jsonl``. Token ids go too: they spell the answer.

    ``named_here``: clusters and strata have names of the workbench's own tasks; an own eval's may be anything, the gold too.
    """
    made = hidden(line, ("id", "group", "groups", "input_hash", "input", "timing"), (), key)
    if not named_here:
        made["groups"] = [[axis, marker(name, key)] for axis, name in line["groups"]]
        made["group"] = line["group"] if line["group"] == line["id"] else marker(line["group"], key)
    if line.get("input"):
        made["input"] = hidden(line["input"], ("media", "seen", "audio_seconds"), ("text", "target"), key)
        if line["input"].get("seen"):
            made["input"]["seen"] = hidden(line["input"]["seen"], ("tokens", "arrays"), ("prompt",), key)
    made["output"] = {**hidden(line["output"], ("finish",), ("value",), key), "tokens": None}
    if line["output"].get("error"):
        made["output"]["error"] = hidden(line["output"]["error"], ("reason",), ("what", "why", "fix"), key)
    made["score"] = hidden(line["score"], ("value", "reason", "counts", "random"), ("answer", "explanation"), key)
    if line.get("extraction"):
        made["extraction"] = hidden(line["extraction"], ("model", "prompt", "by"), ("value",), key)
    return made


def redact_results(results: Mapping[str, Any], key: bytes, named_here: bool) -> dict[str, Any]:
    """Results of a run: what the workbench itself writes stays; an own eval's details lose their texts, names included."""
    plain = {*PLAIN_RESULTS, *(DETAILS if named_here else ())}
    made = {name: value if name in plain else texts(value, key, names=True) for name, value in results.items()}
    if not named_here and isinstance(groups := made.get("groups"), Mapping):
        made["groups"] = {axis: {marker(name, key): each for name, each in names.items()} for axis, names in groups.items()}
    return made


def redact_event(event: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """Events of the kinds known to hold no text stay; of all others the texts go."""
    if event.get("event") in PLAIN_EVENTS:
        return dict(event)
    return {name: value if name in PLAIN_EVENT_FIELDS else texts(value, key) for name, value in event.items()}


def redact(run: Run, folder: Path, key: bytes) -> Run:
    """A copy of a complete run in ``folder`` without texts, images and tensors; its checksums are those of the copy.

    Raises BundleError when a line is damaged, the folder cannot be written, or it is a capture.
    """
    with_answers(run)  # a capture's tensors spell its inputs, and without them nothing is left
    folder.mkdir(parents=True)
    for name in ("environment.json", "artifact.json"):
        if (run.folder / name).is_file() and not (run.folder / name).is_symlink():
            journal.write_atomically(folder / name, (run.folder / name).read_bytes())
    named_here = run.manifest["task"]["name"] in BUILT_IN_TASKS
    lines = (journal.encode(redact_line(line, key, named_here)) for line in run.iter_items())
    journal.write_atomically(folder / "samples.jsonl", lines)
    journal.write_atomically(folder / "events.jsonl", (journal.encode(redact_event(event, key)) for event in run.events()))
    journal.write_json(folder / "results.json", redact_results(run.results or {}, key, named_here))
    checksums = {name: of_file(folder / name) for name in CHECKED_FILES}
    journal.write_json(folder / "manifest.json", {**run.manifest, "schema": SCHEMA, "redacted": True, "checksums": checksums})
    return Run(folder)
