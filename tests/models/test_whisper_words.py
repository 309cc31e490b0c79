"""Word times: the warping against mlx-whisper's, the attention matrix by hand, words in order and inside their segments."""

import numpy
import pytest

from tests.models.tiny_whisper import Scripted, says, small_tokens
from workbench.models.speech_to_text import Decoding, Word
from workbench.models.whisper_loop import Loop, Timed
from workbench.models.whisper_recording import Recording
from workbench.models.whisper_search import Limits
from workbench.models.whisper_words import align, attention_matrix, inside, merge_punctuation, trim, warp


def plain_warp(cost):
    """The cost of the cheapest way, cell by cell."""
    rows, columns = cost.shape
    total = numpy.full((rows + 1, columns + 1), numpy.inf)
    total[0, 0] = 0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            total[i, j] = cost[i - 1, j - 1] + min(total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
    return total[-1, -1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 30), (30, 5), (12, 12)])
def test_warping_finds_the_cheapest_way(shape):
    cost = numpy.random.default_rng(sum(shape)).standard_normal(shape).astype(numpy.float32)
    rows, columns = warp(cost)
    steps = {(int(i), int(j)) for i, j in zip(numpy.diff(rows), numpy.diff(columns), strict=True)}
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, shape[0] - 1, shape[1] - 1)
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[rows, columns].sum() == pytest.approx(plain_warp(cost), abs=1e-4)


def test_warping_takes_the_way_that_mlx_whisper_takes(monkeypatch):
    """With equal costs too: small whole numbers are full of them."""
    timing = pytest.importorskip("mlx_whisper.timing", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    monkeypatch.setattr(timing, "backtrace", timing.backtrace.py_func)  # not compiled: that takes longer than the test
    for seed in range(6):
        cost = numpy.random.default_rng(seed).integers(-2, 3, (7, 25)).astype(numpy.float32)
        theirs = timing.dtw_cpu.py_func(cost)
        assert numpy.array_equal(numpy.stack(warp(cost)), theirs)


def test_the_matrix_is_standardised_smoothed_and_averaged():
    """By hand: for each head a softmax over the audio alone, standardised over tokens, a median of 7 with mirrored ends."""
    random = numpy.random.default_rng(0)
    scores = random.standard_normal((2, 3, 5, 40))
    weights = numpy.exp(scores) / numpy.exp(scores).sum(-1, keepdims=True)
    heads = [(1, 0), (0, 2)]
    found = attention_matrix(weights.astype(numpy.float32), heads, 20)
    wanted = []
    for layer, head in heads:
        part = numpy.exp(scores[layer, head, :, :20])
        part /= part.sum(-1, keepdims=True)
        part = (part - part.mean(0)) / part.std(0)
        mirrored = numpy.concatenate([part[:, 3:0:-1], part, part[:, -2:-5:-1]], axis=1)
        wanted.append(numpy.stack([numpy.median(mirrored[:, place : place + 7], axis=1) for place in range(20)], axis=1))
    assert numpy.allclose(found, numpy.mean(wanted, axis=0), atol=1e-5)
    upper = attention_matrix(weights.astype(numpy.float32), None, 20)
    assert numpy.allclose(upper, attention_matrix(weights.astype(numpy.float32), [(1, 0), (1, 1), (1, 2)], 20), atol=1e-6)


def test_attention_without_audio_or_contrast_gives_numbers():
    assert numpy.isfinite(attention_matrix(numpy.zeros((1, 1, 4, 10), numpy.float32), None, 2)).all()


def test_words_begin_where_the_decoder_looks():
    tokens = small_tokens()
    text = tokens.pieces("ab cd efg")
    runtime = Scripted(says("ab cd efg"))  # its attention runs evenly through the window of one second
    found = align(runtime, numpy.zeros(1), tokens, text, "en", "transcribe", positions=50)
    assert [word.text for word, _ in found] == ["ab", " cd", " efg"] and sum(length for _, length in found) == len(text)
    rows = len(text) + 5  # prompt and end token have their share
    for (word, _), place in zip(found, (0, 2, 5), strict=True):
        # The token at ``place`` is decided on at the one before it; the way begins with the window, so the first word does.
        assert word.start == pytest.approx((place + 3) / rows if place else 0.0, abs=0.05)
        assert word.probability == pytest.approx(numpy.exp(8) / (numpy.exp(8) + 7), abs=1e-3)
    assert all(before.end <= after.start for (before, _), (after, _) in zip(found, found[1:], strict=False))
    assert align(runtime, numpy.zeros(1), tokens, [], "en", "transcribe", positions=50) == []


def test_marks_join_their_words():
    words = [
        (Word(text, place, place + 1.0, 0.5), 1) for place, text in enumerate([' "', "Yes", ",", " she", " (", "said", ")", "."])
    ]
    found = merge_punctuation(words)
    assert [(word.text, length) for word, length in found] == [(' "Yes,', 3), (" she", 1), (" (said).", 4)]
    assert (found[0][0].start, found[0][0].end) == (1, 2.0)


def test_a_pause_is_not_part_of_the_words_beside_it():
    words = [
        (Word(str(place), start, end, 1.0), 1) for place, (start, end) in enumerate([(0, 5.2), (5.2, 5.5), (5.5, 5.8), (5.8, 9)])
    ]
    times = [(round(word.start, 6), round(word.end, 6)) for word, _ in trim(words)]
    assert times == [(4.6 - 0.8, 5.2), (5.2, 5.5), (5.5, 5.8), (5.8, 7.2)]
    assert trim([]) == []


def test_words_stay_inside_and_in_order():
    words = [Word("a", 0.1, 0.9, 1), Word("b", 0.7, 2.5, 1), Word("c", 2.0, 1.0, 1), Word("d", 9.0, 9.5, 1)]
    found = inside(words, 0.5, 3.0)
    times = [time for word in found for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] == 0.5 and times[-1] == 3.0
    assert inside([], 0, 1) == ()


@pytest.mark.parametrize("chunking", ["sequential", "overlap"])
def test_segments_of_long_audio_carry_their_words(chunking):
    tokens = small_tokens()
    spoken = {0: "ab cd", 80: "cd ef", 100: "ef ga"} if chunking == "sequential" else {0: "ab cd", 80: "cd ef"}

    def logits(window, given):
        return says(spoken[int(window)], 20.0)(window, given)

    mel = numpy.broadcast_to(numpy.arange(300, dtype=numpy.float32), (80, 300))
    decoding = Decoding(word_timestamps=True, suppress_tokens=(), max_tokens=20, chunking=chunking)
    recording = Recording(mel, 180, 1.8, decoding, tokens, Limits(20, 64), 100)
    Loop(Scripted(logits), tokens, batch_size=2).run([Timed(recording)])
    assert recording.error is None, recording.error
    found = recording.transcript()
    words = [word for segment in found.segments for word in segment.words]
    assert "".join(word.text for word in words) == found.text == ("ab cdef ga" if chunking == "sequential" else "ab cd ef")
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    for segment in found.segments:
        assert all(segment.start <= word.start <= word.end <= segment.end for word in segment.words)
