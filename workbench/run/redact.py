"""A run without its texts: what was asked, answered and read becomes a marker; scores, strata and timings stay.

    redact(Run("reports/runs/a"), Path("safe/a"), key=b"...")

    "The answer is B."   ->   "[redacted hmac:5f0c1d2e3a4b5c6d 16 characters]"

The marker is keyed (HMAC-SHA256, 64 bits), because a bare hash of a short answer is undone by trying all answers. Two texts
redacted under one key can still be told equal or different. Ids, groups, token counts and the hashes of inputs stay, since
runs are joined on them: who has the data set can tell which of its items were asked.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.fingerprint import of_file
from workbench.run import journal
from workbench.run.bundle import CHECKED_FILES, SCHEMA, Run

MARKER = "[redacted "

PLAIN_EVENTS = ("session", "loaded", "answered", "interrupted", "repaired", "mixed", "scored again", "merged")
PLAIN_EVENT_FIELDS = ("time", "event", "id", "reason", "shard", "record", "followed", "n")
PLAIN_RESULTS = (
    *("task", "version", "scorer", "n", "scored", "missing", "correct", "headline", "interval", "metrics", "groups", "reasons"),
    *("chance", "random_fallbacks", "score_range_over_seeds", "item_errors", "performance", "floor", "extractions", "recognition"),
    "extractor",
)
"""What the workbench itself writes into results; an own eval's further texts may be anything."""


def is_redacted(value: Any) -> bool:
    """Whether a text is a marker."""
    return isinstance(value, str) and value.startswith(MARKER)


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
    return f"{MARKER}hmac:{digest[:16]} {len(text)} characters]"


def texts(value: Any, key: bytes) -> Any:
    """Every text inside a JSON value replaced; names of fields, numbers and the shape stay."""
    if isinstance(value, str):
        return marker(value, key)
    if isinstance(value, Mapping):
        return {name: texts(each, key) for name, each in value.items()}
    return [texts(each, key) for each in value] if isinstance(value, list) else value


def fields(found: Mapping[str, Any], names: Iterable[str], key: bytes) -> dict[str, Any]:
    return {**found, **{name: marker(found[name], key) for name in names if name in found}}


def redact_line(line: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """One line of ``samples.jsonl``. Token ids go too: they spell the answer."""
    made = dict(line)
    if line.get("input"):
        made["input"] = fields(line["input"], ("text", "target"), key)
        if line["input"].get("seen"):
            made["input"]["seen"] = fields(line["input"]["seen"], ("prompt",), key)
    made["output"] = {**fields(line["output"], ("value",), key), "tokens": None}
    if line["output"].get("error"):
        made["output"]["error"] = fields(line["output"]["error"], ("what", "why", "fix"), key)
    made["score"] = fields(line["score"], ("answer", "explanation"), key)
    if line.get("extraction"):
        made["extraction"] = fields(line["extraction"], ("value",), key)
    return made


def redact_event(event: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """Events of the kinds known to hold no text stay; of all others the texts go."""
    if event.get("event") in PLAIN_EVENTS:
        return dict(event)
    return {name: value if name in PLAIN_EVENT_FIELDS else texts(value, key) for name, value in event.items()}


def redact(run: Run, folder: Path, key: bytes) -> Run:
    """A copy of a complete run in ``folder`` without texts, images and tensors; its checksums are those of the copy.

    Raises BundleError when a line is damaged or the folder cannot be written.
    """
    folder.mkdir(parents=True)
    for name in ("environment.json", "artifact.json"):
        if (run.folder / name).is_file() and not (run.folder / name).is_symlink():
            journal.write_atomically(folder / name, (run.folder / name).read_bytes())
    lines = (journal.encode(redact_line(line, key)) for line in run.iter_items())
    journal.write_atomically(folder / "samples.jsonl", lines)
    journal.write_atomically(folder / "events.jsonl", (journal.encode(redact_event(event, key)) for event in run.events()))
    results = {name: value if name in PLAIN_RESULTS else texts(value, key) for name, value in (run.results or {}).items()}
    journal.write_json(folder / "results.json", results)
    checksums = {name: of_file(folder / name) for name in CHECKED_FILES}
    journal.write_json(folder / "manifest.json", {**run.manifest, "schema": SCHEMA, "redacted": True, "checksums": checksums})
    return Run(folder)
