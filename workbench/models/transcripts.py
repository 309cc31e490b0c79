"""Transcripts as files: txt, srt, vtt, tsv and json, each with its own rules for what text may hold.

    render(transcript, "srt")        # "1\\n00:00:00,000 --> 00:00:02,400\\nset a timer\\n"

A line of text stays one line in every format: line breaks and tabs become spaces, and control characters (those that turn the
direction of writing too) are left out, so a transcript can neither end its own subtitle early nor steer a terminal.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.models.speech_to_text import Segment, Transcript

FORMATS = ("txt", "srt", "vtt", "tsv", "json")

TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reverse the text after them; no speech model has reason to write one."""

SHORTEST_MILLISECONDS = 1
"""A subtitle must end after it begins (W3C WebVTT, section 4.1)."""


def render(transcript: Transcript, form: str) -> str:
    """The text of a file in ``form``, with a line break at its end. Raises UsageError for a format that is not among FORMATS."""
    makers = {"txt": _txt, "srt": _srt, "vtt": _vtt, "tsv": _tsv, "json": _json}
    if form not in makers:
        raise UsageError(f"unknown format {form!r}", why=f"known: {', '.join(FORMATS)}", fix="--format txt")
    return makers[form](transcript)


def write(transcript: Transcript, path: Path, form: str) -> Path:
    """Write ``path`` in UTF-8 with plain line feeds; an existing file is replaced, and only by a whole one. Whatever happens, no
    half of one stays."""
    text = render(transcript, form)
    draft = path.with_name(f".{os.getpid()}.part")  # not of the file's name, which may be as long as names can be
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        return draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def one_line(text: str) -> str:
    """``text`` in one line that is safe to print."""
    kept = (
        "" if each in TURNING else " " if each.isspace() else "" if unicodedata.category(each) in ("Cc", "Cs") else each
        for each in text
    )
    return " ".join("".join(kept).split())


def clock(seconds: float, mark: str) -> str:
    """``HH:MM:SS`` and milliseconds after ``mark``; hours may exceed 99."""
    whole = max(0, round(seconds * 1000))
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}{mark}{whole % 1000:03d}"


def _said(transcript: Transcript) -> Iterable[tuple[Segment, str]]:
    return ((segment, text) for segment in transcript.segments if (text := one_line(segment.text)))


def _txt(transcript: Transcript) -> str:
    return "".join(f"{text}\n" for _, text in _said(transcript))


def _span(segment: Segment, mark: str) -> str:
    end = max(segment.end, segment.start + SHORTEST_MILLISECONDS / 1000)
    return f"{clock(segment.start, mark)} --> {clock(end, mark)}"


def _srt(transcript: Transcript) -> str:
    """An arrow within the text would be read as times, however long its shaft; the format has no way to write one."""
    cues = (
        f"{number}\n{_span(segment, ',')}\n{re.sub('--+>', '->', text)}\n"
        for number, (segment, text) in enumerate(_said(transcript), start=1)
    )
    return "\n".join(cues)


def _vtt(transcript: Transcript) -> str:
    """``&``, ``<`` and ``>`` are written as in HTML: a cue's text may hold tags (W3C WebVTT, section 4.2.2)."""
    cues = (
        f"{_span(segment, '.')}\n{text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for segment, text in _said(transcript)
    )
    return "\n".join(["WEBVTT\n", *cues])


def _tsv(transcript: Transcript) -> str:
    """Whole milliseconds, which no locale writes with a comma."""
    rows = (f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{text}\n" for segment, text in _said(transcript))
    return "".join(["start\tend\ttext\n", *rows])


def _json(transcript: Transcript) -> str:
    """Everything, the text as it was decoded; numbers that are not finite become null."""
    return json.dumps(_plain(asdict(transcript)), ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
