"""What a line of ``samples.jsonl`` must hold, checked without believing any of it.

problem({"id": "1", "score": {"value": 1.5, ...}, ...})     # "score.value 1.5 is not in 0..1"
"""

from __future__ import annotations

from typing import Any, get_args

from workbench.types import Finish, Reason

FINISHES, REASONS = get_args(Finish), get_args(Reason)
TIMES = ("prepare", "first", "total", "n_in", "n_out")


def problem(line: Any) -> str | None:
    """Why a line (in today's schema) is no finished item; None when it is one."""
    if not isinstance(line, dict) or not isinstance(line.get("id"), str):
        return "it is no item with an id"
    if not isinstance(line.get("input_hash"), str) or "group" not in line:
        return "input_hash or group is missing"
    if not isinstance(groups := line.get("groups"), list) or not all(is_pair(each) for each in groups):
        return "groups is no list of [axis, name]"
    if not isinstance(extraction := line.get("extraction"), dict | None) or (extraction is not None and "value" not in extraction):
        return "extraction holds no value"
    return (
        about_input(line.get("input")) or about_output(line.get("output")) or about_score(line.get("score")) or about_timing(line)
    )


def is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def about_input(found: Any) -> str | None:
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("media"), list):
        return "input holds no list of media"
    seconds = found.get("audio_seconds")
    if seconds is not None and not (is_number(seconds) and seconds >= 0):
        return "input.audio_seconds is no number from 0 on"
    return None if all(isinstance(each, str) for each in found["media"]) else "input.media holds what is no hash"


def about_output(found: Any) -> str | None:
    if not isinstance(found, dict) or found.get("finish") not in FINISHES:
        return "output.finish is none of " + ", ".join(FINISHES)
    if "value" not in found or not isinstance(found["value"], str | None):
        return "output.value is no text"
    if found["value"] is None and found["finish"] != "error":
        return "output.value is null, but no error is given"
    if not isinstance(found.get("error"), dict | None):
        return "output.error is no mapping"
    segments = found.get("segments")
    if segments is not None and not (isinstance(segments, list) and all(map(is_segment, segments))):
        return "output.segments is no list of start, end and text"
    tokens = found.get("tokens")
    return None if tokens is None or isinstance(tokens, list) else "output.tokens is no list"


def is_segment(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("text"), str)
        and is_number(found.get("start"))
        and is_number(found.get("end"))
    )


def about_score(found: Any) -> str | None:
    if not isinstance(found, dict) or found.get("reason") not in REASONS:
        return "score.reason is none of " + ", ".join(REASONS)
    value, counts = found.get("value"), found.get("counts")
    if value is not None and not (is_number(value) and 0 <= value <= 1):
        return f"score.value {value!r:.40} is not in 0..1"
    if not isinstance(counts, dict) or not all(is_number(each) and each >= 0 for each in counts.values()):
        return "score.counts holds what is no count"
    if counts.get("correct", 0) > counts.get("total", float("inf")):
        return "score.counts has more correct than there are"
    return None


def about_timing(line: dict[str, Any]) -> str | None:
    found = line.get("timing")
    if found is None:
        return None
    if not isinstance(found, dict):
        return "timing is no mapping"
    bad = next((name for name in TIMES if not (found.get(name) is None or (is_number(found[name]) and found[name] >= 0))), None)
    return f"timing.{bad} is no number from 0 on" if bad else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
