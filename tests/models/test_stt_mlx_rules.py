"""The shared loop against mlx-whisper's own decoding on the same weights: tokens, probabilities, windows, word times."""

from __future__ import annotations

import numpy
import pytest

from tests.models.tiny_whisper import wave
from workbench.models.loading import open_speech_to_text
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_words import AFTER_A_WORD, BEFORE_A_WORD, align
from workbench.types import ModelSpec

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
decoding = pytest.importorskip("mlx_whisper.decoding", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")

TOKENS = 8


@pytest.fixture(scope="module")
def model(tiny_whisper):
    return open_speech_to_text(ModelSpec.parse(f"mlx:{tiny_whisper}?library=mlx-whisper&dtype=float32"))


def theirs(model, samples, **settings):
    from mlx import core

    from workbench.data.media import log_mel

    options = decoding.DecodingOptions(fp16=False, sample_len=TOKENS, **{"language": "en", "without_timestamps": True, **settings})
    return decoding.decode(model.model, core.array(log_mel(samples, 80, 3000).T), options)


@pytest.mark.parametrize("seed", range(2))
def test_the_same_tokens_and_probabilities(model, seed):
    found = model.transcribe(wave(3.0, seed), Decoding(max_tokens=TOKENS, no_speech_threshold=None))
    expected = theirs(model, wave(3.0, seed))
    (segment,) = found.segments
    assert list(segment.tokens) == expected.tokens
    assert segment.no_speech_probability == pytest.approx(expected.no_speech_prob, rel=1e-3)
    # mlx-whisper stops one token after the limit at the earliest, so its sum may hold one token more.
    assert found.finish == "length" or segment.average_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)


def test_the_same_language(model):
    found = model.transcribe(wave(3.0, 2), Decoding(language=None, max_tokens=1))
    assert found.language == theirs(model, wave(3.0, 2), language=None).language


def test_the_same_windows_of_long_audio(model):
    """Two whole windows: mlx-whisper fills a part of one with another value than that of silence."""
    import mlx_whisper

    samples = numpy.concatenate([wave(30.0, 0), wave(30.0, 1)])
    holder = __import__("sys").modules["mlx_whisper.transcribe"].ModelHolder
    holder.model, holder.model_path = model.model, "this one"
    try:
        expected = mlx_whisper.transcribe(
            samples,
            path_or_hf_repo="this one",
            temperature=0.0,
            language="en",
            condition_on_previous_text=False,
            without_timestamps=True,
            fp16=False,
            sample_len=TOKENS,
            no_speech_threshold=None,
        )
    finally:
        holder.model = holder.model_path = None
    found = model.transcribe(samples, Decoding(max_tokens=TOKENS, no_speech_threshold=None))
    assert [(each.start, each.end, list(each.tokens)) for each in found.segments] == [
        (each["start"], each["end"], each["tokens"]) for each in expected["segments"]
    ]
    assert found.text == expected["text"] and found.windows == 2


def test_the_same_word_times(model, monkeypatch):
    """The same scores given to both: those of the random weights are so sharp that mlx-whisper divides by a deviation of zero."""
    from mlx import core
    from mlx_whisper import timing
    from mlx_whisper.tokenizer import get_tokenizer

    monkeypatch.setattr(timing, "backtrace", timing.backtrace.py_func)  # not compiled: that takes longer than the test
    monkeypatch.setattr(timing, "dtw", timing.dtw_cpu.py_func)
    text = model.tokens.encode("set a timer, for ten minutes")
    rows = len(text) + 5
    random = numpy.random.default_rng(0)
    looks = -0.001 * (numpy.arange(1500) - 40 * numpy.arange(rows)[:, None]) ** 2
    scores = (looks + random.standard_normal((2, 2, rows, 1500))).astype(numpy.float32)
    logits = random.standard_normal((1, rows, model.tokens.vocabulary)).astype(numpy.float32)
    weights = numpy.exp(scores - scores.max(-1, keepdims=True))

    class Both:
        alignment_heads = core.array([[1, 0], [0, 1]])

        def forward_with_cross_qk(self, mel, tokens):
            assert tokens.shape == (1, rows)
            return core.array(logits), [core.array(layer[None]) for layer in scores]

        def teacher_forced(self, encoded, tokens):
            assert tokens.shape == (1, rows)
            return logits

        def cross_attention(self, encoded, tokens):
            return weights / weights.sum(-1, keepdims=True)

    tokenizer = get_tokenizer(True, language="en", task="transcribe")
    expected = timing.find_alignment(Both(), tokenizer, text, core.zeros((3000, 80)), 800)
    timing.merge_punctuations(expected, BEFORE_A_WORD, AFTER_A_WORD)
    expected = [each for each in expected if each.word]
    found = [word for word, _ in align(Both(), None, model.tokens, text, "en", "transcribe", positions=400, heads=[(1, 0), (0, 1)])]
    assert [word.text for word in found] == [each.word for each in expected]
    # The first word's beginning and the last one's end are moved by rules of their own.
    assert [word.start for word in found[1:]] == pytest.approx([float(each.start) for each in expected[1:]], abs=1e-6)
    assert [word.end for word in found[:-1]] == pytest.approx([float(each.end) for each in expected[:-1]], abs=1e-6)
    assert [word.probability for word in found] == pytest.approx([float(each.probability) for each in expected], rel=1e-3)
    assert len({word.start for word in found}) == len(found)
