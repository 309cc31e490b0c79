"""Intervals of a mean whose items come in groups: images with several questions, speakers, recordings.

low, high = cluster_interval(differences, groups, confidence=0.90)

Items of one group move together, so a thousand items of twenty speakers say less than a thousand speakers would. Both
intervals treat the group as what was drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf, sqrt
from typing import TYPE_CHECKING

from workbench.metrics.stats.paired import tango
from workbench.metrics.stats.resampling import cluster_codes, cluster_sums, effective_clusters, lower_tail, resampled_sums

if TYPE_CHECKING:
    import numpy as np

FEW_CHANGES = 5
DIGITS = 12
FEW_CLUSTERS = 40
VERY_FEW_CLUSTERS = 8
DRAWS = 10_000


def standard_error(values: np.ndarray, codes: np.ndarray | None) -> tuple[float, int]:
    """The cluster-robust standard error of the mean of ``values`` (n,), and the number of clusters; NaN for a single one."""
    import numpy as np

    centred = (values - values.mean())[:, None]
    sums = cluster_sums(centred, codes)
    clusters = len(sums)
    if clusters < 2:
        return float("nan"), clusters
    return sqrt(clusters / (clusters - 1) * float(np.sum(sums**2))) / len(values), clusters


def cluster_interval(
    differences: Sequence[float], groups: Sequence[Hashable] | None = None, confidence: float = 0.90
) -> tuple[float, float]:
    """The interval of the mean with a cluster-robust standard error and t quantiles with C - 1 degrees of freedom.

    ``SE² = C/(C-1) sum_c (sum_{i in c} (d_i - mean))² / n²``. Without groups, or with one item each, this is the plain t interval.
    Infinite with a single cluster. Source: Liang and Zeger, Biometrika 73 (1986) 13-22; E. Miller, arXiv 2411.00640.
    Equals statsmodels' OLS on a constant with ``cov_type="cluster"``, ``use_t=True``.
    """
    import numpy as np
    from scipy.special import stdtrit

    values = as_values(differences)
    error, clusters = standard_error(values, cluster_codes(groups, len(values)))
    if clusters < 2:
        return -inf, inf
    half = float(stdtrit(clusters - 1, (1 + confidence) / 2)) * error
    mean = float(np.mean(values))
    return mean - half, mean + half


def cluster_bootstrap(
    differences: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.90,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the mean from resampled clusters, percentiles expanded for few or unequal ones (``resampling.lower_tail``).

    Made for fewer than 40 clusters of unequal size, where the t interval is too short; below 8 the draws themselves are too few
    values to reach the tails. Infinite with a single cluster.
    """
    import numpy as np

    values = as_values(differences)
    codes = cluster_codes(groups, len(values))
    rows = cluster_sums(np.stack([values, np.ones_like(values)], axis=1), codes)
    if len(rows) < 2:
        return -inf, inf
    sums = resampled_sums(rows, draws, seed)
    tail = lower_tail(confidence, effective_clusters(codes, len(values)))
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, confidence: float = 0.90
) -> tuple[float, float, str]:
    """(low, high, method) of the mean: the interval that holds its level at this number of groups.

    The t interval for items that stand alone and, cluster-robust, from 40 groups on; the cluster bootstrap below 40; the wider of
    both below 8. ``tests/bench/statistics.py`` prints how often each holds the truth.
    """
    values = as_values(values)
    codes = cluster_codes(groups, len(values))
    if codes is None:
        return *cluster_interval(values, None, confidence), "t interval"
    clusters = int(codes.max()) + 1
    if clusters >= FEW_CLUSTERS:
        return *cluster_interval(values, codes, confidence), "cluster-robust t interval"
    low, high = cluster_bootstrap(values, codes, confidence)
    if clusters >= VERY_FEW_CLUSTERS:
        return low, high, "cluster bootstrap"
    robust_low, robust_high = cluster_interval(values, codes, confidence)
    return min(low, robust_low), max(high, robust_high), "cluster bootstrap and cluster-robust t interval, the wider"


def few_clusters(
    bounds: tuple[float, float], estimate: float, influence: np.ndarray, codes: np.ndarray | None, confidence: float
) -> tuple[float, float]:
    """``bounds`` from resampled groups, at least what so few of them can say; as they are without groups and from 40 on.

    ``influence`` (n,) are the items' parts of the estimate's error: their mean is 0, and the standard error of their mean is that of the
    estimate (a ratio's are ``(errors - rate * words) / mean words``). Below 40 groups the interval is at least the t interval of items that
    stand alone: two speakers with the same rate would else be certainty. Below 8 also the cluster-robust one, as in ``mean_interval``.
    """
    from scipy.special import stdtrit

    if codes is None or (clusters := int(codes.max()) + 1) >= FEW_CLUSTERS:
        return bounds
    low, high = bounds
    for each in (None, codes) if clusters < VERY_FEW_CLUSTERS else (None,):
        error, number = standard_error(influence, each)
        half = float(stdtrit(number - 1, (1 + confidence) / 2)) * error
        low, high = min(low, estimate - half), max(high, estimate + half)
    return low, high


def unseen_changes(change: np.ndarray, confidence: float, scale: float = 1.0) -> tuple[float, float]:
    """What items that all changed alike (not at all, as a rule) may hide: Tango's interval without a flip, for their share, around
    the mean of ``change`` (n,).

    A spread that is seen on fewer than ``FEW_CHANGES`` items is no spread to go by: one item of five that moved by 1e-9 would
    make an interval of 1e-9. No width where more moved. ``scale`` is the most that a score can change by.
    """
    import numpy as np

    n, mean = len(change), float(change.mean())
    _, alike = np.unique(np.round(change, DIGITS), return_counts=True)
    others = n - int(alike.max())
    if others >= FEW_CHANGES:
        return mean, mean
    low, high = tango(0, 0, n, confidence)
    share = scale * (n - others) / n
    return mean + share * low, mean + share * high


def design_effect(change: np.ndarray, codes: np.ndarray | None) -> float:
    """How many times the variance of flips (n,) of -1, 0 or 1 exceeds that of independent ones; at least 1.

    The larger of what the cluster-robust variance says and of ``1 + r (m - 1)``, with m the size of the group that an item is in, on
    average over items, and r how often another item of a flipped item's group flipped the same way (less those that flipped the
    other way). The first alone is too small whenever the few groups that flipped happen to be small ones. Without any flip nothing shows that they would come in groups: 1.
    Source: L. Kish, Survey Sampling (1965).
    """
    import numpy as np

    if codes is None:
        return 1.0
    robust, clusters = standard_error(change, codes)
    alone, _ = standard_error(change, None)
    if clusters < 2:
        return len(change)
    sizes = np.bincount(codes)
    flips, net = np.bincount(codes, change != 0), np.bincount(codes, change)
    others = float(flips @ (sizes - 1))
    together = max(0.0, float(np.sum(net**2 - flips)) / others) if others else 0.0
    by_pairs = 1 + together * (float(sizes @ sizes) / len(change) - 1)
    return max(1.0, (robust / alone) ** 2 if alone > 0 else 1.0, by_pairs)


def as_values(values: Sequence[float]) -> np.ndarray:
    """A float64 array (n,), n at least 1. Raises ValueError for no value, or one that is not a finite number."""
    import numpy as np

    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"needs a list of at least one value, not an array of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("every value must be a finite number; leave unscored items out on both sides")
    return found
