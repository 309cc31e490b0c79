"""Token level: how far two models' next-token distributions are apart, given the same past.

    reference, candidate = log_softmax(reference_logits), log_softmax(candidate_logits)   # (positions, vocabulary)
    kl_divergence(reference, candidate)                     # (positions,) nats
    kl_lower_bound(*top_k(reference, 64), *top_k(candidate, 64))   # what two truncated records still prove

Positions of one item share its text, so intervals count items, not positions. Pure numpy; nothing here needs a runtime.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from workbench.metrics.stats import mean_interval

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 2.0**-149
"""The smallest float32 above 0: a recorded residual of 0 may be anything below it."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 over the last axis; -inf stays -inf. Shape as given."""
    import numpy as np

    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def top_k(logprobs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids (P, K), log-probabilities (P, K), residual (P,)): the ``k`` likeliest tokens, likeliest first, and the mass of the others.

    ``logprobs`` is (P, V); K is the smaller of ``k`` and V. The lower id comes first among equals inside the record.
    """
    import numpy as np

    logprobs = np.asarray(logprobs, np.float64)
    count = min(k, logprobs.shape[1])
    if count < 1:
        raise ValueError(f"needs at least one token of {logprobs.shape[1]}, not {k}")
    ids = np.argpartition(-logprobs, count - 1, axis=1)[:, :count]
    ids.sort(axis=1)
    order = np.argsort(-np.take_along_axis(logprobs, ids, 1), axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, 1)
    rest = np.exp(logprobs)  # summed, not 1 - sum: the difference of two numbers near 1 has no digits left
    np.put_along_axis(rest, ids, 0.0, 1)
    return ids, np.take_along_axis(logprobs, ids, 1), rest.sum(axis=1)


def kl_divergence(reference_logprobs: np.ndarray, candidate_logprobs: np.ndarray) -> np.ndarray:
    """KL(reference || candidate) in nats, (P,), from log-probabilities (P, V) of the whole vocabulary.

    Infinite where the candidate excludes a token that the reference allows. Rounding below 0 is cut.
    Raises ValueError where the shapes differ.
    """
    import numpy as np

    p, q = (np.asarray(logprobs, np.float64) for logprobs in (reference_logprobs, candidate_logprobs))
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"log-probabilities (positions, vocabulary) of one shape are needed, not {p.shape} and {q.shape}")
    possible = p > -np.inf
    gap = np.subtract(p, q, out=np.zeros_like(p), where=possible)
    return np.maximum((np.exp(p) * gap).sum(axis=1), 0.0)


def kl_lower_bound(
    reference_ids: np.ndarray,
    reference_logprobs: np.ndarray,
    reference_residual: np.ndarray,
    candidate_ids: np.ndarray,
    candidate_logprobs: np.ndarray,
    candidate_residual: np.ndarray,
) -> np.ndarray:
    """A lower bound of KL(reference || candidate) in nats, (P,), from the likeliest tokens of each: ids and log-probabilities (P, K),
    and the residual mass (P,) of all others, in the order ``top_k`` returns them.

    Both distributions are coarse-grained to the tokens recorded on both sides and one bucket for the rest. Merging outcomes never
    increases the divergence (the log sum inequality: Cover and Thomas, Elements of Information Theory, 2006, theorem 2.7.1),
    so the true value is at least this; with K = V it is the true value. The two K may differ.
    Raises ValueError where shapes do not fit or a token occurs twice at one position.
    """
    import numpy as np

    sides = [
        (np.asarray(ids, np.int64), np.asarray(logprobs, np.float64), np.asarray(residual, np.float64))
        for ids, logprobs, residual in (
            (reference_ids, reference_logprobs, reference_residual),
            (candidate_ids, candidate_logprobs, candidate_residual),
        )
    ]
    positions = len(sides[0][0])
    for ids, logprobs, residual in sides:
        if ids.ndim != 2 or ids.shape != logprobs.shape or residual.shape != (positions,) or len(ids) != positions:
            raise ValueError(f"records do not fit: ids {ids.shape}, log-probabilities {logprobs.shape}, residual {residual.shape}")
    (ids_p, p, rest_p), (ids_q, q, rest_q) = sides
    if not positions or not ids_p.shape[1] or not ids_q.shape[1]:
        return np.zeros(positions)
    lowest = int(min(ids_p.min(), ids_q.min()))
    width = int(max(ids_p.max(), ids_q.max())) - lowest + 1
    if width * positions > np.iinfo(np.int64).max:
        raise ValueError(f"token ids up to {lowest + width - 1} are no ids of a vocabulary")
    # One integer a (position, token), so that a single sorted intersection does every position at once.
    rows = np.arange(positions)[:, None] * width
    try:
        _, at_p, at_q = np.intersect1d(
            _unique(rows + (ids_p - lowest)), _unique(rows + (ids_q - lowest)), assume_unique=True, return_indices=True
        )
    except ValueError as error:
        raise ValueError("a token occurs twice at one position") from error
    position = at_p // ids_p.shape[1]
    common_p, common_q = p.ravel()[at_p], q.ravel()[at_q]
    possible = common_p > -np.inf
    gap = np.subtract(common_p, common_q, out=np.zeros_like(common_p), where=possible)
    bound = np.bincount(position, np.exp(common_p) * gap, positions).astype(np.float64)
    rest_p = np.maximum(rest_p, 0.0) + _unmatched(p, at_p)
    rest_q = np.maximum(np.maximum(rest_q, 0.0) + _unmatched(q, at_q), SMALLEST)
    inside = rest_p > 0
    bound[inside] += rest_p[inside] * np.log(rest_p[inside] / rest_q[inside])
    return np.maximum(bound, 0.0)


def _unique(keys: np.ndarray) -> np.ndarray:
    import numpy as np

    flat = keys.ravel()
    if len(np.unique(flat)) != len(flat):
        raise ValueError("repeated")
    return flat


def _unmatched(logprobs: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """Mass (P,) of the recorded tokens that the other side did not record."""
    import numpy as np

    mass = np.exp(logprobs).ravel()
    mass[matched] = 0.0
    return mass.reshape(logprobs.shape).sum(axis=1)


def cluster_mean_interval(values: Sequence[float], groups: Sequence[Hashable], confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the mean over positions, whose clusters are items: ``groups`` names the item of each position."""
    low, high, _ = mean_interval(values, groups, confidence)
    return low, high


def perplexity_ratio(
    reference_followed_logprobs: Sequence[float],
    candidate_followed_logprobs: Sequence[float],
    items: Sequence[Hashable],
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """(mean, low, high) of ``ln(PPL candidate / PPL reference)`` on the tokens both followed; above 0 the candidate is worse.

    Log-probabilities (P,) of the same followed tokens; ``items`` names the item of each position. The measure of llama.cpp's
    ``perplexity --kl-divergence`` (ggml-org/llama.cpp, tools/perplexity), with items instead of tokens as what was sampled.
    """
    import numpy as np

    reference, candidate = (np.asarray(x, np.float64) for x in (reference_followed_logprobs, candidate_followed_logprobs))
    if reference.shape != candidate.shape:
        raise ValueError(f"{reference.shape} and {candidate.shape} followed tokens: both must follow the same ones")
    gap = reference - candidate
    return (float(gap.mean()), *cluster_mean_interval(gap, items, confidence))
