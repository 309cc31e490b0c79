"""Bootstrap of what is computed from sums over all items: a corpus word error rate, a ratio of scores.

    def wer_difference(a, b):                       # sums (draws, 2): errors, words
        return b[:, 0] / b[:, 1] - a[:, 0] / a[:, 1]
    paired_bootstrap(reference_counts, candidate_counts, wer_difference, groups=speakers)   # (low, high)
    corpus_interval(errors_and_words, groups=speakers)              # (low, high, 12, False) of one system's rate

Every draw takes the same items for both models: what makes an item hard then cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING, Literal

from workbench.metrics.stats.clusters import DRAWS, as_values, design_effect, few_clusters, unseen_changes
from workbench.metrics.stats.paired import tango
from workbench.metrics.stats.resampling import cluster_codes, cluster_sums, effective_clusters, lower_tail, resampled_sums

if TYPE_CHECKING:
    import numpy as np

Statistic = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def paired_bootstrap(
    reference_counts: np.ndarray,
    candidate_counts: np.ndarray,
    statistic: Statistic,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.90,
    draws: int = DRAWS,
    seed: int = 0,
    method: Literal["percentile", "BCa"] = "percentile",
) -> tuple[float, float]:
    """The interval of ``statistic(reference sums, candidate sums)`` when items, or groups of items, are resampled.

    Both arrays are (n, k): k additive counts an item. ``statistic`` takes sums (draws, k) of both models over the same draws and
    returns (draws,). Percentiles are expanded for few clusters (``resampling.lower_tail``); ``BCa`` then corrects bias and skew
    (B. Efron, JASA 82 (1987) 171-185), the acceleration from leaving out one cluster at a time, as scipy.stats.bootstrap does.
    Infinite with a single cluster. Raises ValueError where the shapes differ or the statistic is not a number on some draw.
    """
    import numpy as np

    reference, candidate = (np.asarray(counts, np.float64) for counts in (reference_counts, candidate_counts))
    if reference.ndim != 2 or reference.shape != candidate.shape or not len(reference):
        raise ValueError(f"counts of one shape (items, counts) are needed, not {reference.shape} and {candidate.shape}")
    if method not in ("percentile", "BCa"):
        raise ValueError(f"the method is percentile or BCa, not {method!r}")
    width = reference.shape[1]
    codes = cluster_codes(groups, len(reference))
    rows = cluster_sums(np.concatenate([reference, candidate], axis=1), codes)
    if len(rows) < 2:
        return -inf, inf

    def evaluate(sums: np.ndarray) -> np.ndarray:
        values = np.asarray(statistic(sums[:, :width], sums[:, width:]), np.float64)
        if values.shape != (len(sums),) or not np.isfinite(values).all():
            raise ValueError("the statistic must give one finite number a draw; is a denominator 0 on some draw?")
        return values

    values = evaluate(resampled_sums(rows, draws, seed))
    tail = lower_tail(confidence, effective_clusters(codes, len(reference)))
    tails = [tail, 1 - tail]
    if method == "BCa":
        total = rows.sum(axis=0)
        tails = _bca_tails(values, float(evaluate(total[None])[0]), evaluate(total - rows), tails)
    low, high = np.quantile(values, tails)
    return float(low), float(high)


def corpus_interval(
    rows: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, int, bool] | None:
    """(low, high, clusters, widened): the percentile interval of ``sum(rows[:, 0]) / sum(rows[:, 1])`` when items, or groups of them, are resampled; None for fewer
    than two. ``rows`` is (n, 2), 0 or more: errors and words, say.

    Expanded for few clusters (``resampling.lower_tail``), and of few groups at least what they can say (``clusters.few_clusters``; the
    draws of two speakers hold the truth half of the time). Draws without anything to divide by are left out. Where all but four items have
    the same number of errors (none, as a rule), the draws show no spread to go by: the upper bound is then at least what so many
    items may hide (``clusters.unseen_changes``; ``widened``), so five utterances without an error are not an error rate of exactly 0.
    """
    import numpy as np

    rows = np.asarray(rows, np.float64)
    codes = cluster_codes(groups, len(rows))
    clusters = cluster_sums(rows, codes)
    if np.count_nonzero(clusters[:, 1]) < 2:
        return None
    sums = resampled_sums(clusters, draws, seed)
    sums = sums[sums[:, 1] > 0]
    tail = lower_tail(confidence, effective_clusters(codes, len(rows)))
    low, high = (float(bound) for bound in np.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail]))
    rate = float(rows[:, 0].sum() / rows[:, 1].sum())
    low, high = few_clusters((low, high), rate, (rows[:, 0] - rate * rows[:, 1]) / rows[:, 1].mean(), codes, confidence)
    low = max(0.0, low)
    unseen_low, unseen_high = unseen_changes(rows[:, 0] / rows[:, 1].mean(), confidence)
    widened = unseen_high > unseen_low and (unseen_high > high or max(0.0, unseen_low) < low)
    if widened:
        low, high = min(low, max(0.0, unseen_low)), max(high, unseen_high)
    return float(low), float(high), len(clusters), bool(widened)


def _bca_tails(values: np.ndarray, observed: float, left_out: np.ndarray, tails: list[float]) -> list[float]:
    import numpy as np
    from scipy.special import ndtr, ndtri

    share = float(np.mean(values < observed) + np.mean(values == observed) / 2)
    spread = left_out.mean() - left_out
    scale = float(np.sum(spread**2)) ** 1.5
    if scale == 0 or not 0 < share < 1:
        return tails
    bias, acceleration = float(ndtri(share)), float(np.sum(spread**3)) / (6 * scale)
    z = ndtri(np.array(tails))
    return [float(tail) for tail in ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))]


def ratio_interval(
    reference: Sequence[float],
    candidate: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.90,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The interval of mean(candidate) / mean(reference), by a paired bootstrap of its logarithm; None when the reference scores 0.

    For a relative margin of 2 %, equivalent means inside (1 / 1.02, 1.02), which is ``Margin(2.0, "relative").bounds``. Draws on which
    the reference scores 0 widen both ends. It is at least what the difference's own interval says where few items changed: Tango's on the
    effective number of items for right-or-wrong scores, ``clusters.unseen_changes`` and ``few_clusters`` for others, so two runs without a change
    are not called equal on five items. Raises ValueError for scores below 0.
    """
    import numpy as np

    a, b = as_values(reference), as_values(candidate)
    if len(a) != len(b) or min(a.min(), b.min()) < 0:
        raise ValueError(f"needs pairs of scores of 0 or more, not {len(a)} and {len(b)} from {min(a.min(), b.min())}")
    if a.sum() == 0:
        return None
    codes = cluster_codes(groups, len(a))
    rows = cluster_sums(np.stack([a, b], axis=1), codes)
    if len(rows) < 2:
        return 0.0, inf
    sums = resampled_sums(rows, draws, seed)
    defined = sums[:, 0] > 0
    logs = np.full(draws, -inf)
    np.log(sums[:, 1], out=logs, where=defined & (sums[:, 1] > 0))
    logs[defined] -= np.log(sums[defined, 0])
    tail = lower_tail(confidence, effective_clusters(codes, len(a)))
    low = np.quantile(logs, tail, method="lower")
    high = np.quantile(np.where(defined, logs, inf), 1 - tail, method="higher")
    low, high = float(np.exp(low)), float(np.exp(high))
    if ((a == 0) | (a == 1)).all() and ((b == 0) | (b == 1)).all():
        effect = design_effect(b - a, codes)
        bounds = tango((b < a).sum() / effect, (b > a).sum() / effect, len(a) / effect, confidence)
    else:
        change = b - a
        bounds = unseen_changes(change, confidence, max(1.0, float(max(a.max(), b.max()))))
        bounds = few_clusters(bounds, float(change.mean()), change, codes, confidence)
    low, high = min(low, max(0.0, 1 + bounds[0] / a.mean())), max(high, 1 + bounds[1] / a.mean())
    return float(low), float(high)
