"""When a window is tried again, and when it counts as silent."""

import zlib

import numpy
import pytest

from tests.models.tiny_whisper import LETTERS, SMALL_END, SMALL_VOCABULARY, Scripted, says, small_tokens
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_fallback import compression_ratio, decode_windows
from workbench.models.whisper_search import Limits

TOKENS = small_tokens()
PROMPT = TOKENS.start("en", "transcribe", timestamps=False)
LIMITS = Limits(40, 64)


def decode(logits, windows=(0.0,), **settings):
    runtime = Scripted(logits)
    encoded = numpy.asarray(windows)
    places = [int(100 * window) for window in windows]
    settings.setdefault("suppress_tokens", ())
    return decode_windows(runtime, encoded, [PROMPT] * len(windows), TOKENS, Decoding(**settings), LIMITS, places)


def silence(chance, sharp, text="abc"):
    """Speech is absent with probability ``chance``; the text is believed when ``sharp`` is large."""

    def logits(window, tokens):
        if tokens[-1] == TOKENS.start_of_transcript:
            found = numpy.full(SMALL_VOCABULARY, -numpy.inf, dtype=numpy.float32)
            found[[TOKENS.no_speech, 0]] = numpy.log([chance, 1 - chance])
            return found
        return says(text, sharp)(window, tokens)

    return logits


@pytest.mark.parametrize(
    ("chance", "sharp", "silent"),
    [(0.9, 1.0, True), (0.9, 20.0, False), (0.3, 1.0, False), (0.3, 20.0, False)],
    ids=["both", "silence alone", "disbelief alone", "neither"],
)
def test_silence_takes_both_conditions(chance, sharp, silent):
    (found,) = decode(silence(chance, sharp))
    assert (found.written.no_speech > 0.6, found.written.average_logprob < -1.0) == (chance > 0.6, sharp < 2)
    assert found.silent is silent


def test_thresholds_that_are_switched_off():
    assert decode(silence(0.9, 20.0), logprob_threshold=None)[0].silent  # the first decides alone, as in openai/whisper
    assert not decode(silence(0.9, 1.0), no_speech_threshold=None)[0].silent


def repeats_when_cold(window, tokens):
    """The likeliest text is ``ab`` again and again; a little less likely is the end."""
    found = numpy.full(SMALL_VOCABULARY, -20.0, dtype=numpy.float32)
    written = len(tokens) - len(PROMPT)
    found[[written % 2, SMALL_END]] = [1.0, 0.5 if written > 3 else -20.0]
    return found


def test_a_text_that_repeats_is_tried_again_hotter():
    (cold,) = decode(repeats_when_cold, logprob_threshold=None)
    assert cold.compression_ratio > 2.4 and cold.temperature == 0.0
    (found,) = decode(repeats_when_cold, temperatures=(0.0, 0.6, 1.0), logprob_threshold=None)
    assert found.temperature > 0 and found.compression_ratio <= 2.4
    (kept,) = decode(repeats_when_cold, temperatures=(0.0, 0.6), logprob_threshold=None, compression_ratio_threshold=None)
    assert kept.temperature == 0.0


def test_a_text_that_is_not_believed_is_tried_again_and_the_last_one_stands():
    (found,) = decode(says("abc", sharp=1.0), temperatures=(0.0, 0.2, 0.4))
    assert found.temperature == 0.4 and found.written.average_logprob < -1
    (believed,) = decode(says("abc", sharp=20.0), temperatures=(0.0, 0.2, 0.4))
    assert believed.temperature == 0.0


def test_silence_is_not_tried_again():
    (found,) = decode(silence(0.9, 1.0), temperatures=(0.0, 0.2))
    assert found.silent and found.temperature == 0.0


def test_windows_of_a_batch_are_tried_again_one_by_one():
    def logits(window, tokens):
        return (says("abc", 20.0) if window == 1 else repeats_when_cold)(window, tokens)

    settings = {"temperatures": (0.0, 0.8), "logprob_threshold": None}
    together = decode(logits, (0.0, 1.0, 2.0), **settings)
    alone = [decode(logits, (window,), **settings)[0] for window in (0.0, 1.0, 2.0)]
    assert [each.temperature for each in together] == [0.8, 0.0, 0.8]
    assert [each.written.tokens for each in together] == [each.written.tokens for each in alone]


def test_drawn_texts_follow_the_seed_and_the_place():
    settings = {"temperatures": (1.0,), "logprob_threshold": None, "compression_ratio_threshold": None}

    def flat(window, tokens):
        found = numpy.full(SMALL_VOCABULARY, -numpy.inf, dtype=numpy.float32)
        found[: SMALL_END + 1] = 0.0
        return found

    def texts(seed):
        return [each.written.tokens for each in decode(flat, (0.0, 1.0), seed=seed, **settings)]

    assert texts(0) == texts(0) != texts(1)
    assert texts(0)[0] != texts(0)[1]


def test_the_best_of_several_samples():
    def logits(window, tokens):
        found = numpy.full(SMALL_VOCABULARY, -numpy.inf, dtype=numpy.float32)
        found[[0, 1, SMALL_END]] = numpy.log([0.5, 0.1, 0.4])
        return found

    settings = {"temperatures": (1.0,), "compression_ratio_threshold": None, "logprob_threshold": None}
    one = [decode(logits, (float(window),), **settings)[0].written for window in range(12)]
    five = [decode(logits, (float(window),), best_of=5, **settings)[0].written for window in range(12)]
    assert all(more.rank(None) >= less.rank(None) for less, more in zip(one, five, strict=True))  # the first sample is the same
    assert sum(each.rank(None) for each in five) > sum(each.rank(None) for each in one)


def test_beams_serve_temperature_zero_alone():
    (found,) = decode(says("abc", 20.0), beam_size=3, best_of=2)
    assert "".join(LETTERS[token] for token in found.written.text_tokens) == "abc"


def test_compression_ratio_is_zlibs():
    text = "again and again and again and again"
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode())) > 1
    assert compression_ratio("") == 0
    mlx = pytest.importorskip("mlx_whisper.decoding", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    assert compression_ratio("漢字 ab ab ab") == mlx.compression_ratio("漢字 ab ab ab")
