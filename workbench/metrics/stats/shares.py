"""Intervals for shares.

wilson(71, 100)   # (0.6146..., 0.7901...)
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Wilson score interval of ``correct / total``, as fractions; (0, 1) when there is nothing to count.

    Source: E. B. Wilson, JASA 22 (1927) 209-212, without continuity correction; equals
    ``scipy.stats.binomtest(correct, total).proportion_ci(method="wilson")``.
    Raises ValueError unless 0 <= correct <= total and 0 < confidence < 1.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"correct must be between 0 and total, not {correct} of {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return low, high
