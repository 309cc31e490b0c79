"""How far one tensor is from another: signal to noise, cosine, largest error, and the tolerance that would have been needed.

    error = tensor_error(reference, candidate)
    error.snr_db, error.relative_rms, error.max_relative, error.needed_tolerance

Sums are additive, so the errors of several items or pieces of one tensor pool exactly: ``sum(errors, TensorError())``. The needed
tolerance alone is then the largest of theirs, each against the RMS of its own piece.
Elementwise relative errors are not used: they are infinite wherever the reference is near zero (NVIDIA/TensorRT issue 2895).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10, sqrt
from typing import Any


@dataclass(frozen=True)
class TensorError:
    """Sums over values that are finite on both sides; the others are counted. Largest errors are None where only sketches are known."""

    n: int = 0
    reference_square: float = 0.0
    candidate_square: float = 0.0
    product: float = 0.0
    error_square: float = 0.0
    max_abs: float | None = 0.0
    max_reference: float = 0.0
    needed_tolerance: float | None = 0.0
    """The smallest r with ``|candidate - reference| <= r * (|reference| + RMS(reference))`` everywhere."""
    non_finite_reference: int = 0
    non_finite_candidate: int = 0
    one_sided: int = 0
    """Values that are finite on one side only; from sketches, which know no places, the least number that can be."""

    def __add__(self, other: TensorError) -> TensorError:
        return TensorError(
            self.n + other.n,
            self.reference_square + other.reference_square,
            self.candidate_square + other.candidate_square,
            self.product + other.product,
            self.error_square + other.error_square,
            _larger(self.max_abs, other.max_abs),
            max(self.max_reference, other.max_reference),
            _larger(self.needed_tolerance, other.needed_tolerance),
            self.non_finite_reference + other.non_finite_reference,
            self.non_finite_candidate + other.non_finite_candidate,
            self.one_sided + other.one_sided,
        )

    @property
    def snr_db(self) -> float:
        """10 log10 of the reference's energy over the error's; inf where there is no error, -inf where only the reference is 0."""
        if self.error_square == 0:
            return inf
        ratio = self.reference_square / self.error_square
        return 10 * log10(ratio) if ratio else -inf

    @property
    def relative_rms(self) -> float:
        """RMS of the error over RMS of the reference."""
        if self.reference_square == 0:
            return inf if self.error_square else 0.0
        return sqrt(self.error_square / self.reference_square)

    @property
    def cosine(self) -> float | None:
        """Of the angle between both; None where one is zero."""
        size = sqrt(self.reference_square) * sqrt(self.candidate_square)
        return min(1.0, max(-1.0, self.product / size)) if size else None

    @property
    def scale(self) -> float | None:
        """The factor by which the reference comes nearest to the candidate (least squares)."""
        return self.product / self.reference_square if self.reference_square else None

    @property
    def beyond_scale(self) -> float:
        """Relative RMS of what remains when the candidate is divided by ``scale``: near 0 where a factor is the only difference."""
        cosine = self.cosine
        return inf if cosine is None else sqrt(max(0.0, 1 - cosine * cosine))

    @property
    def max_relative(self) -> float | None:
        """Largest error over the reference's largest value."""
        return None if self.max_abs is None else _ratio(self.max_abs, self.max_reference)

    @property
    def max_over_rms(self) -> float | None:
        """Largest error over the reference's RMS."""
        return None if self.max_abs is None else _ratio(self.max_abs, sqrt(self.reference_square / self.n) if self.n else 0.0)

    @property
    def finite(self) -> bool:
        return not (self.non_finite_reference or self.non_finite_candidate)


def tensor_error(reference: Any, candidate: Any) -> TensorError:
    """The error of ``candidate`` against ``reference``, numpy arrays with equally many values in the same order, in float64.

    Raises ValueError where they have not equally many.
    """
    import numpy

    before, after = (numpy.asarray(each, dtype=numpy.float64).ravel() for each in (reference, candidate))
    if before.size != after.size:
        raise ValueError(f"{before.size} and {after.size} values")
    known, here = numpy.isfinite(before), numpy.isfinite(after)
    missing = (int(before.size - known.sum()), int(after.size - here.sum()), int((known != here).sum()))
    if any(missing):
        before, after = before[known & here], after[known & here]
    if not before.size:
        return TensorError(non_finite_reference=missing[0], non_finite_candidate=missing[1], one_sided=missing[2])
    error = numpy.abs(after - before)
    size = numpy.abs(before)
    square = float(before @ before)
    scale = size + sqrt(square / before.size)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        needed = numpy.where(error == 0, 0.0, error / scale)
    return TensorError(
        before.size,
        square,
        float(after @ after),
        float(before @ after),
        float(error @ error),
        float(error.max()),
        float(size.max()),
        float(needed.max()),
        *missing,
    )


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _ratio(above: float, below: float) -> float:
    return above / below if below else (inf if above else 0.0)
