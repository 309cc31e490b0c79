"""When each word was said, read from where the decoder looked while it wrote the word.

    words = align(runtime, encoded, tokens, [2425, 1002], "en", "transcribe", positions=550, heads=((1, 0), (2, 1)))

Some heads of the cross-attention follow the speech. Their weights over the window's audio are standardised over the text, smoothed
by a median over time, averaged, and dynamic time warping finds the way through them that goes neither back in the text nor in time;
the place where it reaches a word's first token is where that word begins. Source: openai/whisper, ``whisper/timing.py``
(``find_alignment``, ``merge_punctuations``); warping: H. Sakoe and S. Chiba 1978.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workbench.models.speech_to_text import SpeechRuntime, Word
from workbench.models.whisper_tokens import WhisperTokens

SECONDS_PER_POSITION = 0.02
MEDIAN_WIDTH = 7
LONGEST_MEDIAN = 0.7
BEFORE_A_WORD = "\"'“¿([{-"
AFTER_A_WORD = "\"'.。,，!！?？:：”)]}、"


def align(
    runtime: SpeechRuntime,
    encoded: Any,
    tokens: WhisperTokens,
    text: Sequence[int],
    language: str | None,
    task: str,
    *,
    positions: int,
    heads: Sequence[tuple[int, int]] | None = None,
) -> list[tuple[Word, int]]:
    """The words of ``text`` (text tokens of one window, no times) with seconds from the window's start, and each one's number of tokens.

    ``encoded`` holds that window alone; ``positions`` of it are audio, the rest is padding. ``heads`` are (layer, head) pairs that follow
    speech; None: all heads of the upper half of the layers.
    """
    import numpy

    if not text:
        return []
    start = tokens.start(language, task, timestamps=False)
    whole = numpy.asarray([[*start, *text, tokens.end]], dtype=numpy.int64)
    logits = runtime.teacher_forced(encoded, whole)[0, len(start) - 1 : -2, : tokens.end]
    shifted = numpy.exp(logits - logits.max(axis=-1, keepdims=True), dtype=numpy.float64)
    chances = shifted[numpy.arange(len(text)), list(text)] / shifted.sum(axis=-1)

    weights = numpy.asarray(runtime.cross_attention(encoded, whole), dtype=numpy.float32)
    matrix = attention_matrix(weights, heads, max(1, positions))[len(start) - 1 : -1]
    rows, columns = warp(-matrix)
    first_of_row = columns[numpy.concatenate([[True], numpy.diff(rows) > 0])] * SECONDS_PER_POSITION

    found: list[tuple[Word, int]] = []
    place = 0
    for word, parts in tokens.words(text, language):
        end = place + len(parts)
        chance = float(chances[place:end].mean())
        found.append((Word(word, float(first_of_row[place]), float(first_of_row[end]), chance), len(parts)))
        place = end
    return trim(merge_punctuation(found))


def attention_matrix(weights: Any, heads: Sequence[tuple[int, int]] | None, positions: int) -> Any:
    """``weights`` (layers, heads, tokens, positions) of the heads, over the audio only, standardised, smoothed and averaged:
    float32 (tokens, positions)."""
    import numpy
    from scipy.ndimage import median_filter

    layers = weights.shape[0]
    chosen = weights[layers // 2 :].reshape(-1, *weights.shape[2:]) if heads is None else weights[tuple(zip(*heads, strict=True))]
    chosen = chosen[:, :, :positions]
    chosen = chosen / numpy.maximum(chosen.sum(axis=-1, keepdims=True), numpy.finfo(numpy.float32).tiny)
    deviation = chosen.std(axis=-2, keepdims=True)
    chosen = (chosen - chosen.mean(axis=-2, keepdims=True)) / numpy.where(deviation > 0, deviation, 1)
    if positions > MEDIAN_WIDTH // 2:
        chosen = median_filter(chosen, size=(1, 1, MEDIAN_WIDTH), mode="mirror")
    return chosen.mean(axis=0)


def warp(cost: Any) -> tuple[Any, Any]:
    """The cheapest way through ``cost`` (rows, columns) from its first cell to its last, never back: row and column of each step.

    Where ways are equally cheap a step within the row is taken, as openai/whisper takes it. Computed along the diagonals, whose cells do
    not depend on each other.
    """
    import numpy

    rows, columns = cost.shape
    total = numpy.full((rows + 1, columns + 1), numpy.inf, dtype=numpy.float32)
    came = numpy.full((rows + 1, columns + 1), 2, dtype=numpy.int8)
    total[0, 0] = 0
    for diagonal in range(2, rows + columns + 1):
        i = numpy.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        step = numpy.where((both < down) & (both < right), 0, numpy.where((down < both) & (down < right), 1, 2))
        total[i, j] = cost[i - 1, j - 1] + numpy.choose(step, (both, down, right))
        came[i, j] = step
    came[0, :], came[:, 0] = 2, 1
    path = []
    i, j = rows, columns
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    path = numpy.asarray(path[::-1])
    return path[:, 0], path[:, 1]


def merge_punctuation(words: Sequence[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Opening marks join the word after them, closing marks the word before; times and probability stay those of the word."""
    found = list(words)
    for place in range(len(found) - 2, -1, -1):
        (mark, many), (word, length) = found[place], found[place + 1]
        if mark.text.startswith(" ") and mark.text.strip() and mark.text.strip() in BEFORE_A_WORD:
            found[place : place + 2] = [(replace(word, text=mark.text + word.text), many + length)]
    place = 0
    while place + 1 < len(found):
        (word, length), (mark, many) = found[place], found[place + 1]
        if not word.text.endswith(" ") and mark.text and mark.text in AFTER_A_WORD:
            found[place : place + 2] = [(replace(word, text=word.text + mark.text), length + many)]
        else:
            place += 1
    return found


def trim(words: Sequence[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """The first and the last word of a window without the pause that the warping gives them, because it covers the whole window.

    A word there lasts at most twice the median, which is taken to be no more than 0.7 s (openai/whisper, ``add_word_timestamps``, shortens
    words beside pauses and full stops by the same measure).
    """
    found = list(words)
    lengths = sorted(word.end - word.start for word, _ in found if word.end > word.start)
    if not lengths:
        return found
    longest = 2 * min(LONGEST_MEDIAN, lengths[len(lengths) // 2])
    (first, many), (last, more) = found[0], found[-1]
    if first.end - first.start > longest:
        found[0] = (replace(first, start=first.end - longest), many)
    if len(found) > 1 and last.end - last.start > longest:
        found[-1] = (replace(last, end=last.start + longest), more)
    return found


def inside(words: Sequence[Word], start: float, end: float) -> tuple[Word, ...]:
    """The words with their times moved into ``start`` to ``end``, none before the one before it."""
    found, last = [], start
    for word in words:
        begin = min(max(word.start, last), end)
        last = min(max(word.end, begin), end)
        found.append(replace(word, start=round(begin, 3), end=round(last, 3)))
    return tuple(found)
