"""Rung 5 of speech to text: the same words, and errors in the same utterances? And the verdict on the corpus word error rate.

The difference is of sum(errors) / sum(words), candidate minus reference, so a positive one is worse. Speakers are resampled where there
are two or more, else utterances; both intervals are shown. The verdict reads them by the rule of ``workbench.parity.answers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.metrics.stats import DIFFERENT, EQUIVALENT, INCONCLUSIVE, Margin, decide, ratio_interval
from workbench.parity.answers import STATUS, groups_of, settles, signed, span
from workbench.parity.comparison import Pair, Rung, Stratum, Table, Verdict
from workbench.parity.word_errors import WordDifference, both_counts, errors_of, word_difference

COLUMNS = ("axis", "group", "utterances", "words", "reference WER %", "candidate WER %", "difference", "low 90 %", "high 90 %", "resampled", "broke", "fixed", "P(improved)")  # fmt: skip


def has_words(pairs: Sequence[Pair]) -> bool:
    """Is there any word in the references, on both sides?"""
    counts = [both_counts(pair.reference, pair.candidate) for pair in pairs]
    return all(any(each[place].get("words") for each in counts) for place in (0, 1))


def word_strata(pairs: Sequence[Pair]) -> tuple[Stratum, ...]:
    """As ``answers.strata_of``; a group without a word in its references has no rate and is left out."""
    found = []
    for (axis, name, task), members in groups_of(pairs).items():
        words = words_of(members)
        if words is not None:
            found.append(Stratum(axis, name, task, words.paired, None, None, words))
    return tuple(found)


def words_of(pairs: Sequence[Pair]) -> WordDifference | None:
    counts = [both_counts(pair.reference, pair.candidate) for pair in pairs]
    speakers = [f"{pair.task}\n{pair.reference.get('group') or pair.id}" for pair in pairs]
    return word_difference([before for before, _ in counts], [after for _, after in counts], speakers)


def judge_words(pairs: Sequence[Pair], overall: Stratum, margin: Margin, labels: tuple[str, str], profile: str) -> Verdict:
    """The verdict over all pairs, and its sentence. ``margin`` is in points of the word error rate, or relative to the reference's."""
    words, paired = overall.words, overall.paired
    assert words is not None
    share = margin.value / 100
    if margin.kind == "absolute":
        name = decide(paired.interval90, paired.interval95, *margin.bounds)
        interval = f"{signed(100 * paired.difference)} points, 90 % interval {span(paired.low90, paired.high90)}"
    else:
        errors = [[float(errors_of(each)) for each in side] for side in zip(*map(counts_of, pairs), strict=True)]
        groups = [f"{pair.task}\n{pair.reference.get('group') or pair.id}" for pair in pairs]
        bounds = [ratio_interval(*errors, groups if words.resampled == "speaker" else None, each) for each in (0.90, 0.95)]
        if None in bounds:
            sentence = (
                f"INCONCLUSIVE: {labels[0]} makes no error in {words.reference.words:,} words, and nothing is within {margin.text}."
            )
            return Verdict(INCONCLUSIVE, sentence, margin, paired.n)
        scale = words.reference.words / words.candidate.words
        low, high = bounds[0][0] * scale, bounds[0][1] * scale
        name = decide((low, high), tuple(scale * bound for bound in bounds[1]), *margin.bounds, null=margin.null)
        ratio = paired.candidate / paired.reference
        interval = f"{signed(100 * (ratio - 1))} % of the reference's rate, 90 % interval {span(low - 1, high - 1)}"
        share = paired.reference * (1 - margin.bounds[0])
    needed = paired.items_needed(share) if name == INCONCLUSIVE and (paired.clusters > 1 or paired.n == 1) else None
    if needed is not None:
        needed = max(needed, paired.n + 1)
    return Verdict(name, sentence_of(name, labels, words, margin, interval, needed, share, profile), margin, paired.n, needed)


def counts_of(pair: Pair) -> tuple[Any, Any]:
    return both_counts(pair.reference, pair.candidate)


def sentence_of(
    name: str,
    labels: tuple[str, str],
    words: WordDifference,
    margin: Margin,
    interval: str,
    needed: int | None,
    share: float,
    profile: str,
) -> str:
    """One plain sentence with n, margin, profile, words and errors."""
    reference, candidate = labels
    paired = words.paired
    n = counted(paired.n)
    numbers = (
        f"WER {100 * paired.candidate:.2f} % against {100 * paired.reference:.2f} %, {profile}, {words.candidate.errors:,} and "
        f"{words.reference.errors:,} errors in {words_text(words)}; {interval}, {words.resampled}s resampled{improvement(words)}; "
        f"{flips_text(words)}"
    )
    if name == EQUIVALENT:
        return f"EQUIVALENT: {candidate} has a word error rate within {margin.text} of {reference} on {n} ({numbers})."
    if name == DIFFERENT:
        direction = "lower" if paired.difference < 0 else "higher"
        return f"DIFFERENT: {candidate} has a {direction} WER than {reference} on {n}, margin {margin.text} ({numbers})."
    more = settles(paired, needed, share, "utterances", "speaker")
    few = "is" if paired.n == 1 else "are"
    return f"INCONCLUSIVE: {n} {few} too few to say whether {candidate} is within {margin.text} of {reference} ({numbers}); {more}."


def words_text(words: WordDifference) -> str:
    before, after = words.reference.words, words.candidate.words
    return f"{before:,} words" if before == after else f"{after:,} and {before:,} words"


def improvement(words: WordDifference) -> str:
    """How often, over the draws, the candidate had the lower rate (Bisani and Ney 2004)."""
    found = words.decisive.probability_of_improvement
    return "" if found is None else f", probability of improvement {100 * found:.0f} %"


def failed_on_both(pair: Pair) -> bool:
    return pair.reference["output"]["finish"] == pair.candidate["output"]["finish"] == "error"


def flips_text(words: WordDifference) -> str:
    broke, fixed = words.paired.broke, words.paired.fixed
    return f"{broke:,} {'utterance' if broke == 1 else 'utterances'} broke, {fixed:,} fixed"


def counted(n: int) -> str:
    return "1 utterance" if n == 1 else f"{n:,} utterances"


def transcripts_rung(pairs: Sequence[Pair], strata: Sequence[Stratum], verdict: Verdict, profile: str) -> Rung:
    """Rates, errors and flips as a finding; each stratum, the kinds of errors, and both intervals as tables."""
    words, paired = strata[0].words, strata[0].paired
    assert words is not None
    same = sum(pair.same_text is True for pair in pairs)
    hidden = sum(pair.same_text is None for pair in pairs)
    facts: dict[str, Any] = {
        "n": paired.n,
        "margin": verdict.margin.text if verdict.margin else None,
        "profile": profile,
        "words": words.reference.words,
        "reference_errors": words.reference.errors,
        "candidate_errors": words.candidate.errors,
        "reference_wer_per_cent": 100 * paired.reference,
        "candidate_wer_per_cent": 100 * paired.candidate,
        "difference_points": 100 * paired.difference,
        "interval90_points": [100 * paired.low90, 100 * paired.high90],
        "interval95_points": [100 * paired.low95, 100 * paired.high95],
        "interval_method": paired.method,
        "resampled": words.resampled,
        "probability_of_improvement": words.decisive.probability_of_improvement,
        "broke": paired.broke,
        "fixed": paired.fixed,
        "flip_rate": paired.flip_rate,
        "p_value": paired.p,
        "quality_of_inference": paired.quality_of_inference,
        "same_text": same,
        "redacted": hidden,
        "clusters": paired.clusters,
        "needed_items": verdict.needed,
    }
    status: Any = "same" if same == len(pairs) and not paired.flips else STATUS[verdict.name]
    told = (
        "every transcript is the same text" if same == len(pairs) else f"{same:,} of {len(pairs):,} transcripts are the same text"
    )
    if failed := sum(failed_on_both(pair) for pair in pairs):
        told += f", and {counted(failed)} failed on both sides"
    if hidden:
        told = "the transcripts are redacted" if hidden == len(pairs) else f"{told}, {hidden:,} are redacted"
    finding = (
        f"{signed(100 * paired.difference)} points of WER on {counted(paired.n)} ({span(paired.low90, paired.high90)} at 90 %, "
        f"{words.resampled}s resampled), {words.candidate.errors:,} against {words.reference.errors:,} errors in {words_text(words)} "
        f"({profile}), {flips_text(words)}; {told}."
    )
    tables = (strata_table(strata), errors_table(words), intervals_table(words))
    return Rung(5, status, finding, facts, tables, of_speech=True)


def strata_table(strata: Sequence[Stratum]) -> Table:
    rows = []
    for each in strata:
        if each.words is None:
            continue
        paired, chance = each.paired, each.words.decisive.probability_of_improvement
        rates = (paired.reference, paired.candidate, paired.difference, paired.low90, paired.high90)
        rows.append([each.axis, each.name, paired.n, each.words.reference.words, *(round(100 * rate, 2) for rate in rates), each.words.resampled, paired.broke, paired.fixed, None if chance is None else round(chance, 3)])  # fmt: skip
    return Table("Paired differences of the word error rate by group (points)", COLUMNS, rows)


def errors_table(words: WordDifference) -> Table:
    """Kinds of errors: substitutions, deletions and insertions, and utterances with any."""
    kinds = ("words", "errors", "substitutions", "deletions", "insertions", "sentence_errors")
    rows = []
    for kind in kinds:
        before, after = getattr(words.reference, kind), getattr(words.candidate, kind)
        rows.append([kind.replace("sentence_errors", "utterances with errors"), before, after, after - before])
    return Table("Words and errors", ("what", "reference", "candidate", "difference"), rows)


def intervals_table(words: WordDifference) -> Table:
    rows = [
        [
            f"{each.resampled}s",
            *(round(100 * bound, 2) for bound in (each.low90, each.high90, each.low95, each.high95)),
            each.probability_of_improvement,
            each.method,
        ]
        for each in words.intervals
    ]
    columns = ("resampled", "low 90 %", "high 90 %", "low 95 %", "high 95 %", "P(improved)", "method")
    return Table("Intervals of the difference (points); the first decides", columns, rows)
