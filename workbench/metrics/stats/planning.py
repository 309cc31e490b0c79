"""How many items a verdict takes.

items_planned(flip_rate=0.05, margin=0.02)            # 1071: before any run
items_needed(broke=5, fixed=5, n=200, margin=0.02)    # 381: from a run that was inconclusive
"""

from __future__ import annotations

from math import ceil, floor, inf, sqrt
from statistics import NormalDist

from workbench.metrics.stats.paired import null_variance

MOST_ITEMS = 10**9


def z_of(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def items_needed(broke: float, fixed: float, n: int, margin: float) -> int | None:
    """The smallest number of items, at least ``n``, at which the observed flip rates give EQUIVALENT or DIFFERENT.

    Read off the intervals that decide: at given rates the square of Tango's score grows in proportion to the number of items,
    so the number at which a bound meets the margin (90 %) or 0 (95 %) needs no search. With no flips this is
    z² (1 - margin) / margin, 133 items at a margin of 0.02. None when not even 10**9 items would do.
    Raises ValueError unless there is an item and a margin above 0.
    """
    if n < 1 or not margin > 0:
        raise ValueError(f"needs at least one item and a margin above 0, not {n} items and {margin}")
    margin = min(margin, 1 - 1e-12)
    difference = (fixed - broke) / n

    def at(null: float, confidence: float) -> float:
        gap = difference - null
        return z_of((1 + confidence) / 2) ** 2 * null_variance(broke, fixed, n, null) / gap**2 if gap else inf

    equivalent = max(at(margin, 0.90), at(-margin, 0.90)) if abs(difference) < margin else inf
    items = min(equivalent, at(0.0, 0.95))
    return max(n, floor(items) + 1) if items < MOST_ITEMS else None


def items_for_width(n: int, difference: float, half90: float, half95: float, margin: float) -> int | None:
    """As ``items_needed`` for an interval of any kind, from its half widths, which shrink with the root of the number of items."""
    inside = margin - abs(difference)
    equivalent = n * (half90 / inside) ** 2 if inside > 0 else inf
    different = n * (half95 / difference) ** 2 if difference else inf
    items = min(equivalent, different)
    return max(n, floor(items) + 1) if items < MOST_ITEMS else None


def items_planned(flip_rate: float, margin: float, power: float = 0.80, alpha: float = 0.05) -> int:
    """The items at which two models of equal quality, disagreeing on ``flip_rate``, come out EQUIVALENT with ``power``.

    ``psi ((z_{1-alpha} + z_{1-beta/2}) / margin)²``; never fewer than an interval without any flip needs.
    """
    if not (0 <= flip_rate <= 1 and 0 < margin < 1 and 0 < power < 1 and 0 < alpha < 0.5):
        raise ValueError(f"not rates between 0 and 1: flip rate {flip_rate}, margin {margin}, power {power}, alpha {alpha}")
    items = flip_rate * ((z_of(1 - alpha) + z_of(1 - (1 - power) / 2)) / margin) ** 2
    return max(ceil(items), _items_without_flips(margin, alpha))


def equivalence_power(flip_rate: float, n: int, margin: float, alpha: float = 0.05) -> float:
    """How often two models of equal quality, disagreeing on ``flip_rate``, come out EQUIVALENT on ``n`` items.

    The normal formula behind ``items_planned``: ``2 Phi(margin sqrt(n / psi) - z_{1-alpha}) - 1``; 0 below the items that an
    interval without any flip needs. It takes the variance at no difference, where the interval takes the one at the margin, so it
    promises too much where few flips are expected: exact values are 0.60 for 0.76 at 2 % of 400 items, 0.94 for 0.95 at 5 % of 1,600.
    """
    if not (0 <= flip_rate <= 1 and n >= 0 and 0 < margin < 1 and 0 < alpha < 0.5):
        raise ValueError(f"not rates between 0 and 1: flip rate {flip_rate}, margin {margin}, alpha {alpha}, on {n} items")
    if n < _items_without_flips(margin, alpha):
        return 0.0
    if flip_rate == 0:
        return 1.0
    return max(0.0, 2 * NormalDist().cdf(margin * sqrt(n / flip_rate) - z_of(1 - alpha)) - 1)


def _items_without_flips(margin: float, alpha: float) -> int:
    return floor(z_of(1 - alpha) ** 2 * (1 - margin) / margin) + 1
