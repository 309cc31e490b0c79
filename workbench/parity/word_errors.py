"""Words and errors of both sides on the same utterances, and the paired difference of their corpus word error rates.

    found = word_difference(reference_counts, candidate_counts, speakers)
    found.paired.difference, found.resampled     # 0.0042, "speaker": points of WER / 100, candidate minus reference
    found.reference.errors, found.reference.words

A higher rate is worse. ``broke`` are utterances with more errors than the reference made, ``fixed`` those with fewer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench.metrics.stats import PairedDifference
from workbench.metrics.stats.clusters import standard_error
from workbench.metrics.stats.difference import UNSEEN
from workbench.metrics.stats.resampling import cluster_codes

Counts = Mapping[str, float]
KINDS = ("substitutions", "deletions", "insertions")
Resampled = Literal["speaker", "utterance"]


def counts_words(line: Mapping[str, Any]) -> bool:
    """Is an item scored by its words (speech), not as right or wrong?"""
    return "words" in line["score"]["counts"]


def errors_of(counts: Counts) -> int:
    """Substitutions, deletions and insertions."""
    return int(sum(counts.get(kind, 0) for kind in KINDS))


def both_counts(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> tuple[Counts, Counts]:
    """The counts of one item on both sides. A side without them (its item failed before failed items had counts) missed every word."""
    found = [line["score"]["counts"] for line in (reference, candidate)]
    words = next((each["words"] for each in found if "words" in each), 0)
    return tuple(each if "words" in each else {"words": words, "deletions": words} for each in found)  # type: ignore[return-value]


@dataclass(frozen=True)
class WordCounts:
    """Sums over utterances. ``sentence_errors`` counts utterances with any error."""

    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    sentence_errors: int

    @classmethod
    def of(cls, counts: Sequence[Counts]) -> WordCounts:
        sums = {name: int(sum(each.get(name, 0) for each in counts)) for name in ("words", *KINDS)}
        return cls(utterances=len(counts), sentence_errors=sum(errors_of(each) > 0 for each in counts), **sums)

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """The corpus word error rate, a fraction; None without a word."""
        return self.errors / self.words if self.words else None

    @property
    def text(self) -> str:
        return f"{self.errors:,} errors in {self.words:,} words"


@dataclass(frozen=True)
class Interval:
    """Of the paired difference, as fractions, by resampling ``resampled``. Probabilities are shares of the draws (Bisani and Ney 2004)."""

    resampled: Resampled
    low90: float
    high90: float
    low95: float
    high95: float
    probability_of_improvement: float | None
    method: str


@dataclass(frozen=True)
class WordDifference:
    """``paired`` holds the interval that decides: of speakers where there are two or more with several utterances, else of utterances."""

    paired: PairedDifference
    reference: WordCounts
    candidate: WordCounts
    intervals: tuple[Interval, ...]

    @property
    def decisive(self) -> Interval:
        return self.intervals[0]

    @property
    def resampled(self) -> Resampled:
        return self.decisive.resampled

    def as_columns(self) -> dict[str, Any]:
        """Words and errors of both sides, and what was resampled: for tables with a row a group."""
        before, after = self.reference, self.candidate
        return {
            "reference_words": before.words,
            "reference_errors": before.errors,
            "candidate_words": after.words,
            "candidate_errors": after.errors,
            "resampled": self.resampled,
        }

    def as_json(self) -> dict[str, Any]:
        """Counts and intervals, for machines."""
        sides = {
            name: {**asdict(counts), "errors": counts.errors}
            for name, counts in (("reference", self.reference), ("candidate", self.candidate))
        }
        return {**sides, "resampled": self.resampled, "intervals": {each.resampled: asdict(each) for each in self.intervals}}


def word_difference(
    reference: Sequence[Counts], candidate: Sequence[Counts], speakers: Sequence[Hashable]
) -> WordDifference | None:
    """Candidate minus reference over the same utterances, in one order; None where a side has no word, which has no rate.

    ``speakers`` are the utterances' clusters. Resampled by ``workbench.metrics.wer.paired``; ``p`` is that of no difference in the number
    of errors, the matched pairs test of word errors (L. Gillick and S. Cox, ICASSP 1989) over speakers or utterances.
    """
    from workbench.metrics.wer import paired

    sums = WordCounts.of(reference), WordCounts.of(candidate)
    if not sums[0].words or not sums[1].words:
        return None
    rows = [[(errors_of(each), each["words"]) for each in side] for side in (reference, candidate)]
    clusters = len(set(speakers))
    kinds: list[Resampled] = ["speaker", "utterance"] if 2 <= clusters < len(speakers) else ["utterance"]
    intervals = []
    for kind in kinds:
        found = paired(*rows, list(speakers) if kind == "speaker" else None)
        bounds = {name: found[name] for name in ("low90", "high90", "low95", "high95", "method")}
        chance = found["probability_of_improvement"] if found["broke"] + found["fixed"] else None  # equal on every draw
        intervals.append(Interval(kind, probability_of_improvement=chance, **bounds))
    first = intervals[0]
    change = [after[0] - before[0] for before, after in zip(*rows, strict=True)]
    broke, fixed = sum(each > 0 for each in change), sum(each < 0 for each in change)
    difference = PairedDifference(
        n=len(change),
        reference=sums[0].errors / sums[0].words,
        candidate=sums[1].errors / sums[1].words,
        difference=sums[1].errors / sums[1].words - sums[0].errors / sums[0].words,
        low90=first.low90,
        high90=first.high90,
        low95=first.low95,
        high95=first.high95,
        method=first.method if broke + fixed else UNSEEN,
        broke=broke,
        fixed=fixed,
        p=matched_pairs(change, speakers if first.resampled == "speaker" else None),
        quality_of_inference=1 - broke / len(change),
        clusters=clusters if first.resampled == "speaker" else len(change),
    )
    return WordDifference(difference, *sums, tuple(intervals))


def matched_pairs(change: Sequence[int], groups: Sequence[Hashable] | None) -> float | None:
    """The two-sided p-value of "the mean change in the number of errors is 0", cluster-robust with ``groups``; None when undefined."""
    import numpy
    from scipy.special import stdtr

    values = numpy.asarray(change, numpy.float64)
    error, clusters = standard_error(values, cluster_codes(groups, len(values)))
    return float(2 * stdtr(clusters - 1, -abs(float(values.mean())) / error)) if error > 0 else None
