"""Word error rate and its relatives, as reductions over counts; their intervals; and the paired difference of two systems.

    counts = count("the white paper", "a white paper")        # {"words": 3, "hits": 2, "substitutions": 1, ...}
    rates([counts])["wer"]                                     # 0.333...: sum of errors / sum of words
    paired(reference_counts, candidate_counts, speakers)       # {"difference": -0.012, "low90": ..., "probability_of_improvement": 0.97}

The texts are normalised already (``workbench.metrics.normalise``); without the name of the normaliser a rate means nothing.
Rates are fractions over the whole corpus, never means of utterances' rates. With no word at all in the references, the error
rate of words or characters is the number of inserted ones, as jiwer 4 has it: a rate needs something to be a share of.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.metrics.alignment import align, character_errors, count_words
from workbench.metrics.stats.clusters import FEW_CLUSTERS
from workbench.metrics.stats.corpus import DRAWS, corpus_interval
from workbench.types import Metric, Score

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CER", "MER", "SER", "WER", "WIL", "align", "count", "errors", "interval", "intervals", "paired", "rates", "total"]

NAMES = (
    "words",
    "hits",
    "substitutions",
    "deletions",
    "insertions",
    "characters",
    "character_errors",
    "utterances",
    "sentence_errors",
)
CONFIDENCE = 0.95


def count(reference: str, hypothesis: str, merge_compounds: bool = False) -> dict[str, int]:
    """The additive counts of one utterance, of normalised texts: words are what ``str.split`` gives, characters those of the words
    joined by single spaces. An utterance is a sentence error when any word is."""
    left, right = reference.split(), hypothesis.split()
    words = count_words(left, right, merge_compounds)
    wrong = words.substitutions + words.deletions + words.insertions
    joined = " ".join(left)
    characters = character_errors(joined, " ".join(right))
    return dict(zip(NAMES, (*words, len(joined), characters, 1, int(wrong > 0)), strict=True))


def errors(counts: Mapping[str, int]) -> int:
    """Substitutions, deletions and insertions."""
    return counts["substitutions"] + counts["deletions"] + counts["insertions"]


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of all counts, name by name."""
    found = dict.fromkeys(NAMES, 0)
    for each in counts:
        for name in NAMES:
            found[name] += each.get(name, 0)
    return found


def rates(counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """``wer``, ``cer``, ``mer``, ``wil`` and ``sentence_error_rate`` of a corpus, fractions.

    MER: errors / (hits + errors). WIL: 1 - hits/reference words x hits/hypothesis words (A. Morris, V. Maier and P. Green, ICSLP 2004),
    where a merged compound counts as its reference words on both sides. 0 where both sides are empty.
    """
    sums = total(counts)
    wrong, hits = errors(sums), sums["hits"]
    heard = hits + sums["substitutions"] + sums["insertions"]
    preserved = hits * hits / (sums["words"] * heard) if sums["words"] and heard else float(not sums["words"] and not heard)
    return {
        "wer": ratio(wrong, sums["words"]),
        "cer": ratio(sums["character_errors"], sums["characters"]),
        "mer": wrong / (hits + wrong) if hits + wrong else 0.0,
        "wil": 1 - preserved,
        "sentence_error_rate": sums["sentence_errors"] / sums["utterances"] if sums["utterances"] else 0.0,
    }


def ratio(wrong: int, of: int) -> float:
    return wrong / of if of else float(wrong)


def interval(
    counts: Sequence[Mapping[str, int]], groups: Sequence[Hashable] | None = None, resampled: str = "utterance"
) -> dict[str, Any] | None:
    """The 95 % interval of the corpus word error rate when utterances (or groups of them: speakers) are resampled; None for
    fewer than two. Source: M. Bisani and H. Ney, ICASSP 2004; ``stats.corpus_interval`` has the rules for few or no errors."""
    import numpy as np

    rows = np.array([(errors(each), each["words"]) for each in counts], np.float64).reshape(-1, 2)
    found = corpus_interval(rows, groups, CONFIDENCE)
    if found is None:
        return None
    low, high, clusters, widened = found
    method = f"percentile bootstrap, {DRAWS:,} draws of {resampled}s, expanded for {clusters:,} of them"
    if clusters < min(FEW_CLUSTERS, len(rows)):
        method += ", at least the t interval"
    if widened:
        method += ", widened by what utterances that are alike may hide"
    return {
        "low": low,
        "high": high,
        "unit": "fraction",
        "confidence": CONFIDENCE,
        "method": method,
        "resampled": resampled,
    }


def intervals(counts: Sequence[Mapping[str, int]], speakers: Sequence[Hashable | None]) -> dict[str, dict[str, Any] | None]:
    """``{"utterance": ..., "speaker": ...}``; the second only where a speaker is named and there are two or more. An utterance
    without a name counts as a speaker of its own, as when two runs are compared."""
    found = {"utterance": interval(counts)}
    clusters = [("unnamed", place) if name is None else ("named", name) for place, name in enumerate(speakers)]
    if len(set(clusters)) > 1 and any(name is not None for name in speakers):
        found["speaker"] = interval(counts, clusters, "speaker")
    return found


def as_rows(counts: Sequence[Mapping[str, int]] | np.ndarray) -> np.ndarray:
    """(n, 2) errors and words, of counts or of such an array."""
    import numpy as np

    if len(counts) and isinstance(counts[0], Mapping):
        counts = [(errors(each), each["words"]) for each in counts]
    return np.asarray(counts, np.float64).reshape(len(counts), 2)


def paired(
    reference_counts: Sequence[Mapping[str, int]] | np.ndarray,
    candidate_counts: Sequence[Mapping[str, int]] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Two systems on the same utterances, in the same order: the difference of their corpus word error rates.

    Counts are mappings as ``count`` gives, or arrays (n, 2) of errors and words. Every draw takes the same utterances (or groups:
    speakers) for both. Returns fractions, candidate minus reference: ``reference``, ``candidate`` (their rates), ``difference``,
    ``low90``, ``high90``, ``low95``, ``high95`` (percentiles; at least what utterances that all changed alike may hide, see
    ``stats.clusters.unseen_changes``: no change on five utterances is not certainty; of few groups at least what they can say,
    ``stats.clusters.few_clusters``; infinite with one group), and
    ``probability_of_improvement`` and ``probability_of_worsening``: shares of the draws on which the candidate has the lower, the
    higher rate. Also ``n``, ``clusters``, ``words``, ``reference_errors``, ``candidate_errors``, ``broke`` and ``fixed`` (utterances with
    more, with fewer errors) and ``method``. Raises ValueError for other lengths, or a side without words.
    Source: M. Bisani and H. Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004.
    """
    import numpy as np

    from workbench.metrics.stats.clusters import few_clusters, unseen_changes
    from workbench.metrics.stats.resampling import cluster_codes, cluster_sums, effective_clusters, lower_tail, resampled_sums

    a, b = as_rows(reference_counts), as_rows(candidate_counts)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} utterances of the reference and {len(b)} of the candidate: pair them first")
    (wrong_a, words_a), (wrong_b, words_b) = a.sum(axis=0), b.sum(axis=0)
    if not words_a or not words_b:
        raise ValueError("the references hold no word, so there is no rate to compare")
    codes = cluster_codes(groups, len(a))
    rows = cluster_sums(np.concatenate([a, b], axis=1), codes)
    change = b[:, 0] - a[:, 0]
    difference = float(wrong_b / words_b - wrong_a / words_a)
    found: dict[str, Any] = {
        "n": len(a),
        "clusters": len(rows),
        "words": int(words_a),
        "reference_errors": int(wrong_a),
        "candidate_errors": int(wrong_b),
        "reference": float(wrong_a / words_a),
        "candidate": float(wrong_b / words_b),
        "difference": difference,
        "broke": int(np.count_nonzero(change > 0)),
        "fixed": int(np.count_nonzero(change < 0)),
    }
    method = f"paired percentile bootstrap, {DRAWS:,} draws of {'utterances' if codes is None else 'speakers or groups'}"
    if len(rows) < 2:
        bounds = {name: sign * float("inf") for name, sign in (("low90", -1), ("high90", 1), ("low95", -1), ("high95", 1))}
        return {**found, **bounds, "probability_of_improvement": None, "probability_of_worsening": None, "method": method}
    sums = resampled_sums(rows, DRAWS, seed)
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    draws = sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
    influence = (b[:, 0] - found["candidate"] * b[:, 1]) / b[:, 1].mean() - (a[:, 0] - found["reference"] * a[:, 1]) / a[
        :, 1
    ].mean()
    if codes is not None and len(rows) < FEW_CLUSTERS:
        method += ", at least the t interval"
    for name, confidence in (("90", 0.90), ("95", 0.95)):
        tail = lower_tail(confidence, effective_clusters(codes, len(a)))
        low, high = (float(bound) for bound in np.quantile(draws, [tail, 1 - tail]))
        low, high = few_clusters((low, high), difference, influence, codes, confidence)
        unseen = unseen_changes(change * len(a) / words_a, confidence)
        if unseen[0] < min(low, difference) or unseen[1] > max(high, difference):
            low, high = min(low, unseen[0]), max(high, unseen[1])
            method = method.partition(" and ")[0] + " and interval of unseen changes, the wider"
        found |= {f"low{name}": low, f"high{name}": high}
    improved, worsened = float(np.mean(draws < 0)), float(np.mean(draws > 0))
    return {**found, "probability_of_improvement": improved, "probability_of_worsening": worsened, "method": method}


def counts_of(scores: Iterable[Score]) -> list[Mapping[str, int]]:
    return [score.counts for score in scores]


def percent(name: str):
    def reduce(scores: Sequence[Score]) -> float:
        return 100 * rates(counts_of(scores))[name]

    return reduce


def around(scores: Sequence[Score]) -> dict[str, Any]:
    """What a word error rate is never shown without, beside its profile: words, errors, and the interval over utterances."""
    counts = [each for each in counts_of(scores) if each.get("utterances")]
    sums = total(counts)
    return {"words": sums["words"], "errors": errors(sums), "interval": interval(counts)}


WER = Metric("wer", percent("wer"), higher_is_better=False, bounds=(0.0, None), around=around)
CER = Metric("cer", percent("cer"), higher_is_better=False, bounds=(0.0, None))
MER = Metric("mer", percent("mer"), higher_is_better=False)
WIL = Metric("wil", percent("wil"), higher_is_better=False)
SER = Metric("sentence_error_rate", percent("sentence_error_rate"), higher_is_better=False)
