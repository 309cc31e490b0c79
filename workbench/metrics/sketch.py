"""Statistics of a tensor in one pass, and a sketch that lets two machines measure how far theirs are apart without exchanging tensors.

    here = Moments(); here.add(array)           # piece by piece, any number of times
    estimated_error(here.record(), there.record()).snr_db

The sketch is a count sketch (Charikar, Chen, Farach-Colton 2002): every value is added, with a random sign that depends on its place
alone, to one of ``WIDTH`` sums. The sketch of a difference is the difference of the sketches, and its energy is an unbiased estimate of the
difference's, with a relative standard deviation of sqrt(2 / WIDTH), 4.4 %. Every value takes part, so an error in one
of a million values is not missed, as a sample of them would miss it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Any

from workbench.metrics.tensors import TensorError

WIDTH = 1024
PERIOD = 2**22
"""Signs repeat after so many values."""
SEED = 0x5EED
PIECE = 2**20
"""Values worked on at a time: what bounds the memory."""


class Moments:
    """Count, sums, extremes and sketch of the finite values of a tensor that comes in pieces; the others are counted."""

    def __init__(self):
        import numpy

        self.n = self.non_finite = 0
        self.total = self.square = 0.0
        self.low, self.high = inf, -inf
        self.sketch = numpy.zeros(WIDTH)

    def add(self, array: Any) -> None:
        import numpy

        flat = array.reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE].astype(numpy.float64)
            finite = numpy.isfinite(piece)
            if not finite.all():
                self.non_finite += int(piece.size - finite.sum())
                kept = piece[finite]
                piece = numpy.where(finite, piece, 0.0)
            else:
                kept = piece
            if kept.size:
                self.low, self.high = min(self.low, float(kept.min())), max(self.high, float(kept.max()))
            self.total += float(piece.sum())
            self.square += float(piece @ piece)
            add_to_sketch(self.sketch, piece, self.n)
            self.n += piece.size

    def record(self) -> dict[str, Any]:
        """``{"n", "non_finite", "min", "max", "mean", "rms", "square", "sketch"}``; min and max are None without a finite value."""
        counted = self.n - self.non_finite
        return {
            "n": self.n,
            "non_finite": self.non_finite,
            "min": self.low if counted else None,
            "max": self.high if counted else None,
            "mean": self.total / counted if counted else None,
            "rms": (self.square / counted) ** 0.5 if counted else None,
            "square": self.square,
            "sketch": self.sketch,
        }


@lru_cache(maxsize=1)
def signs():
    """+1 or -1 for each place, int8 of shape (PERIOD,): the bits of Philox, whose stream is part of its definition."""
    import numpy

    words = numpy.random.Philox(key=SEED).random_raw(PERIOD // 64)
    bits = numpy.unpackbits(words.astype("<u8").view(numpy.uint8), bitorder="little")
    return (bits.astype(numpy.int8) << 1) - 1


def add_to_sketch(sketch: Any, values: Any, offset: int) -> None:
    """Add ``values`` (float64), which begin at place ``offset`` of their tensor, to ``sketch`` in place."""
    import numpy

    known = signs()
    begin = offset % PERIOD
    if begin + values.size <= PERIOD:
        signed = values * known[begin : begin + values.size]
    else:
        signed = values * numpy.take(known, numpy.arange(begin, begin + values.size), mode="wrap")
    head = offset % WIDTH
    padded = numpy.zeros(-(-(head + values.size) // WIDTH) * WIDTH)
    padded[head : head + values.size] = signed
    sketch += padded.reshape(-1, WIDTH).sum(axis=0)


def estimated_error(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> TensorError:
    """The error from two records of equally many values: norms exactly, the error's energy from the sketches, no largest error.

    Where one side has values that are not finite, both records lack other values, and the estimate is of what is left: read the counts.
    Raises ValueError where the records have not equally many values.
    """
    if reference["n"] != candidate["n"]:
        raise ValueError(f"{reference['n']} and {candidate['n']} values")
    gap = candidate["sketch"] - reference["sketch"]
    square = float(gap @ gap)
    before, after = float(reference["square"]), float(candidate["square"])
    largest = max((abs(each) for each in (reference["min"], reference["max"]) if each is not None), default=0.0)
    return TensorError(
        reference["n"] - max(reference["non_finite"], candidate["non_finite"]),
        before,
        after,
        (before + after - square) / 2,
        square,
        None,
        largest,
        None,
        reference["non_finite"],
        candidate["non_finite"],
        abs(reference["non_finite"] - candidate["non_finite"]),
    )
