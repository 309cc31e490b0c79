"""Where the error starts: the layers of two sides in order, each judged by the error that torch itself makes there.

    first_departing(layers)      # Layer("vision.block.1.attention", ...), or None where no layer departs

No absolute tolerance fits every precision and depth. The yardstick is the same model in torch in the candidate's own precision, against
the more exact run: a healthy port is as far from the truth as torch is (0.3 to 3 times, in every layer of some 25 families in
float32), a wrong one a hundred to a million times. Two layers tell different things:

- ``error`` holds what earlier layers passed on too. The first layer that departs is at or right after the fault.
- ``made`` is the error of a layer that was given the reference's own activations: what this layer makes. The first such layer is guilty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import Any

from workbench.metrics.tensors import TensorError

LIMIT = 10.0
"""A layer departs when its error exceeds this many times torch's own."""

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs: torch's own error is never taken for smaller, since a layer whose torch run is exact by luck would condemn any other."""


@dataclass(frozen=True)
class Layer:
    """One layer on both sides. ``error``: the candidate's against the reference. ``own``: torch's own in the candidate's precision, against
    the more exact run. ``made``: the candidate's where it was given the reference's activations. ``reason``: why nothing could be compared."""

    name: str
    error: TensorError | None = None
    own: TensorError | None = None
    made: TensorError | None = None
    reason: str | None = None
    unit: float = UNITS["float32"]

    @property
    def yardstick(self) -> float | None:
        """Torch's own relative RMS error here, at least two units of rounding."""
        return None if self.own is None else max(self.own.relative_rms, 2 * self.unit)

    @property
    def times_own(self) -> float | None:
        """How many times torch's own error the candidate's is; None without a yardstick."""
        return _times(self.error, self.yardstick)

    @property
    def made_times_own(self) -> float | None:
        return _times(self.made, self.yardstick)

    @property
    def departs(self) -> bool | None:
        """None where it cannot be judged. Values that are not finite on one side only depart whatever the rest does."""
        return _departs(self.error, self.times_own)

    @property
    def guilty(self) -> bool | None:
        return _departs(self.made, self.made_times_own)

    def to_json(self) -> dict[str, Any]:
        """The row of a table; numbers that JSON has not are None."""
        row: dict[str, Any] = {"layer": self.name, "reason": self.reason}
        if self.error is not None:
            error = self.error
            row |= {
                "n": error.n,
                "snr_db": error.snr_db,
                "cosine": error.cosine,
                "max_abs": error.max_abs,
                "max_over_rms": error.max_over_rms,
                "relative_rms": error.relative_rms,
                "needed_tolerance": error.needed_tolerance,
                "non_finite_reference": error.non_finite_reference,
                "non_finite_candidate": error.non_finite_candidate,
            }
        row |= {
            "own_relative_rms": None if self.own is None else self.own.relative_rms,
            "times_own": self.times_own,
            "made_relative_rms": None if self.made is None else self.made.relative_rms,
            "made_times_own": self.made_times_own,
        }
        return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in row.items()}


def alignable(reference: Sequence[int], candidate: Sequence[int]) -> bool:
    """Whether two shapes hold the same values in the same order: as many in all, and the same last axis."""
    return prod(reference) == prod(candidate) and tuple(reference[-1:]) == tuple(candidate[-1:])


def first_departing(layers: Iterable[Layer]) -> Layer | None:
    """The first layer whose error exceeds the limit, in order of execution."""
    return next((layer for layer in layers if layer.departs), None)


def first_guilty(layers: Iterable[Layer]) -> Layer | None:
    """The first layer that makes more error than the limit from the reference's own activations; None where nothing was swapped in."""
    return next((layer for layer in layers if layer.guilty), None)


def growth(layers: Sequence[Layer]) -> list[float | None]:
    """Each compared layer's relative error over that of the compared layer before it; None where there is none."""
    found: list[float | None] = []
    before: float | None = None
    for layer in layers:
        now = None if layer.error is None else layer.error.relative_rms
        found.append(now / before if now is not None and before else None)
        before = now if now is not None else before
    return found


def amount(times: float) -> str:
    """``1,300 times``, with two significant digits."""
    if not isfinite(times):
        return "beyond all measure"
    return f"{float(f'{times:.2g}'):,.0f} times" if times >= 10 else f"{times:.2g} times"


def _times(error: TensorError | None, yardstick: float | None) -> float | None:
    """None too where torch's own error is beyond measure (its exact result is 0): that tells nothing of any other."""
    if error is None or yardstick is None:
        return None
    return (None if error.error_square else 0.0) if yardstick == inf else error.relative_rms / yardstick


def _departs(error: TensorError | None, times: float | None) -> bool | None:
    if error is None:
        return None
    if error.one_sided or error.non_finite_reference != error.non_finite_candidate or (error.n == 0 and not error.finite):
        return True
    return None if times is None else times > LIMIT
