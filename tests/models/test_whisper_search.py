"""Greedy, sampling and beams over a decoder whose probabilities are written down, against an exhaustive search."""

import itertools

import numpy
import pytest

from tests.models.tiny_whisper import SMALL_END, SMALL_VOCABULARY, Scripted, says, small_tokens
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_rules import Rules, log_softmax
from workbench.models.whisper_search import Limits, Written, beam, best, greedy

TOKENS = small_tokens()
PROMPT = TOKENS.start("en", "transcribe", timestamps=False)
PLAIN = Rules.of(
    TOKENS,
    Decoding(suppress_tokens=tuple(range(3, SMALL_END)) + tuple(range(SMALL_END + 1, SMALL_VOCABULARY)), suppress_blank=False),
)
"""Leaves the letters a, b, c and the end."""


def tree(seed):
    """Logits that depend on everything written before: a different random number for each text."""

    def logits(window, tokens):
        written = tokens[len(PROMPT) :]
        random = numpy.random.default_rng([seed, int(window), *written, 99])
        return random.normal(0, 1.5, SMALL_VOCABULARY).astype(numpy.float32)

    return logits


def exhaustive(logits, length, score):
    """The best text of at most ``length`` tokens, by trying all."""
    found = []
    for size in range(length):
        for letters in itertools.product(range(3), repeat=size):
            text = (*letters, SMALL_END)
            total = 0.0
            for place, token in enumerate(text):
                row = PLAIN.apply(logits(0, [*PROMPT, *text[:place]])[None].copy(), [text[:place]])
                total += float(log_softmax(row)[0, token])
            found.append(Written(text, total, True))
    return max(found, key=score)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [None, 0.6])
def test_beams_that_hold_everything_find_what_trying_all_finds(seed, penalty):
    wanted = exhaustive(tree(seed), 4, lambda each: each.rank(penalty))
    found = beam(Scripted(tree(seed)), numpy.zeros(1), PROMPT, PLAIN, Limits(4, 64), size=81, length_penalty=penalty)
    # Texts that are cut off at the limit compete too, as in openai/whisper, unless enough have ended.
    cut_off = [text for text in itertools.product(range(3), repeat=4)]
    totals = {text: sum_of(tree(seed), text) for text in cut_off}
    rival = max((Written(text, total, False) for text, total in totals.items()), key=lambda each: each.rank(penalty))
    expected = max((wanted, rival), key=lambda each: each.rank(penalty))
    assert found.tokens == expected.tokens and found.sum_logprob == pytest.approx(expected.sum_logprob, abs=1e-4)


def sum_of(logits, text):
    return sum(
        float(log_softmax(PLAIN.apply(logits(0, [*PROMPT, *text[:place]])[None].copy(), [text[:place]]))[0, token])
        for place, token in enumerate(text)
    )


@pytest.mark.parametrize("seed", range(6))
def test_one_beam_is_greedy(seed):
    runtime, limits = Scripted(tree(seed)), Limits(8, 64)
    (one,) = greedy(runtime, numpy.zeros(1), [PROMPT], PLAIN, limits)
    alone = beam(runtime, numpy.zeros(1), PROMPT, PLAIN, limits, size=1)
    assert alone.tokens == one.tokens and alone.sum_logprob == pytest.approx(one.sum_logprob, abs=1e-4)


def test_two_beams_are_not_led_astray_by_the_first_token():
    def logits(window, tokens):
        chances = {(): (0.6, 0.4, 0, 0), (0,): (0.25, 0.25, 0.25, 0.25), (1,): (0, 0, 0.99, 0.01)}
        row = chances.get(tuple(tokens[len(PROMPT) :]), (0.01, 0.01, 0.01, 0.97))
        found = numpy.full(SMALL_VOCABULARY, -numpy.inf, dtype=numpy.float32)
        found[[0, 1, 2, SMALL_END]] = numpy.log(numpy.maximum(row, 1e-9))
        return found

    runtime, limits = Scripted(logits), Limits(8, 64)
    assert greedy(runtime, numpy.zeros(1), [PROMPT], PLAIN, limits)[0].tokens[0] == 0
    found = beam(runtime, numpy.zeros(1), PROMPT, PLAIN, limits, size=2)
    assert found.tokens == (1, 2, SMALL_END)
    assert found.sum_logprob == pytest.approx(numpy.log(0.4 * 0.99 * 0.97), abs=1e-4)


def test_patience_looks_further():
    found = {patience: [] for patience in (1.0, 4.0)}
    for patience, seed in itertools.product(found, range(12)):
        each = beam(Scripted(tree(seed)), numpy.zeros(1), PROMPT, PLAIN, Limits(8, 64), size=2, patience=patience)
        found[patience].append(each.rank(None))
    assert all(more >= less - 1e-9 for less, more in zip(*found.values(), strict=True))
    assert sum(found[4.0]) > sum(found[1.0])


def test_rows_of_a_batch_are_what_they_are_alone():
    runtime, windows = Scripted(tree(3)), numpy.arange(5.0)
    together = greedy(runtime, windows, [PROMPT] * 5, PLAIN, Limits(12, 64))
    alone = [greedy(runtime, windows[row : row + 1], [PROMPT], PLAIN, Limits(12, 64))[0] for row in range(5)]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert len({len(each.tokens) for each in together}) > 1  # some ended earlier
    assert numpy.allclose([each.sum_logprob for each in together], [each.sum_logprob for each in alone], atol=1e-5)


def test_the_log_probability_is_that_of_what_the_rules_leave():
    (found,) = greedy(Scripted(tree(1)), numpy.zeros(1), [PROMPT], PLAIN, Limits(12, 64))
    assert found.ended and found.sum_logprob == pytest.approx(sum_of(tree(1), found.tokens), abs=1e-4)
    assert found.average_logprob == pytest.approx(found.sum_logprob / len(found.tokens))


def test_samples_are_drawn_by_their_probability_and_the_seed():
    def flat(window, tokens):
        found = numpy.full(SMALL_VOCABULARY, -numpy.inf, dtype=numpy.float32)
        found[[0, 1, SMALL_END]] = numpy.log([0.6, 0.3, 0.1])
        return found

    def draw(seed, temperature, count=300):
        random = [numpy.random.default_rng([seed, row]) for row in range(count)]
        found = greedy(
            Scripted(flat), numpy.zeros(1), [PROMPT] * count, PLAIN, Limits(1, 64), temperature=temperature, random=random
        )
        return [each.tokens[0] for each in found]

    assert draw(0, 1.0) == draw(0, 1.0) != draw(1, 1.0)
    shares = numpy.bincount(draw(0, 1.0), minlength=SMALL_END + 1) / 300
    # Three standard deviations of a share of 300.
    assert shares[[0, 1, SMALL_END]] == pytest.approx([0.6, 0.3, 0.1], abs=3 * (0.24 / 300) ** 0.5)
    assert numpy.bincount(draw(0, 0.05))[0] == 300  # cold: the likeliest


def test_limits_end_a_text():
    (found,) = greedy(Scripted(says("abcabcabc")), numpy.zeros(1), [PROMPT], PLAIN, Limits(4, 64))
    assert found.tokens == (0, 1, 2, 0) and not found.ended and found.text_tokens == found.tokens
    (found,) = greedy(Scripted(says("abcabcabc")), numpy.zeros(1), [PROMPT], PLAIN, Limits(20, len(PROMPT) + 3))
    assert len(found.tokens) == 3
    assert len(beam(Scripted(says("abcabcabc")), numpy.zeros(1), PROMPT, PLAIN, Limits(4, 64), size=2).tokens) == 4


def test_the_probability_of_silence_is_read_from_the_raw_logits():
    silent = TOKENS.no_speech

    def logits(window, tokens):
        found = says("a")(window, tokens)
        if len(tokens) == 1:  # at <|startoftranscript|>
            found[:] = -numpy.inf
            found[[silent, 0]] = numpy.log([0.75, 0.25])
        return found

    where = (0, silent)
    (one,) = greedy(Scripted(logits), numpy.zeros(1), [PROMPT], PLAIN, Limits(4, 64), no_speech=where)
    many = beam(Scripted(logits), numpy.zeros(1), PROMPT, PLAIN, Limits(4, 64), size=2, no_speech=where)
    assert one.no_speech == pytest.approx(0.75, abs=1e-6) == many.no_speech
    assert silent not in one.tokens


def test_the_best_of_equals_is_the_first():
    first, second = Written((0, SMALL_END), -1.0, True), Written((1, SMALL_END), -1.0, True)
    assert best([first, second]) is first
    long = Written((0, 1, 2, SMALL_END), -2.4, True)
    assert best([first, long]) is long and best([first, long], length_penalty=0.0) is first
