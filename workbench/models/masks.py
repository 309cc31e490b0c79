"""Additive attention masks for decoders that are given theirs as an input, on every runtime.

    causal(3)[0, 0]          # [[0, M, M], [0, 0, M], [0, 0, 0]] with M = MASKED: a row sees its own place and those before it
    up_to(1, 4)[0, 0, 0]     # [0, 0, M, M]: the places of a cache that are written when position 1 is

Minus infinity would do in float32, but half a softmax over nothing but infinities is not a number, and some runtimes store a mask in
float16, whose largest number is 65,504. ``MASKED`` is finite there, and far below every score, so its exponential is exactly 0.
"""

from __future__ import annotations

from typing import Any

MASKED = -30000.0
"""What is added to a score that must not count: the exponential of (score + MASKED - largest score) is 0 in float16 and float32."""


def causal(length: int) -> Any:
    """float32 of shape (1, 1, length, length): 0 on and below the diagonal, ``MASKED`` above it."""
    import numpy

    return numpy.triu(numpy.full((1, 1, length, length), MASKED, dtype=numpy.float32), k=1)


def up_to(position: int, size: int) -> Any:
    """float32 of shape (1, 1, 1, size): 0 at the places 0 to ``position``, ``MASKED`` after it. Raises ValueError for a position that
    the ``size`` places do not have."""
    import numpy

    if not 0 <= position < size:
        raise ValueError(f"position {position} is none of {size} places")
    mask = numpy.full((1, 1, 1, size), MASKED, dtype=numpy.float32)
    mask[..., : position + 1] = 0
    return mask
