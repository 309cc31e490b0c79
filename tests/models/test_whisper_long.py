"""Audio of any length: segments, where the next window begins, and overlapping windows stitched together."""

import random

import numpy
import pytest

from tests.models.tiny_whisper import LETTERS, SMALL_END, SMALL_FIRST_TIMESTAMP, SMALL_VOCABULARY, Scripted, small_tokens
from workbench.errors import ItemError
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_loop import Loop, Timed
from workbench.models.whisper_recording import Recording
from workbench.models.whisper_search import Limits
from workbench.models.whisper_segments import cut
from workbench.models.whisper_stitch import overlap_of, stitch

T = 100


def at(seconds):
    return T + round(seconds * 50)


def test_pairs_of_times_cut_a_window_into_segments():
    found = cut([at(0.0), 1, 2, at(2.4), at(3.0), 3, at(5.0), at(5.0), 4], T, offset=30.0, seconds=30.0)
    assert [(round(each.start, 6), round(each.end, 6)) for each in found.pieces] == [(30.0, 32.4), (33.0, 35.0)]
    assert [each.tokens for each in found.pieces] == [(at(0.0), 1, 2, at(2.4)), (at(3.0), 3, at(5.0))]
    assert found.advance == 5.0 and found.rest.tokens == (at(5.0), 4)


def test_one_time_at_the_end_means_silence_after_it():
    found = cut([at(0.0), 1, at(2.0), at(3.0), 2, at(4.0)], T, offset=0.0, seconds=12.0)
    assert [each.end for each in found.pieces] == [2.0, 4.0] and found.advance == 12.0 and found.rest is None


@pytest.mark.parametrize(
    ("tokens", "start", "end"),
    [
        ([at(0.0), 1, 2, at(3.5)], 0.0, 3.5),
        ([1, 2], 0.0, 9.0),
        ([at(1.0), 1], 0.0, 1.0),
        ([], 0.0, 9.0),
        ([at(1.0), 1, at(20.0)], 1.0, 9.0),
    ],
    ids=["times around", "no times", "cut off", "nothing", "a time after the end"],
)
def test_a_window_without_pairs_is_one_segment(tokens, start, end):
    (piece,) = cut(tokens, T, offset=0.0, seconds=9.0).pieces
    assert (piece.start, piece.end) == (start, end)


def test_the_next_window_is_always_later():
    assert cut([at(0.0), at(0.0), 1], T, offset=0.0, seconds=9.0).advance == 9.0


def joined(texts, share=0.2):
    return [token for text, (begin, end) in zip(texts, stitch(texts, share), strict=True) for token in text[begin:end]]


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_texts_say_everything_once(seed):
    draw = random.Random(seed)
    whole = [draw.randrange(1000) for _ in range(200)]
    texts = [whole[start : start + 50] for start in range(0, 160, 40)]
    assert joined(texts) == whole[:170]


@pytest.mark.parametrize("seed", range(5))
def test_common_words_repeat_and_do_not_mislead(seed):
    """Half of all tokens are one of four; every window has some of them at both edges."""
    draw = random.Random(seed)
    whole = [draw.choice((1, 2, 3, 4)) if draw.random() < 0.5 else draw.randrange(1000) for _ in range(200)]
    texts = [whole[start : start + 50] for start in range(0, 160, 40)]
    assert joined(texts) == whole[:170]


def test_windows_that_heard_the_edge_differently():
    """A token more, one less, and one heard otherwise in the overlap: what both heard decides."""
    first = [*range(30), 30, 31, 999, 32, 33, 34, 35, 36]
    second = [31, 32, 33, 998, 35, 36, *range(37, 60)]
    kept, left_out = overlap_of(first, second, expected=8)
    assert first[kept - 1] == second[left_out - 1]
    assert joined([first, second])[-24:] == [36, *range(37, 60)]
    assert len(joined([first, second])) in range(59, 63)


def test_one_word_all_the_time_is_cut_by_the_expected_overlap():
    texts = [[7] * 50] * 4
    assert len(joined(texts)) == pytest.approx(50 + 3 * 40, abs=6)


def test_a_loop_in_one_window_is_not_taken_for_the_overlap():
    first, second = [*range(40), 1, 2, 1, 2, 1, 2], [1, 2, 1, 2, *range(100, 140)]
    assert joined([first, second])[-40:] == list(range(100, 140))
    assert joined([first, second])[:40] == list(range(40))


def test_nothing_in_common_keeps_everything():
    assert joined([[1, 2, 3], [4, 5, 6]]) == [1, 2, 3, 4, 5, 6]
    assert joined([[1, 2, 3], [], [3, 4]]) == [1, 2, 3, 3, 4]  # the silent window lies between
    assert joined([[], [1]]) == [1] and joined([]) == []


SPOKEN = "abcdefg gfedcba abcabc ggff ee dd"
"""One letter is said every 0.1 s."""


def model(times=False):
    """Hears the letters of its window: the log-mel's first value is the number of the window's first frame."""
    tokens = small_tokens()

    def logits(window, given):
        start = max(place for place, token in enumerate(given) if SMALL_END < token < SMALL_FIRST_TIMESTAMP) + 1
        first = round(float(window) / 10)
        letters = [LETTERS.index(each) for each in SPOKEN[first : first + 10]]
        wanted = [*letters, SMALL_END]
        if times:
            spans = [letters[place : place + 4] for place in range(0, len(letters), 4)]
            wanted = []
            for number, span in enumerate(spans):
                begin = SMALL_FIRST_TIMESTAMP + number * 20
                end = [SMALL_FIRST_TIMESTAMP + number * 20 + len(span) * 5] if len(span) == 4 or first + 10 >= len(SPOKEN) else []
                wanted += [begin, *span, *end]
            wanted.append(SMALL_END)
        found = numpy.zeros(SMALL_VOCABULARY, dtype=numpy.float32)
        found[wanted[min(len(given) - start, len(wanted) - 1)]] = 30.0
        return found

    return Scripted(logits), tokens


def recording(tokens, seconds=None, **settings):
    length = len(SPOKEN) * 10 if seconds is None else round(seconds * 100)
    mel = numpy.broadcast_to(numpy.arange(length + 100, dtype=numpy.float32), (80, length + 100))
    settings.setdefault("suppress_tokens", ())
    settings.setdefault("suppress_blank", False)
    settings.setdefault("max_tokens", 24)
    settings.setdefault("no_speech_threshold", None)
    decoding = Decoding(**settings)
    return Recording(mel, length, length / 100, decoding, tokens, Limits(decoding.max_tokens, 64), 100)


def transcribed(times=False, batch_size=1, **settings):
    runtime, tokens = model(times)
    timed = Timed(recording(tokens, timestamps=times, **settings))
    Loop(runtime, tokens, batch_size).run([timed])
    assert timed.recording.error is None, timed.recording.error
    return timed.recording.transcript(), runtime


def test_fixed_windows_without_timestamps():
    found, _ = transcribed()
    assert found.text == SPOKEN and found.windows == 4 and found.finish == "stop"
    assert [each.start for each in found.segments] == [0.0, 1.0, 2.0, 3.0]
    assert found.segments[-1].end == pytest.approx(len(SPOKEN) / 10)
    assert found.tokens.count(SMALL_END) == 4


def test_windows_follow_the_times():
    found, _ = transcribed(times=True)
    assert found.text == SPOKEN
    # Two whole segments of 0.4 s fit into a window of 1 s; the third was cut off and is heard again by the next one.
    assert [(each.start, each.end) for each in found.segments][:3] == [(0.0, 0.4), (0.4, 0.8), (0.8, 1.2)]
    assert all(before.end <= after.start for before, after in zip(found.segments, found.segments[1:], strict=False))


@pytest.mark.parametrize("times", [False, True])
def test_overlapping_windows_are_stitched(times):
    found, runtime = transcribed(times, batch_size=8, chunking="overlap")
    assert found.text == SPOKEN and "".join(each.text for each in found.segments) == SPOKEN
    assert runtime.batches == [4] and found.windows == 4  # from 0, 0.8, 1.6 and 2.4 s on, all at once
    assert all(before.end <= after.start for before, after in zip(found.segments, found.segments[1:], strict=False))


def test_recordings_share_batches_and_get_what_they_get_alone():
    runtime, tokens = model()
    many = [Timed(recording(tokens, seconds)) for seconds in (0.5, 2.1, 3.3, 1.0)]
    Loop(runtime, tokens, batch_size=3).run(many)
    assert runtime.batches == [3, 1, 2, 2, 1]  # all four; then the two longer ones; then the last window of the longest
    for timed in many:
        alone = Timed(recording(tokens, timed.recording.seconds))
        Loop(runtime, tokens).run([alone])
        assert timed.recording.transcript() == alone.recording.transcript()
        assert alone.first is not None and timed.seconds > 0


def test_a_window_that_fails_is_its_own_recordings_error():
    runtime, tokens = model()
    plain = runtime.logits

    def logits(window, given):
        if window == 100:
            raise RuntimeError("the kernel failed")
        return plain(window, given)

    runtime.logits = logits
    short, long = Timed(recording(tokens, 0.8)), Timed(recording(tokens, 2.0))
    Loop(runtime, tokens, batch_size=2).run([short, long])
    assert short.recording.error is None and short.recording.transcript().text == SPOKEN[:10]
    assert long.recording.error.why == "RuntimeError: the kernel failed"


def test_the_text_before_is_told_to_the_next_window_only_when_asked():
    tokens = small_tokens()
    for asked in (False, True):
        each = recording(tokens, condition_on_previous_text=asked, prompt="bad")
        runtime, _ = model()
        first = each.prompt()
        assert first[0] == tokens.start_of_previous and first[1:5] == tuple(tokens.encode("bad"))
        Loop(runtime, tokens).run([Timed(each)])
        told = each._before()
        assert (tokens.decode(told[1:]) == (" bad" + SPOKEN)[-31:]) if asked else told == []  # half of the positions, less one


def test_a_prefix_is_where_the_text_goes_on():
    tokens = small_tokens()
    prompt = recording(tokens, prefix="ab").prompt()
    assert prompt == (*tokens.start("en", "transcribe", False), *tokens.encode("ab"))


def test_prompt_and_answer_must_fit():
    with pytest.raises(ItemError, match="do not fit") as caught:
        recording(small_tokens(), max_tokens=61)
    assert caught.value.reason == "context" and caught.value.fix == "--max-tokens 60"
    assert len(recording(small_tokens(), prompt="abc" * 50).prompt()) == 1 + 31 + 4  # the last ones are kept


def test_the_language_is_asked_once_for_each_recording():
    tokens = small_tokens()
    runtime, _ = model()
    plain, asked = runtime.logits, []

    def logits(window, given):
        if len(given) == 1:
            asked.append(float(window))
            found = numpy.zeros(SMALL_VOCABULARY, dtype=numpy.float32)
            found[tokens.languages["de"]] = 2.0
            found[0] = 9.0  # text is no language
            return found
        return plain(window, given)

    runtime.logits = logits
    each = recording(tokens, 2.0, language=None)
    Loop(runtime, tokens).run([Timed(each)])
    assert each.transcript().language == "de"
    # Once to detect it, and once for each of two windows, whose prompts begin with the same token.
    assert asked.count(0.0) == 2 and asked.count(100.0) == 1


def test_an_overlap_heard_with_earlier_times_does_not_go_back():
    """The second window's times end before the first one's text did: its segment is moved, never put before the other."""
    tokens = small_tokens()
    each = recording(tokens, 1.8, chunking="overlap", timestamps=True)
    runtime, _ = model()

    def logits(window, given):
        start = max(place for place, token in enumerate(given) if SMALL_END < token < SMALL_FIRST_TIMESTAMP) + 1
        letters = [[0, 1, 2], [3, 4, 5]][int(window > 0)]
        end = SMALL_FIRST_TIMESTAMP + (5 if window else 50)
        wanted = [SMALL_FIRST_TIMESTAMP, *letters, end, SMALL_END]
        found = numpy.zeros(SMALL_VOCABULARY, dtype=numpy.float32)
        found[wanted[min(len(given) - start, len(wanted) - 1)]] = 30.0
        return found

    runtime.logits = logits
    Loop(runtime, tokens).run([Timed(each)])
    first, second = each.transcript().segments
    assert (first.start, first.end) == (0.0, 1.0) and (second.start, second.end) == (1.0, 1.0)


def test_nothing_ends_after_the_audio():
    """A hundred frames are counted where the sound ends within the last of them."""
    tokens = small_tokens()
    each = recording(tokens, 1.0)
    each.seconds = 0.994
    runtime, _ = model()
    Loop(runtime, tokens).run([Timed(each)])
    assert each.transcript().segments[-1].end == each.seconds
