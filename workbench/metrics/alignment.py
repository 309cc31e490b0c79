"""Which words were heard, mistaken, left out and made up: the alignment behind every word error rate.

    align("the white paper".split(), "a white paper".split())
    # [("substitution", "the", "a"), ("hit", "white", "white"), ("hit", "paper", "paper")]
    count_words("the white paper".split(), "a whitepaper".split(), merge_compounds=True)   # (3, 2, 1, 0, 0)

Unit costs. Where several alignments cost the same, the split into substitutions, deletions and insertions is that of
kaldialign's default, which is also NIST's; only the total is the same in every tool. ``merge_compounds`` lets adjacent
words of one side join, without cost, to equal one word of the other (k2-fsa/kaldialign 0.12, ``edit_distance``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workbench.errors import DataError

HIT, SUBSTITUTION, DELETION, INSERTION, COMPOUND = "hit", "substitution", "deletion", "insertion", "compound"
MOST_CELLS = 200_000_000
NOTHING = " "
"""Stands for "no word" while aligning: no word that ``str.split`` gives can equal it."""


class WordCounts(NamedTuple):
    """``words`` of the reference; ``hits + substitutions + deletions == words``. A word inside a merged compound is a hit."""

    words: int
    hits: int
    substitutions: int
    deletions: int
    insertions: int


def count_words(reference: Sequence[str], hypothesis: Sequence[str], merge_compounds: bool = False) -> WordCounts:
    """Counts of one pair of word lists. Equal lists, and lists of which one is empty, need no search."""
    reference, hypothesis = list(reference), list(hypothesis)
    words = len(reference)
    if reference == hypothesis:
        return WordCounts(words, words, 0, 0, 0)
    if not words or not hypothesis:
        return WordCounts(words, 0, 0, words, len(hypothesis))
    from kaldialign import edit_distance

    if merge_compounds:
        refuse_huge(words, len(hypothesis))
        reference, hypothesis = encodable(reference, hypothesis)
    found = edit_distance(reference, hypothesis, merge_compounds=merge_compounds)
    substitutions, deletions = found["sub"], found["del"]
    return WordCounts(words, words - substitutions - deletions, substitutions, deletions, found["ins"])


def refuse_huge(reference: int, hypothesis: int) -> None:
    """Merging compounds fills a whole table of words by words, some 19 bytes a cell: a day of speech in one item would end the process."""
    if reference * hypothesis > MOST_CELLS:
        raise DataError(
            f"an utterance of {reference:,} and {hypothesis:,} words is too long to merge compounds in",
            why=f"the table would have {reference * hypothesis:,} cells, the limit is {MOST_CELLS:,}",
            fix="cut it into segments, or --profile whisper",
        )


def align(reference: Sequence[str], hypothesis: Sequence[str], merge_compounds: bool = False) -> list[tuple[str, str, str]]:
    """(kind, reference word, hypothesis word) in order, of two lists of words; "" where a side has no word.

    Kinds: ``hit``, ``substitution``, ``deletion``, ``insertion``; with ``merge_compounds`` also ``compound``: words that join to one
    of the other side, written with spaces (``("compound", "white paper", "whitepaper")``). Each word of a compound's reference
    side is a hit in the counts. Their numbers are those of ``count_words``. Raises ValueError for a word with a space in it.
    """
    if any(NOTHING in word or not word for words in (reference, hypothesis) for word in words):
        raise ValueError("words must not be empty or hold a space: give text.split()")
    from kaldialign import align as best

    if not merge_compounds:
        return [(kind(*pair), *shown(*pair)) for pair in best(reference, hypothesis, NOTHING)]
    pairs = best(*encodable(reference, hypothesis), NOTHING, merge_compounds=True)
    left, right = iter(reference), iter(hypothesis)
    found = []
    for pair in pairs:
        # What was encoded is told by its place, so that every word is shown as it was given.
        original = tuple(
            NOTHING if side == NOTHING else " ".join(next(words) for _ in side.split(NOTHING))
            for side, words in zip(pair, (left, right), strict=True)
        )
        found.append((kind(*pair), *shown(*original)))
    return found


def kind(reference: str, hypothesis: str) -> str:
    if reference == NOTHING:
        return INSERTION
    if hypothesis == NOTHING:
        return DELETION
    if reference == hypothesis:
        return HIT
    return COMPOUND if NOTHING in reference or NOTHING in hypothesis else SUBSTITUTION


def shown(reference: str, hypothesis: str) -> tuple[str, str]:
    return ("" if reference == NOTHING else reference), ("" if hypothesis == NOTHING else hypothesis)


def encodable(*sides: Sequence[str]) -> Sequence[Sequence[str]]:
    """The words, or where one holds half of a surrogate pair (JSON allows it, UTF-8 does not) others that join and compare alike."""
    try:
        "".join(word for words in sides for word in words).encode()
    except UnicodeEncodeError:
        return [[word.encode("utf-8", "surrogatepass").hex() for word in words] for words in sides]
    return sides


def character_errors(reference: str, hypothesis: str) -> int:
    """The edit distance in characters, spaces included."""
    if reference == hypothesis:
        return 0
    first, last, shorter = 0, 0, min(len(reference), len(hypothesis))
    # The distance does not change when a common start and end are cut off, and most of a transcript is common.
    while first < shorter and reference[first] == hypothesis[first]:
        first += 1
    while last < shorter - first and reference[-1 - last] == hypothesis[-1 - last]:
        last += 1
    left, right = reference[first : len(reference) - last], hypothesis[first : len(hypothesis) - last]
    if not left or not right:
        return len(left) + len(right)
    from kaldialign import edit_distance

    return edit_distance(left, right)["total"]
