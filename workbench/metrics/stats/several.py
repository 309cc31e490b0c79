"""Several claims at once.

holm([0.01, 0.04, 0.03])   # [0.03, 0.06, 0.06]

"All of these are equivalent" needs no correction: every part must hold (an intersection-union test). "One of these
differs" does, because with twenty strata one is expected to look different by chance.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of claims, in the given order (Holm 1979; ``statsmodels`` multipletests)."""
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return []
    if any(p is None or not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie between 0 and 1: {list(p_values)}")
    return [float(p) for p in multipletests(p_values, method="holm")[1]]
