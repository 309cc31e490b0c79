"""Rates against jiwer's published and computed values, intervals against scipy, and the paired difference of two systems."""

import json
from math import inf

import numpy as np
import pytest
from scipy import stats

from tests.metrics.spoken import word_pairs
from workbench.errors import DataError
from workbench.metrics import wer
from workbench.metrics.stats import corpus_interval
from workbench.metrics.transcripts import word_error_rate


def counts(references, transcripts):
    listed = [[texts] if isinstance(texts, str) else texts for texts in (references, transcripts)]
    return [wer.count(*pair) for pair in zip(*listed, strict=True)]


def utterances(seed, speakers=24, each=25):
    """(counts (n, 2), speakers): who speaks decides how many words are wrong."""
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), each)
    words = generator.integers(3, 20, len(who))
    rate = np.clip(generator.gamma(1.2, 0.08, speakers), 0, 0.9)[who]
    return np.stack([generator.binomial(words, rate), words], axis=1), who.tolist()


def as_counts(rows):
    return [{"words": int(words), "substitutions": int(wrong), "deletions": 0, "insertions": 0} for wrong, words in rows]


@pytest.mark.parametrize("names", [("wer", "mer", "wil"), ("cer",)])
def test_jiwers_published_values(shared_data, names):
    cases = json.loads((shared_data / "speech" / "jiwer" / f"{'_'.join(names)}.json").read_text())
    assert len(cases) == (12 if len(names) > 1 else 11)
    for case in cases:
        found = wer.rates(counts(case["ref"], case["hyp"]))
        assert {name: found[name] for name in names} == pytest.approx({name: case[name] for name in names}), case


def test_the_corpus_equals_jiwers_in_total():
    jiwer = pytest.importorskip("jiwer", reason="needs jiwer as a witness")
    pairs = [(" ".join(reference), " ".join(heard)) for reference, heard in word_pairs(6, 300)]
    references, heard = map(list, zip(*pairs, strict=True))
    found = wer.rates(counts(references, heard))
    assert found["wer"] == pytest.approx(jiwer.wer(references, heard))
    assert found["cer"] == pytest.approx(jiwer.cer(references, heard))
    wrong = sum(wer.errors(each) > 0 for each in counts(references, heard))
    assert found["sentence_error_rate"] == wrong / len(pairs)
    for reference, text in pairs[:120]:  # where the split into kinds is the same, MER and WIL are too
        theirs, ours = jiwer.process_words(reference, text), wer.count(reference, text)
        if theirs.hits == ours["hits"]:
            assert (wer.rates([ours])["mer"], wer.rates([ours])["wil"]) == pytest.approx((theirs.mer, theirs.wil))


def test_it_is_a_ratio_of_sums_and_may_exceed_one():
    short, long = wer.count("a", "b"), wer.count("a b c d e f g h i", "a b c d e f g h i")
    assert wer.rates([short, long])["wer"] == 0.1
    assert wer.rates([wer.count("a", "b c d")])["wer"] == 3
    assert wer.rates([wer.total([short, long])]) == wer.rates([short, long])


def test_the_utterance_interval_equals_scipys_percentile():
    rows, _ = utterances(1)
    index = np.arange(len(rows))

    def rate(chosen, axis=-1):
        picked = rows[chosen.astype(int)]
        return picked[..., 0].sum(axis) / picked[..., 1].sum(axis)

    expected = stats.bootstrap(
        (index,), rate, confidence_level=0.95, n_resamples=10_000, method="percentile", batch=1000, rng=np.random.default_rng(2)
    )
    low, high, clusters, widened = corpus_interval(rows)
    spread = expected.bootstrap_distribution.std()
    assert (low, high) == pytest.approx((expected.confidence_interval.low, expected.confidence_interval.high), abs=0.1 * spread)
    assert (clusters, widened) == (len(rows), False)


def test_speakers_who_differ_widen_the_interval_and_speakers_who_do_not_leave_it():
    rows, who = utterances(3)
    found = wer.intervals(as_counts(rows), who)
    width = {name: each["high"] - each["low"] for name, each in found.items()}
    assert width["speaker"] > 2 * width["utterance"]
    assert found["speaker"]["resampled"] == "speaker"
    mixed = np.random.default_rng(4).permutation(who).tolist()
    mixed_up = wer.intervals(as_counts(rows), mixed)
    assert mixed_up["speaker"]["high"] - mixed_up["speaker"]["low"] == pytest.approx(width["utterance"], rel=0.45)
    assert list(wer.intervals(as_counts(rows), ["one"] * len(rows))) == ["utterance"]
    assert list(wer.intervals(as_counts(rows), [None] * len(rows))) == ["utterance"]


def test_few_speakers_are_not_certainty():
    """Two speakers with the same rate: every draw gives it, and the interval must still be that of their utterances, at least."""
    rows = np.array([[place % 2, 6] for place in range(40)])
    who = ["one"] * 20 + ["two"] * 20
    low, high, clusters, _ = corpus_interval(rows, who)
    error = (40 / 39 * 40 * 0.5**2) ** 0.5 / 240
    half = stats.t.ppf(0.975, 39) * error
    assert (low, high, clusters) == (pytest.approx(20 / 240 - half), pytest.approx(20 / 240 + half), 2)
    assert "t interval" in wer.interval(as_counts(rows), who, "speaker")["method"]
    worse = rows + [1, 0]
    found = wer.paired(rows, worse * (np.arange(40) % 4 > 0)[:, None] + rows * (np.arange(40) % 4 == 0)[:, None], who)
    assert found["low95"] < found["low90"] < found["difference"] < found["high90"] < found["high95"]
    assert "t interval" in found["method"]


def test_the_speaker_interval_of_few_speakers_holds_its_level():
    """Of 3 speakers the plain draws hold the truth 3 times in 4."""
    generator = np.random.default_rng(11)
    who = np.repeat(np.arange(3), 30).tolist()
    held = 0
    for _ in range(150):
        words = generator.integers(4, 12, 90)
        rate = np.repeat(generator.beta(4, 46, 3), 30)
        low, high, _, _ = corpus_interval(np.stack([generator.binomial(words, rate), words], axis=1), who, draws=500)
        held += low <= 0.08 <= high
    assert held >= 0.88 * 150


def test_few_errors_are_not_certainty():
    perfect = [wer.count("a b c", "a b c")] * 50
    found = wer.interval(perfect)
    assert found["low"] == 0 and 0.03 < found["high"] < 0.1 and "widened" in found["method"]
    many = wer.interval(perfect * 100)
    assert many["high"] < 0.002
    assert wer.interval(perfect[:1]) is None and wer.interval([]) is None
    assert corpus_interval(np.array([[1, 0], [2, 0], [1, 5]])) is None  # one utterance with words


def test_a_hundred_thousand_utterances_need_little_memory_and_time():
    import tracemalloc

    generator = np.random.default_rng(5)
    words = generator.integers(1, 40, 100_000)
    rows = np.stack([generator.binomial(words, 0.06), words], axis=1)
    tracemalloc.start()
    low, high, _, _ = corpus_interval(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert low < rows[:, 0].sum() / rows[:, 1].sum() < high
    assert peak < 80 * 2**20


def test_paired_is_the_difference_on_the_same_draws():
    rows, who = utterances(6)
    better = rows.copy()
    better[::3, 0] = np.maximum(0, better[::3, 0] - 1)
    found = wer.paired(rows, better, who)
    rate = better[:, 0].sum() / better[:, 1].sum() - rows[:, 0].sum() / rows[:, 1].sum()
    assert found["difference"] == pytest.approx(rate)
    assert found["low95"] <= found["low90"] < found["difference"] < found["high90"] <= found["high95"] < 0
    assert (found["probability_of_improvement"], found["probability_of_worsening"]) == (1, 0)
    assert (found["broke"], found["fixed"]) == (0, int((rows[::3, 0] > 0).sum()))
    assert found == wer.paired(as_counts(rows), as_counts(better), who)
    back = wer.paired(better, rows, who)
    assert (back["difference"], back["probability_of_improvement"]) == (-found["difference"], 0)
    apart = wer.interval(as_counts(rows))
    assert found["high90"] - found["low90"] < 0.5 * (apart["high"] - apart["low"])


def test_the_probability_of_improvement_is_kaldialigns():
    import kaldialign

    pairs = word_pairs(7, 90)
    references = [reference for reference, _ in pairs if 0 < len(reference) < 40]
    first = [heard for reference, heard in pairs if 0 < len(reference) < 40]
    second = [
        reference[: len(reference) - 1] if place % 4 else heard
        for place, (reference, heard) in enumerate(zip(references, first, strict=True))
    ]
    made = [
        [wer.count(" ".join(reference), " ".join(text)) for reference, text in zip(references, heard, strict=True)]
        for heard in (first, second)
    ]
    theirs = kaldialign.bootstrap_wer_ci(references, first, second)
    assert wer.paired(*made)["probability_of_improvement"] == pytest.approx(theirs["p_s2_improv_over_s1"], abs=0.02)


def test_no_change_has_a_width_and_one_group_has_no_bound():
    rows, who = utterances(8, 4, 25)
    same = wer.paired(rows, rows)
    assert same["low90"] < -0.01 and same["high90"] > 0.01 and "unseen" in same["method"]
    assert (same["probability_of_improvement"], same["probability_of_worsening"], same["broke"]) == (0, 0, 0)
    alone = wer.paired(rows, rows, ["one"] * len(rows))
    assert (alone["low90"], alone["high95"], alone["probability_of_improvement"]) == (-inf, inf, None)
    with pytest.raises(ValueError, match="pair them"):
        wer.paired(rows, rows[1:])
    with pytest.raises(ValueError, match="no word"):
        wer.paired(rows * [1, 0], rows)


def test_texts_in_one_call():
    found = word_error_rate(["Turn it off.", "", "Yes!"], ["turn it of", "well", "yes"], speakers=["a", "b", "a"])
    assert (found["profile"], found["normaliser"]["id"], found["words"], found["errors"]) == ("whisper", "whisper-english", 4, 2)
    assert found["wer"] == 0.5
    assert (found["interval"]["resampled"], found["intervals"]["speaker"]) == ("utterance", None)  # only one speaker has words
    assert found["empty_references"]["ids"] == ["1"] and "insertion" in found["empty_references"]["rule"]
    left = word_error_rate(["Turn it off.", "", "Yes!"], ["turn it of", "well", "yes"], profile="oal-2026-08")
    assert (left["words"], left["errors"], left["utterances"], left["empty_references"]["n"]) == (4, 1, 2, 1)
    assert "left out" in left["empty_references"]["rule"]


@pytest.mark.parametrize(
    ("references", "transcripts", "message"),
    [
        ("one text", ["x"], "lists"),
        (["a"], ["a", "b"], "one transcript a reference"),
        (["a", None], ["a", "b"], "reference 1 is not text"),
    ],
)
def test_texts_that_do_not_fit(references, transcripts, message):
    with pytest.raises(DataError, match=message):
        word_error_rate(references, transcripts)


def test_utterances_without_a_speaker_count_as_speakers_of_their_own():
    counts = [wer.count("a b c d", text) for text in ("a b c d", "a b x d", "x x x x", "a b c", "a c d", "a b c d e")]
    named = wer.intervals(counts, ["p", "p", "p", "q", None, None])["speaker"]
    alone = wer.intervals(counts, ["p", "p", "p", "q", "r", "s"])["speaker"]
    assert named == alone and named["resampled"] == "speaker"
    assert "speaker" not in wer.intervals(counts, [None] * 6)
    assert "speaker" not in wer.intervals(counts, ["p"] * 6)
