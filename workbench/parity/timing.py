"""Rung 6 in its simple form: what each run took, by its own records. No speed-up is claimed: that needs paired measurement.

Reference evidence has no timing at all, and times of two machines are shown side by side, never as a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.parity.comparison import Pair, Rung, Table
from workbench.parity.families import SPEECH
from workbench.parity.real_time import SPEECH_ROWS, paired_ratio, ratio_text, real_time_of
from workbench.parity.sides import Side, hardware_of, machine_of
from workbench.run.bundle import Run

UNTIMED = "reference"

ROWS = (
    ("cold start (load and first item)", "s", "cold_start_seconds"),
    ("model load", "s", "load_seconds"),
    ("item, median", "ms", "item_median"),
    ("item, 90th percentile", "ms", "item_p90"),
    ("first token, median", "ms", "first_token"),
    ("items a second", "1/s", "items_per_second"),
    ("tokens a second", "1/s", "tokens_per_second"),
    ("peak memory", "MB", "peak_memory"),
    ("weights on disk", "MB", "size"),
)


def time_rung(reference: Side, candidate: Side, pairs: Sequence[Pair] = ()) -> Rung:
    """Both sides' times, each task on a row of its own, with evidence and hardware named; of speech real-time factors too."""
    speech = reference.family == candidate.family == SPEECH
    sides = (reference, candidate)
    evidence = [side.manifest["evidence"] for side in sides]
    keys = [hardware_of(side.all_runs[0]) for side in sides]
    machines = [machine_of(side.all_runs[0]) for side in sides]
    facts: dict[str, Any] = {
        "evidence": evidence,
        "hardware": machines,
        "hardware_keys": keys,
        "timed": [each != UNTIMED for each in evidence],
        "tasks": {},
    }
    if UNTIMED in evidence and evidence[0] == evidence[1]:
        return Rung(6, "not run", "Both runs are reference evidence, which has no timing.", facts)
    tables = []
    for task in reference.tasks:
        if task in candidate.runs:
            values = [timing_of(side.runs[task], each) for side, each in zip(sides, evidence, strict=True)]
            if speech:
                lines = [
                    side.lines.get(task, {}).values() if each != UNTIMED else () for side, each in zip(sides, evidence, strict=True)
                ]
                values = [each | real_time_of(found) for each, found in zip(values, lines, strict=True)]
            facts["tasks"][task] = values
            kinds = (*SPEECH_ROWS, *ROWS) if speech else ROWS
            rows = [[name, unit, *(rounded(each.get(field)) for each in values)] for name, unit, field in kinds]
            n = [each.get("n") or 0 for each in values]
            tables.append(Table(f"{task} (n = {n[0]} and {n[1]} timed items)", ("what", "unit", "reference", "candidate"), rows))
    if UNTIMED in evidence:
        timed = 1 - evidence.index(UNTIMED)
        names = ("reference", "candidate")
        taken = median_text(list(facts["tasks"].values()), (timed,))
        finding = f"{taken} for the {names[timed]} ({evidence[timed]} evidence on {machines[timed]}). The {names[1 - timed]} ran on a reference executor, which has no timing."
        return Rung(6, "information", finding, facts, tuple(tables))
    where = f"{evidence[0]} evidence on {machines[0]}, {evidence[1]} evidence on {machines[1]}"
    if keys[0] == keys[1] and evidence[0] == evidence[1]:
        where = f"both {evidence[0]} evidence on {machines[0]}"
    apart = " The machines differ: their times say nothing about the runtimes." if keys[0] != keys[1] else ""
    said = median_text(list(facts["tasks"].values()))
    if speech and keys[0] == keys[1] and evidence[0] == evidence[1]:
        facts["paired_ratio"] = paired_ratio(pairs)
        said += ratio_text(facts["paired_ratio"])
    return Rung(
        6,
        "information",
        f"{said} ({where}). No speed-up is claimed: the runs were not measured in pairs.{apart}",
        facts,
        tuple(tables),
    )


def timing_of(runs: list[Run], evidence: str) -> dict[str, Any]:
    """One task's numbers in the units of ``ROWS``; of several shards, the first's (each was a session of its own)."""
    run = runs[0]
    found: dict[str, Any] = {"size": mega(run.manifest["key"]["model"].get("size_bytes"))}
    if evidence == UNTIMED:
        return found
    speed = (run.results or {}).get("performance") or {}
    item, first = speed.get("item_seconds") or {}, speed.get("first_token_seconds") or {}
    return found | {
        "n": speed.get("n"),
        "cold_start_seconds": speed.get("cold_start_seconds"),
        "load_seconds": speed.get("load_seconds"),
        "item_median": milli(item.get("median")),
        "item_p90": milli(item.get("p90")),
        "first_token": milli(first.get("median")),
        "items_per_second": speed.get("items_per_second"),
        "tokens_per_second": speed.get("tokens_per_second"),
        "peak_memory": mega(speed.get("peak_memory_bytes")),
    }


def median_text(tasks: Sequence[Sequence[Mapping[str, Any]]], places: Sequence[int] = (0, 1)) -> str:
    """``Median item 21.3 ms and 35.0 ms``: the range over tasks when there are several."""
    texts = []
    for place in places:
        values = [value for sides in tasks if (value := sides[place].get("item_median")) is not None]
        texts.append(
            "no timing"
            if not values
            else f"{min(values):.1f} ms"
            if len(values) == 1
            else f"{min(values):.1f} to {max(values):.1f} ms"
        )
    return f"Median item {' and '.join(texts)}"


def milli(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def mega(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def rounded(value: float | None) -> float | None:
    """Three significant digits below 100, whole numbers above."""
    if value is None:
        return None
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")
