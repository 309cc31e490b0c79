"""Words and errors of two sides: the sums, what is resampled, and intervals that never claim more than utterances can say."""

import pytest
from scipy.stats import ttest_1samp

from workbench.metrics.stats import tango
from workbench.parity.word_errors import both_counts, errors_of, matched_pairs, word_difference


def counts(words, substitutions=0, deletions=0, insertions=0):
    return {"words": words, "substitutions": substitutions, "deletions": deletions, "insertions": insertions}


def test_the_rate_is_of_the_corpus_and_not_a_mean_of_utterances():
    before = [counts(1, 1), counts(99)]
    found = word_difference(before, [counts(1, 1), counts(99, 0, 2, 1)], ["a", "b"])
    assert (found.reference.errors, found.reference.words, found.candidate.errors) == (1, 100, 4)
    assert found.paired.reference == pytest.approx(0.01) and found.paired.candidate == pytest.approx(0.04)
    assert found.paired.difference == pytest.approx(0.03) and (found.paired.broke, found.paired.fixed) == (1, 0)
    assert (found.candidate.substitutions, found.candidate.deletions, found.candidate.insertions) == (1, 2, 1)
    assert found.candidate.sentence_errors == 2


def test_speakers_are_resampled_where_there_are_two_or_more_and_utterances_shown_beside():
    before = [counts(10) for _ in range(40)]
    after = [counts(10, 2 if number < 20 else 0) for number in range(40)]  # one speaker of two makes all the errors
    speakers = ["anna"] * 20 + ["ben"] * 20
    found = word_difference(before, after, speakers)
    assert [each.resampled for each in found.intervals] == ["speaker", "utterance"] and found.resampled == "speaker"
    wide, narrow = ((each.low90, each.high90) for each in found.intervals)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert (found.paired.low90, found.paired.high90) == wide and found.paired.clusters == 2
    for alone in (["anna"] * 40, list(map(str, range(40)))):
        found = word_difference(before, after, alone)
        assert [each.resampled for each in found.intervals] == ["utterance"] and found.paired.clusters == 40


def test_no_change_at_all_has_an_interval_with_a_width():
    before = [counts(7, 1) for _ in range(50)]
    found = word_difference(before, before, list(map(str, range(50)))).paired
    low, high = tango(0, 0, 50, 0.90)
    assert found.difference == 0 and (found.low90, found.high90) == pytest.approx((low, high)) and high > 0.04
    assert found.p is None and found.items_needed(0.02) == 133


def test_a_group_without_a_word_has_no_rate():
    assert word_difference([counts(0)], [counts(0, 0, 0, 3)], ["a"]) is None


def test_an_item_without_counts_missed_every_word():
    scored = {"score": {"counts": counts(5, 1)}}
    failed = {"score": {"counts": {"correct": 0, "total": 1}}}
    assert [errors_of(each) for each in both_counts(scored, failed)] == [1, 5]
    assert [errors_of(each) for each in both_counts(failed, scored)] == [5, 1]


def test_the_p_value_is_that_of_the_matched_pairs():
    change = [0, 1, 0, -1, 2, 0, 0, 1, 0, 3]
    assert matched_pairs(change, None) == pytest.approx(ttest_1samp(change, 0).pvalue)
    assert matched_pairs([0, 0, 0], None) is None
