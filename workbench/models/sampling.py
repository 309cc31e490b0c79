"""A token drawn from logits, the same on every runtime: numpy chooses, so equal logits and seeds give equal tokens.

draw(logits, 0.0, None)                                     # the likeliest
draw(logits, 0.7, numpy.random.default_rng(42))             # one of them, by its probability at temperature 0.7
"""

from __future__ import annotations

from typing import Any


def draw(scores: Any, temperature: float, random: Any) -> int:
    """A token of ``scores`` (vocabulary,), logits or log-probabilities: the first of the largest at temperature 0, else the largest of
    scores over temperature plus Gumbel noise (E. J. Gumbel 1954), which is a draw from their softmax."""
    import numpy

    if temperature == 0:
        return int(numpy.argmax(scores))
    noise = random.gumbel(size=scores.shape[0])
    return int(numpy.argmax(scores.astype(numpy.float64) / temperature + noise))
