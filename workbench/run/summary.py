"""Numbers of a finished run as people read them: score, interval, speed; and the table at the end of an eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any


def interval_text(results: Mapping[str, Any]) -> str:
    """The 95 % interval as text; a dash for scores that have none."""
    found = results.get("interval")
    if not found:
        return "-"
    return f"{found['low']:.1f} to {found['high']:.1f} {found['unit'] if found['unit'] == '%' else ''}".rstrip()


def score_text(results: Mapping[str, Any]) -> str:
    """``71.50 %`` or ``632 of 1000``."""
    headline = results["headline"]
    value, unit, of = headline["value"], headline["unit"], headline.get("of")
    if value is None:
        return "-"
    if of:
        return f"{value:g} of {of}"
    return f"{value:.2f} {unit}".rstrip()


def performance(lines: Sequence[Mapping[str, Any]], **facts: Any) -> dict[str, Any]:
    """Time per item from the lines' timings, in seconds. ``items_per_second`` is items over the sum of their total times."""
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
        **facts,
    }


def print_table(runs: Iterable[Any]) -> None:
    """One row a run: task, model, n, score, interval, errors, speed. Takes ``Run`` objects."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None, pad_edge=False)
    for name, justify in (
        ("task", "left"),
        ("model", "left"),
        ("n", "right"),
        ("score", "right"),
        ("95 % interval", "right"),
        ("errors", "right"),
        ("items/s", "right"),
        ("evidence", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name != "model", overflow="fold")
    for run in runs:
        results = run.results
        speed = results["performance"]
        rate = speed["items_per_second"]
        row = (
            run.manifest["task"]["name"],
            run.manifest["model"]["text"],
            str(results["n"]),
            score_text(results),
            interval_text(results),
            str(results["item_errors"]),
            "-" if rate is None else f"{rate:.1f}",
            run.manifest["evidence"],
        )
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)
