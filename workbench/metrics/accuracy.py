"""Right-or-wrong metrics: per cent correct, and counts of correct items on a fixed scale.

    ACCURACY.reduce([Score.of(True, "A"), Score.of(False, "B")])   # 50.0
    correct_count(1000).reduce(scores)                             # OCRBench's final score, an integer

Both are reductions over additive counts, so shards and bootstrap samples can be summed before dividing.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.types import Metric, Score


def total(scores: Sequence[Score], name: str) -> int:
    """The sum of one additive count."""
    return sum(score.counts.get(name, 0) for score in scores)


def percent_correct(scores: Sequence[Score]) -> float:
    """100 * correct / total over all scores (a micro average). NaN without any score."""
    items = total(scores, "total")
    return 100 * total(scores, "correct") / items if items else float("nan")


def count_correct(scores: Sequence[Score]) -> int:
    """How many are correct."""
    return total(scores, "correct")


ACCURACY = Metric("accuracy", percent_correct)


def correct_count(of: int | None = None) -> Metric:
    """Correct items as an integer on the scale 0..``of`` (None: as many as were scored)."""
    return Metric("correct", count_correct, bounds=(0.0, None if of is None else float(of)), unit="items", of=of)
