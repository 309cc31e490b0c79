"""The report's pictures for notebooks, with matplotlib.

    plot_differences(comparison)            # paired differences by group, with the margin
    plot_scores([run_a, run_b])             # scores with their 95 % intervals

Both draw into ``ax`` (a new figure's when None) and return it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.parity.comparison import Comparison, Stratum
from workbench.parity.sides import Side, read_sides
from workbench.report.blocks import MOST_ROWS, finite
from workbench.report.forest import margin_bounds
from workbench.report.scores import score_rows
from workbench.report.speech import SpeechRow, speech_rows
from workbench.report.text import visible
from workbench.run.bundle import Run

INK, POINT, BAND = "#3a424b", "#1d5fa6", "#dbe8f4"


def plot_differences(comparison: Comparison, ax: Any = None) -> Any:
    """Paired differences with 90 % intervals in points, one row a group (at most ``MOST_ROWS``), and the margin as a band.

    Raises ValueError when no item is paired, as in captures, which hold no answers.
    """
    if comparison.verdict.margin is None:
        raise ValueError(
            "captures hold no answers, so there is no difference to draw; plot_drift(comparison.rung(3).facts['layers']) draws the layers"
        )
    if not comparison.strata:
        raise ValueError("no item was answered by both sides, so there is no difference to draw")
    strata = most_telling(comparison.strata)
    more = len(comparison.strata) - len(strata)
    ax = ax if ax is not None else new_axes(len(strata))
    low, high = margin_bounds(comparison.verdict.margin, strata[0].paired.reference)
    ax.axvspan(100 * low, 100 * high, color=BAND, zorder=0, label=f"margin {comparison.verdict.margin.text}")
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for row, each in enumerate(strata):
        paired = finite(each.paired)
        ax.plot([100 * paired.low90, 100 * paired.high90], [row, row], color=INK, linewidth=1.4, zorder=2)
        marker, size = ("D", 7) if each.axis == "all" else ("o", 5)
        ax.plot([100 * paired.difference], [row], marker, color=POINT, markersize=size, zorder=3)
    ax.set_yticks(range(len(strata)), [literal(f"{each.name}  n={each.paired.n:,}") for each in strata])
    ax.invert_yaxis()
    points = "points of WER, more is worse" if comparison.of_speech else "points"
    ax.set_xlabel(
        f"candidate minus reference, {points} (90 % interval)" + (f"; {more:,} more groups are not drawn" if more else "")
    )
    ax.set_title(
        literal(f"{comparison.candidate.label} against {comparison.reference.label}: {comparison.verdict.name}"), loc="left"
    )
    ax.legend(loc="best", frameon=False)
    quiet(ax)
    return ax


def plot_scores(runs: Sequence[Side | Run | str], ax: Any = None) -> Any:
    """Scores in per cent with their 95 % intervals, one row a task and side. Takes sides, runs or paths of bundles.

    Raises ValueError when no score is in per cent.
    """
    sides = [each for each in runs if isinstance(each, Side)]
    others = [each for each in runs if not isinstance(each, Side)]
    found = [*sides, *(read_sides(others) if others else [])]
    rows: list[Any] = [row for row in score_rows(found) if row.unit == "%" and row.value is not None]
    rows += [each for row in speech_rows(found) if (each := word_error_bar(row)) is not None]
    if not rows:
        raise ValueError("no run has a score in per cent")
    ax = ax if ax is not None else new_axes(sum(2 if isinstance(row, WordErrorBar) else 1 for row in rows))
    for place, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            ax.plot([row.low, row.high], [place, place], color=INK, linewidth=1.4, zorder=2)
        ax.plot([row.value], [place], "o", color=POINT if row.side else "white", markeredgecolor=POINT, markersize=6, zorder=3)
    ax.set_yticks(range(len(rows)), [literal(f"{row.task}\n{row.label}") for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ends = [bound for row in rows for bound in (row.value, row.high) if bound is not None]
    # Error rates are read near 0, where a scale to 100 would press them into its corner; shares of right answers keep theirs.
    only_errors = all(isinstance(row, WordErrorBar) for row in rows)
    ax.set_xlim(0, 1.15 * max(*ends, 1.0) if only_errors else max(100, *ends))
    ax.set_xlabel("score, % (95 % interval; reference hollow)")
    quiet(ax)
    return ax


@dataclass(frozen=True)
class WordErrorBar:
    """A word error rate as ``plot_scores`` draws a score, in per cent; its name says that lower is better, and by whose rules."""

    task: str
    label: str
    side: int
    value: float
    low: float | None
    high: float | None


def word_error_bar(row: SpeechRow) -> WordErrorBar | None:
    if row.wer is None:
        return None
    low, high = (None if bound is None else 100 * bound for bound in row.bounds)
    told = f"{row.task}: WER, lower is better\n{row.profile}, {row.errors:,} errors in {row.words:,} words"
    return WordErrorBar(told, row.label, row.side, 100 * row.wer, low, high)


def most_telling(strata: Sequence[Stratum]) -> list[Stratum]:
    """All items, then tasks, then the groups with the most items: at most MOST_ROWS, in their own order."""
    rank = {"all": 0, "task": 1}
    order = sorted(range(len(strata)), key=lambda place: (rank.get(strata[place].axis, 2), -strata[place].paired.n))
    return [strata[place] for place in sorted(order[:MOST_ROWS])]


def literal(text: str) -> str:
    """``text`` as it is: matplotlib would set what stands between dollar signs as mathematics."""
    return visible(text).replace("$", r"\$")


def new_axes(rows: int) -> Any:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(8, 1.4 + 0.32 * rows), layout="constrained")[1]


def quiet(ax: Any) -> None:
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
