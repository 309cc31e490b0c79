"""The grammar: the same for a seed, both forms of numbers, and samples apart from the training sentences."""

import random
from collections import Counter

import pytest

pytest.importorskip("torch")

from workbench.demo.recogniser import corpus, samples, sentences, tokens, voices  # noqa: E402
from workbench.demo.recogniser.train import UTTERANCES  # noqa: E402


@pytest.fixture(scope="module")
def training():
    return corpus.train_sentences(1, UTTERANCES)


def test_the_same_seed_gives_the_same_sentences_and_speakers():
    assert sentences.distinct("a", 50) == sentences.distinct("a", 50) != sentences.distinct("b", 50)
    assert [corpus.speaker_of(1, n) for n in range(20)] == [corpus.speaker_of(1, n) for n in range(20)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "zero"),
        (14, "fourteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (230, "two hundred thirty"),
        (4500, "four thousand five hundred"),
    ],
)
def test_numbers_in_words(value, said):
    assert sentences.cardinal(value) == said


def test_ordinals_and_years_in_words():
    assert [sentences.ordinal(n) for n in (1, 12, 20, 23, 28)] == ["first", "twelfth", "twentieth", "twenty third", "twenty eighth"]
    said = [sentences.year(n) for n in (1905, 1965, 2000, 2008, 2014)]
    assert said == ["nineteen oh five", "nineteen sixty five", "two thousand", "two thousand eight", "twenty fourteen"]


def test_no_sample_sentence_is_in_the_training_sentences(training):
    from workbench.metrics.normalise import profile_named

    normalise = profile_named("whisper").normalise
    held_out = {normalise(sentence.written) for sentence in samples.held_out()}
    assert len(held_out) == samples.HEARD_COUNT + samples.UNHEARD_COUNT
    keys = {sentences.key(sentence.written) for sentence in training}
    assert not keys & samples.forbidden()
    assert not held_out & {normalise(sentence.written) for sentence in training[:3000]}


def test_every_word_and_token_of_the_samples_is_heard_in_training(training):
    pytest.importorskip("mlx_whisper")
    words, seen = Counter(), set()
    for sentence in training:
        words.update(corpus.words(sentence.spoken))
        seen.update(sentence.written.split())
    rare = {word for sentence in samples.held_out() for word in corpus.words(sentence.spoken) if words[word] < 30}
    assert rare == set()
    known = {token for form in seen for token in tokens.encode(" " + form)}
    for sentence in samples.held_out():
        assert known.issuperset(tokens.encode(" " + sentence.written)), sentence.written


def test_the_unheard_voice_is_never_drawn_for_training():
    generator = random.Random(3)
    drawn = {voices.sample(generator).voice for _ in range(3000)}
    assert voices.UNHEARD_VOICE not in drawn
    assert {speaker.voice for speaker in voices.HEARD if speaker.engine == "flite"} <= drawn
    assert voices.UNHEARD.voice == voices.UNHEARD_VOICE not in {speaker.voice for speaker in voices.HEARD}
