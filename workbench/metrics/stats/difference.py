"""The paired difference of two runs: what a report prints and a verdict reads.

    found = paired_difference(reference, candidate, groups)
    found.difference, found.interval90, found.flips   # -0.00125, (-0.0068, 0.0042), 26 (of 1,600)
    found.method                                      # "Tango score interval"

Equal accuracy can hide churn, so the flips are always there; an interval never says more than the items can.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from workbench.metrics.stats.clusters import (
    as_values,
    design_effect,
    mean_interval,
    standard_error,
    unseen_changes,
)
from workbench.metrics.stats.paired import mcnemar, tango
from workbench.metrics.stats.planning import items_for_width, items_needed
from workbench.metrics.stats.resampling import cluster_codes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus reference on the same ``n`` items; shares are fractions.

    ``reference`` and ``candidate`` are mean scores. ``broke`` and ``fixed`` count items that got worse and better (right-or-wrong
    scores: flips). ``p`` is of "no difference": exact McNemar for right-or-wrong scores, the paired t-test otherwise, cluster-robust
    where groups repeat; None when undefined. ``quality_of_inference`` is the share of items no worse. ``clusters`` counts groups.
    """

    n: int
    reference: float
    candidate: float
    difference: float
    low90: float
    high90: float
    low95: float
    high95: float
    method: str
    broke: int
    fixed: int
    p: float | None
    quality_of_inference: float
    clusters: int

    @property
    def flips(self) -> int:
        return self.broke + self.fixed

    @property
    def flip_rate(self) -> float:
        return self.flips / self.n

    @property
    def interval90(self) -> tuple[float, float]:
        return self.low90, self.high90

    @property
    def interval95(self) -> tuple[float, float]:
        return self.low95, self.high95

    def items_needed(self, margin: float) -> int | None:
        """Items at which the same rates would settle the verdict at ±``margin`` (a fraction); None when no number would."""
        if self.method in (TANGO, UNSEEN):
            return items_needed(self.broke, self.fixed, self.n, margin)
        half90 = max(self.high90 - self.difference, self.difference - self.low90)
        half95 = max(self.high95 - self.difference, self.difference - self.low95)
        if not (isfinite(half90) and isfinite(half95)):
            return None
        return items_for_width(self.n, self.difference, half90, half95, margin)


TANGO = "Tango score interval"
UNSEEN = "interval of unseen changes"


def paired_difference(
    reference: Sequence[float], candidate: Sequence[float], groups: Sequence[Hashable] | None = None
) -> PairedDifference:
    """Compare scores of two runs, item by item, with the interval that fits them.

    - right or wrong (0 or 1), one item a group: Tango's score interval;
    - right or wrong, groups of several items: the hull of the cluster-robust interval (cluster bootstrap below 40 groups) and
      Tango's on the effective number of items, ``n`` divided by the design effect, so that it always has a width;
    - on a scale: the t interval, cluster-robust where groups repeat (cluster bootstrap below 40 groups).

    Where no score changed at all, or on a scale all but four alike, an interval of hardly any width would claim certainty from any
    number of items: it is at least what such items may hide (``clusters.unseen_changes``).
    Bounds outside what scores in 0..1 can reach are cut. ``reference`` and ``candidate`` are (n,), in the same order.
    Raises ValueError for lengths that differ, no item at all, or a value that is not a finite number.
    """
    import numpy as np

    a, b = as_values(reference), as_values(candidate)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores of the reference and {len(b)} of the candidate: pair them first")
    codes = cluster_codes(groups, len(a))
    change = b - a
    broke, fixed = int(np.count_nonzero(change < 0)), int(np.count_nonzero(change > 0))
    binary = bool((((a == 0) | (a == 1)) & ((b == 0) | (b == 1))).all())
    (low90, high90, method), (low95, high95, _) = (
        _interval(change, codes, confidence, binary, broke, fixed, _range(a, b)) for confidence in (0.90, 0.95)
    )
    return PairedDifference(
        n=len(a),
        reference=float(a.mean()),
        candidate=float(b.mean()),
        difference=float(change.mean()),
        low90=low90,
        high90=high90,
        low95=low95,
        high95=high95,
        method=method,
        broke=broke,
        fixed=fixed,
        p=mcnemar(broke, fixed) if binary and codes is None else _t_test(change, codes),
        quality_of_inference=1 - broke / len(a),
        clusters=len(a) if codes is None else int(codes.max()) + 1,
    )


def _range(a: np.ndarray, b: np.ndarray) -> float:
    """The most that one score can change by: 1 for scores in 0..1, else what was seen."""
    return max(1.0, float(max(a.max(), b.max()) - min(a.min(), b.min(), 0.0)))


def _interval(
    change: np.ndarray, codes: np.ndarray | None, confidence: float, binary: bool, broke: int, fixed: int, scale: float
) -> tuple[float, float, str]:
    n = len(change)
    if binary and codes is None:
        return *tango(broke, fixed, n, confidence), TANGO
    if not broke + fixed:
        return *unseen_changes(change, confidence, scale), UNSEEN
    low, high, method = mean_interval(change, codes, confidence)
    if not binary and (unseen := unseen_changes(change, confidence, scale))[0] < low:
        low, high, method = unseen[0], max(high, unseen[1]), f"{method} and {UNSEEN}, the wider"
    if binary:
        effect = design_effect(change, codes)
        score_low, score_high = tango(broke / effect, fixed / effect, n / effect, confidence)
        low, high, method = min(low, score_low), max(high, score_high), f"{method} and {TANGO}, the wider"
    if scale == 1:
        low, high = max(low, -1.0), min(high, 1.0)
    return low, high, method


def _t_test(change: np.ndarray, codes: np.ndarray | None) -> float | None:
    from scipy.special import stdtr

    error, clusters = standard_error(change, codes)
    if not error > 0:
        return None
    return float(2 * stdtr(clusters - 1, -abs(float(change.mean())) / error))


def quality_of_inference(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """The share of items on which the candidate scores no worse (WhisperKit's measure, for scores where higher is better)."""
    import numpy as np

    a, b = as_values(reference), as_values(candidate)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores of the reference and {len(b)} of the candidate: pair them first")
    return float(np.mean(b >= a))
