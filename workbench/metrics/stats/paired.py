"""Two models right or wrong on the same items: the interval of the difference, and the exact test.

tango(broke=3, fixed=0, n=400)   # (-0.0186..., -0.0007...): 90 % interval of candidate minus reference
mcnemar(broke=3, fixed=0)        # 0.25

Only the items on which the two disagree say anything about the difference; the number of items says how much. The Wald
interval has no width when nothing flipped, this one has: 100 items without a flip leave +-2.63 points.
"""

from __future__ import annotations

from math import hypot, sqrt
from statistics import NormalDist


def tango(broke: float, fixed: float, n: float, confidence: float = 0.90) -> tuple[float, float]:
    """The two-sided score interval of ``(fixed - broke) / n``, as fractions; (-1, 1) when there is nothing to count.

    ``broke`` items are right for the reference and wrong for the candidate, ``fixed`` the other way round, out of ``n`` pairs.
    The counts need not be whole: planning scales observed rates, a design effect shrinks them.
    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908: the D that the score test, with the variance at the
    constrained maximum likelihood estimate, does not reject.
    Raises ValueError unless 0 <= broke, 0 <= fixed, broke + fixed <= n and 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if not (broke >= 0 and fixed >= 0 and broke + fixed <= n * (1 + 1e-12)):
        raise ValueError(f"broke and fixed must be counts out of {n} items, not {broke} and {fixed}")
    if n == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return -_upper(fixed, broke, n, z), _upper(broke, fixed, n, z)


def _upper(broke: float, fixed: float, n: float, z: float) -> float:
    """The D at or above the estimate at which the score test gives exactly ``-z``."""
    from scipy.optimize import brentq

    estimate = (fixed - broke) / n
    if estimate >= 1:
        return 1.0

    def distance(difference: float) -> float:
        # Bounded and without a division, so that it brackets where the score itself is infinite (D = 1) or 0/0 (no flips).
        gap = n * difference - (fixed - broke)
        spread = z * sqrt(n * null_variance(broke, fixed, n, difference))
        return gap / hypot(gap, spread) - sqrt(0.5) if gap > 0 else -sqrt(0.5)

    return float(brentq(distance, estimate, 1.0, xtol=1e-16, rtol=1e-14, maxiter=500))


def null_variance(broke: float, fixed: float, n: float, difference: float) -> float:
    """Variance of one item's difference at the maximum likelihood estimate of the flips under a true ``difference``.

    ``2 q + D (1 - D)``, with q the estimated share of broken items (Tango 1998).
    """
    a = 2 * n
    b = (2 * n - fixed + broke) * difference - broke - fixed
    c = -broke * difference * (1 - difference)
    root = sqrt(max(b * b - 4 * a * c, 0.0))
    share = -2 * c / (b + root) if b > 0 else (root - b) / (2 * a)  # the textbook form would cancel for b > 0
    return max(2 * share + difference * (1 - difference), 0.0)


def mcnemar(broke: int, fixed: int) -> float:
    """The exact two-sided p-value of "broken and fixed items are equally many"; 1 without any flip.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, with binomial probabilities (``scipy.stats.binomtest``).
    """
    from scipy.stats import binomtest

    if broke + fixed == 0:
        return 1.0
    return float(binomtest(broke, broke + fixed, 0.5).pvalue)
