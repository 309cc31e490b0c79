"""Why scores are what they are: how many answers of each side were read, cut off, empty, refused or failed.

reason_rows(sides)[0].counts      # {'parsed': 391, 'unparsed': 6, 'truncated': 3}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.parity.sides import Side

REASONS = {
    "parsed": "an answer was read from the response",
    "unparsed": "no answer could be read (a random or floor answer may stand in, by the official rules)",
    "empty": "the response is empty",
    "truncated": "the response ran into the token limit",
    "refused": "the model refused",
    "error": "the item failed; it counts as wrong",
    "missing": "there is no response",
}


@dataclass(frozen=True)
class ReasonRow:
    """``counts`` by reason; ``random``: answers drawn by the official protocol because none could be read."""

    task: str
    label: str
    n: int
    counts: Mapping[str, int]
    random: int


@dataclass(frozen=True)
class ItemFailure:
    """An item that could not be answered, and what was said."""

    task: str
    label: str
    id: str
    reason: str
    what: str
    why: str | None
    fix: str | None


def reason_rows(sides: Sequence[Side]) -> list[ReasonRow]:
    """Rows by task, then side."""
    tasks = list(dict.fromkeys(task for side in sides for task in side.tasks))
    rows = []
    for task in tasks:
        for side in sides:
            if task not in side.lines:
                continue
            scores = [line["score"] for line in side.lines[task].values()]
            counts = Counter(score["reason"] for score in scores)
            rows.append(ReasonRow(task, side.label, len(scores), counts, sum(bool(score.get("random")) for score in scores)))
    return rows


def item_failures(sides: Sequence[Side]) -> list[ItemFailure]:
    """Every item with an error, of every side."""
    return [
        failure(task, side.label, line)
        for side in sides
        for task, lines in side.lines.items()
        for line in lines.values()
        if line["output"]["finish"] == "error"
    ]


def failure(task: str, label: str, line: Mapping[str, Any]) -> ItemFailure:
    error = line["output"].get("error") or {}
    what = str(error.get("what") or "no reason was recorded")
    return ItemFailure(task, label, line["id"], str(error.get("reason") or "error"), what, error.get("why"), error.get("fix"))
