"""Paired scores on a scale (word error rate of an utterance, IoU): the t interval and the test of equivalence.

tost_paired([0.10, 0.21, 0.05], [0.11, 0.20, 0.05], margin=0.05)   # 0.0065...
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.metrics.stats.clusters import as_values, cluster_interval


def t_interval(differences: Sequence[float], confidence: float = 0.90) -> tuple[float, float]:
    """The t interval of the mean of independent differences; infinite for a single one."""
    return cluster_interval(differences, None, confidence)


def tost_paired(reference: Sequence[float], candidate: Sequence[float], margin: float) -> float:
    """The p-value of "the mean difference lies outside ±margin", by two one-sided paired t-tests; below 0.05: equivalent.

    The larger of the two one-sided p-values (``statsmodels`` ttost_paired). NaN when every difference is the same.
    Raises ValueError unless the two are equally long and the margin is above 0.
    """
    from statsmodels.stats.weightstats import ttost_paired

    reference, candidate = as_values(reference), as_values(candidate)
    if len(reference) != len(candidate) or not margin > 0:
        raise ValueError(f"{len(reference)} and {len(candidate)} values with a margin of {margin}")
    if len(reference) < 2 or (candidate - reference).std() == 0:
        return float("nan")
    return float(ttost_paired(candidate, reference, -margin, margin)[0])
