"""Counts of words: kaldialign's per utterance, a plain table's and jiwer's in total, on random and adversarial pairs."""

import kaldialign
import pytest

from tests.metrics.spoken import word_pairs
from workbench.errors import DataError
from workbench.metrics.alignment import align, character_errors, count_words
from workbench.metrics.wer import count

PAIRS = word_pairs(5, 700)


def distance(left, right):
    """The edit distance by the textbook's table."""
    row = list(range(len(right) + 1))
    for above, one in enumerate(left, 1):
        last, row[0] = row[0], above
        for column, other in enumerate(right, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (one != other))
    return row[-1]


def test_counts_are_kaldialigns_and_totals_the_tables():
    for reference, heard in PAIRS:
        found = count_words(reference, heard)
        expected = kaldialign.edit_distance(reference, heard)
        assert (found.substitutions, found.deletions, found.insertions) == (expected["sub"], expected["del"], expected["ins"])
        assert found.hits + found.substitutions + found.deletions == found.words == len(reference)
        if len(reference) < 50:
            assert found.substitutions + found.deletions + found.insertions == distance(reference, heard)


def test_totals_equal_jiwers():
    jiwer = pytest.importorskip("jiwer", reason="needs jiwer as a witness")
    for reference, heard in PAIRS:
        found = count_words(reference, heard)
        theirs = jiwer.process_words(" ".join(reference), " ".join(heard))
        total = theirs.substitutions + theirs.deletions + theirs.insertions
        assert found.substitutions + found.deletions + found.insertions == total
        letters = jiwer.process_characters(" ".join(reference), " ".join(heard))
        expected = letters.substitutions + letters.deletions + letters.insertions
        assert character_errors(" ".join(reference), " ".join(heard)) == expected


@pytest.mark.parametrize("merge", [False, True])
def test_the_alignment_has_the_counts_and_every_word(merge):
    for reference, heard in PAIRS:
        pairs = align(reference, heard, merge)
        kinds = [kind for kind, _, _ in pairs]
        found = count_words(reference, heard, merge)
        assert (kinds.count("substitution"), kinds.count("deletion"), kinds.count("insertion")) == found[2:]
        assert [word for _, left, _ in pairs for word in left.split(" ") if word] == list(reference)
        assert [word for _, _, right in pairs for word in right.split(" ") if word] == list(heard)
        assert all(left.replace(" ", "") == right.replace(" ", "") for kind, left, right in pairs if kind in ("hit", "compound"))
        assert merge or "compound" not in kinds


def test_merged_compounds():
    assert align(["the", "white", "paper"], ["a", "whitepaper", "here"], True) == [
        ("substitution", "the", "a"), ("compound", "white paper", "whitepaper"), ("insertion", "", "here"),
    ]  # fmt: skip
    assert count_words(["the", "white", "paper"], ["a", "whitepaper", "here"], True) == (3, 2, 1, 0, 1)
    assert count_words(["whitepaper"], ["white", "paper"], True) == (1, 1, 0, 0, 0)
    batch = kaldialign.batch_error_rate(*zip(*PAIRS, strict=True), merge_compounds=True)
    found = [count_words(reference, heard, True) for reference, heard in PAIRS]
    assert [sum(each[place] for each in found) for place in (2, 3, 4)] == [batch["sub"], batch["del"], batch["ins"]]


def test_half_a_surrogate_pair_is_a_letter_like_others():
    assert align(["a\ud800", "b"], ["a", "\ud800b"], True) == [("substitution", "a\ud800", "a"), ("substitution", "b", "\ud800b")]
    assert count_words(["a", "\ud800"], ["a\ud800"], True) == (2, 2, 0, 0, 0)
    assert align(["a", "\ud800"], ["a\ud800"], True) == [("compound", "a \ud800", "a\ud800")]


def test_words_with_spaces_are_refused():
    for words in (["a b"], [""]):
        with pytest.raises(ValueError, match="split"):
            align(words, ["a"])


def test_counts_of_texts():
    found = count("this is a test", "this test")
    assert found == {
        "words": 4, "hits": 2, "substitutions": 0, "deletions": 2, "insertions": 0, "characters": 14, "character_errors": 5,
        "utterances": 1, "sentence_errors": 1,
    }  # fmt: skip


def test_an_utterance_that_would_take_gigabytes_to_merge_is_refused():
    long = ["word"] * 20_000
    assert count_words(long, long, merge_compounds=True).hits == len(long)  # equal lists need no table
    with pytest.raises(DataError, match="too long to merge compounds"):
        count_words(long, [*long[:-1], "other"], merge_compounds=True)
