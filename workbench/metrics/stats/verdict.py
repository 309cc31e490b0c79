"""The verdict of a comparison: a margin, and the rule that reads two intervals against it.

    margin = Margin(2.0, "absolute")
    low, high = margin.bounds                       # -0.02, 0.02
    decide((-0.004, 0.011), (-0.006, 0.013), low, high)   # "EQUIVALENT"

A p-value above 0.05 is no evidence of sameness; an interval inside the margin is. Two models can be EQUIVALENT and still
measurably not the same: the margin says how much matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

EQUIVALENT = "EQUIVALENT"
DIFFERENT = "DIFFERENT"
INCONCLUSIVE = "INCONCLUSIVE"
INCOMPARABLE = "INCOMPARABLE"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Margin:
    """How large a difference still counts as none.

    ``value`` is in points for ``absolute`` (2.0: from -2 to +2 percentage points) and in per cent of the reference's score
    for ``relative``. Raises ValueError unless the value is a number above 0.
    """

    value: float
    kind: Literal["absolute", "relative"] = "absolute"

    def __post_init__(self) -> None:
        if not (isfinite(self.value) and self.value > 0):
            raise ValueError(f"a margin must be above 0, not {self.value}")
        if self.kind not in ("absolute", "relative"):
            raise ValueError(f"a margin is absolute or relative, not {self.kind!r}")

    @property
    def text(self) -> str:
        """The margin as readers see it: "±2.0 points"."""
        unit = "points" if self.kind == "absolute" else "% of the reference's score"
        return f"±{float(self.value)} {unit}"

    @property
    def bounds(self) -> Interval:
        """The interval that counts as no difference: of a difference as fractions, or of a ratio (1/(1+m), 1+m)."""
        share = self.value / 100
        return (-share, share) if self.kind == "absolute" else (1 / (1 + share), 1 + share)

    @property
    def null(self) -> float:
        """What "no difference" is: 0 for a difference, 1 for a ratio."""
        return 0.0 if self.kind == "absolute" else 1.0


def decide(interval90: Interval, interval95: Interval, margin_low: float, margin_high: float, null: float = 0.0) -> str:
    """EQUIVALENT, DIFFERENT or INCONCLUSIVE, from the 90 % and the 95 % interval of the same quantity.

    The 90 % interval strictly inside the margin is the two one-sided tests at 5 % each (D. Schuirmann, J. Pharmacokinet.
    Biopharm. 15 (1987) 657-680). It is asked first: a difference can be real and too small to matter.
    """
    if margin_low < interval90[0] and interval90[1] < margin_high:
        return EQUIVALENT
    if not interval95[0] <= null <= interval95[1]:
        return DIFFERENT
    return INCONCLUSIVE
