"""Numbers of a finished run as people read them: score, interval, speed; and the table at the end of an eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from workbench.metrics.speed import rtf, rtfx

OF_SPEECH = ("word errors", "RTFx")
"""Columns of the table that are left out where no run is of speech."""


def interval_text(results: Mapping[str, Any]) -> str:
    """The 95 % interval as text; a dash for scores that have none."""
    found = results.get("interval")
    if not found:
        return "-"
    factor = 100 if found["unit"] == "fraction" else 1
    unit = "%" if found["unit"] in ("%", "fraction") else ""
    return f"{factor * found['low']:.1f} to {factor * found['high']:.1f} {unit}".rstrip()


def score_text(results: Mapping[str, Any]) -> str:
    """``71.50 %``, ``632 of 1000``, or ``WER 5.25 % (whisper 1, 117 errors in 2,230 words)``: that is never said without its normaliser."""
    said = plain_score(results)
    if not is_spoken(results):
        return said
    return f"WER {said} ({profile_text(results)}, {results['errors']:,} errors in {results['words']:,} words)"


def is_spoken(results: Mapping[str, Any]) -> bool:
    """Whether these are results of speech to text as ``workbench.tasks.asr`` makes them; an own eval may call anything ``wer``."""
    return {"wer", "profile", "errors", "words"} <= set(results)


def profile_text(results: Mapping[str, Any]) -> str:
    """The profile of a word error rate and the version of its normaliser: ``whisper 1``."""
    return f"{results['profile']} {(results.get('normaliser') or {}).get('version', '')}".rstrip()


def plain_score(results: Mapping[str, Any]) -> str:
    headline = results["headline"]
    value, unit, of = headline["value"], headline["unit"], headline.get("of")
    if value is None:
        return "-"
    if of:
        return f"{value:g} of {of}"
    return f"{value:.2f} {unit}".rstrip()


def performance(lines: Sequence[Mapping[str, Any]], **facts: Any) -> dict[str, Any]:
    """Time per item from the lines' timings, in seconds. ``items_per_second`` is items over the sum of their total times.

    Of items with audio also ``audio_seconds`` in all, ``rtf`` and ``rtfx`` (``workbench.metrics.speed``); a batch's time is shared out in
    the timings already. Of reference evidence no time and no memory is given, not even as null.
    """
    if facts.get("evidence") == "reference":
        return {name: value for name, value in facts.items() if "second" not in name and "memory" not in name}
    seconds = [timing["total"] for line in lines if (timing := line.get("timing"))]
    firsts = [timing["first"] for line in lines if (timing := line.get("timing")) and timing["first"] is not None]
    tokens = sum(timing["n_out"] for line in lines if (timing := line.get("timing")))
    total = sum(seconds)
    return {
        "n": len(seconds),
        "items_per_second": len(seconds) / total if total else None,
        "item_seconds": {"median": median(seconds), "p90": quantiles(seconds, n=10)[-1]} if len(seconds) > 1 else None,
        "first_token_seconds": {"median": median(firsts)} if firsts else None,
        "tokens_per_second": tokens / total if total else None,
        **speech_speed(lines),
        **facts,
    }


def speech_speed(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """``{"audio_seconds", "rtf", "rtfx"}`` of the items that hold audio and were timed; nothing where none does."""
    pairs = [
        (seconds, timing["total"])
        for line in lines
        if (timing := line.get("timing")) and (seconds := (line.get("input") or {}).get("audio_seconds"))
    ]
    if not pairs:
        return {}
    audio, processing = (sum(part) for part in zip(*pairs, strict=True))
    return {"audio_seconds": audio, "rtf": rtf(audio, processing), "rtfx": rtfx(audio, processing)}


def print_table(runs: Iterable[Any]) -> None:
    """One row a run: task, model, n, score, interval, errors, speed; of speech also the words and how much faster than real time it was.

    Takes ``Run`` objects.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [cells(run) for run in runs]
    table = Table(title=None, pad_edge=False)
    for name in rows[0] if rows else ():
        if name in OF_SPEECH and all(row[name] == "-" for row in rows):
            continue
        justify = "left" if name in ("task", "model", "evidence") else "right"
        table.add_column(name, justify=justify, no_wrap=name != "model", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[str(column.header)]) for column in table.columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)


def cells(run: Any) -> dict[str, str]:
    """One row of the table, by the columns' names."""
    results = run.results
    speed = results["performance"]
    spoken = is_spoken(results)
    return {
        "task": run.manifest["task"]["name"],
        "model": run.manifest["model"]["text"],
        "n": str(results["n"]),
        "score": f"WER {plain_score(results)} ({profile_text(results)})" if spoken else score_text(results),
        "95 % interval": interval_text(results),
        "word errors": f"{results['errors']:,} of {results['words']:,}" if spoken else "-",
        "errors": str(results["item_errors"]),
        "items/s": number(speed.get("items_per_second")),
        "RTFx": number(speed.get("rtfx")),
        "evidence": run.manifest["evidence"],
    }


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
