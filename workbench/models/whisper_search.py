"""From logits to tokens: greedy, sampling, and beam search over an encoder-decoder on any runtime.

    found = greedy(runtime, encoded, [prompt, prompt], rules, Limits(224, 448))       # one Written a row
    found = beam(runtime, one_encoded, prompt, rules, Limits(224, 448), size=5)       # the best Written

Choices are made in numpy from the runtime's logits, so equal logits give equal tokens whichever runtime computed them, and a row
of a batch draws the same random numbers as it would alone. Source of the rules: openai/whisper, ``whisper/decoding.py``
(``GreedyDecoder``, ``BeamSearchDecoder``, ``MaximumLikelihoodRanker``); patience: J. Kasai et al., arXiv 2204.05424.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.models.sampling import draw
from workbench.models.speech_to_text import SpeechRuntime
from workbench.models.whisper_rules import Rules, log_softmax


@dataclass(frozen=True)
class Limits:
    """``tokens``: new ones, the end token counted. ``positions``: what prompt and new ones share."""

    tokens: int
    positions: int

    def room(self, prompt: int) -> int:
        return min(self.tokens, self.positions - prompt)


@dataclass(frozen=True)
class Written:
    """What the decoder wrote for one window: ``tokens`` with the end token where it came (``ended``).

    ``first_token_at`` is a reading of ``time.perf_counter``; ``no_speech`` a probability, None where the model has no such token.
    """

    tokens: tuple[int, ...]
    sum_logprob: float
    ended: bool
    no_speech: float | None = None
    first_token_at: float | None = None

    @property
    def text_tokens(self) -> tuple[int, ...]:
        """Without the end token; times are among them."""
        return self.tokens[:-1] if self.ended else self.tokens

    @property
    def average_logprob(self) -> float:
        """Per token, the end token counted: also where it did not come (openai/whisper, ``DecodingTask.run``)."""
        return self.sum_logprob / (len(self.text_tokens) + 1)

    def rank(self, length_penalty: float | None) -> float:
        """By which candidates are compared: log-probability per text token, or Google NMT's penalty (arXiv 1609.08144, equation 14)."""
        length = len(self.text_tokens)
        penalty = max(length, 1) if length_penalty is None else ((5 + length) / 6) ** length_penalty
        return self.sum_logprob / penalty


def greedy(
    runtime: SpeechRuntime,
    encoded: Any,
    prompts: Sequence[Sequence[int]],
    rules: Rules,
    limits: Limits,
    *,
    temperature: float = 0.0,
    random: Sequence[Any] | None = None,
    no_speech: tuple[int, int] | None = None,
) -> list[Written]:
    """One text a row: the likeliest token each time, or at a temperature above 0 one drawn with the row's ``random`` generator.

    ``prompts`` have equal lengths; ``encoded`` has as many rows, or one for all. ``no_speech`` says where its probability is
    read: (place in the prompt, token). The log-probabilities are those at temperature 1, of what the rules leave.
    """
    import numpy

    rows = len(prompts)
    room = limits.room(len(prompts[0]))
    logits, cache = runtime.start(encoded, numpy.asarray(prompts, dtype=numpy.int64))
    silent = silence(logits, no_speech)
    logits = numpy.array(logits[:, -1], dtype=numpy.float32)
    written: list[list[int]] = [[] for _ in range(rows)]
    totals, live, first = [0.0] * rows, [True] * rows, None
    for count in range(1, room + 1):
        scores = log_softmax(rules.apply(logits, written))
        if temperature > 0:
            chosen = [draw(row, temperature, random[index]) if live[index] else rules.end for index, row in enumerate(scores)]
        else:
            chosen = scores.argmax(axis=-1).tolist()
        first = first or time.perf_counter()
        for index, token in enumerate(chosen):
            if live[index]:
                written[index].append(token)
                totals[index] += float(scores[index, token])
                live[index] = token != rules.end
        if not any(live) or count == room:
            break
        following = numpy.asarray([[texts[-1]] for texts in written], dtype=numpy.int64)
        logits, cache = runtime.step(following, cache)
        logits = numpy.array(logits, dtype=numpy.float32)
    return [
        Written(tuple(texts), total, not going, quiet, first)
        for texts, total, going, quiet in zip(written, totals, live, silent, strict=True)
    ]


def beam(
    runtime: SpeechRuntime,
    encoded: Any,
    prompt: Sequence[int],
    rules: Rules,
    limits: Limits,
    *,
    size: int,
    patience: float | None = None,
    length_penalty: float | None = None,
    no_speech: tuple[int, int] | None = None,
) -> Written:
    """The best of the texts that ``size`` beams find for one window; the search ends when ``size`` x ``patience`` texts have ended."""
    import numpy

    wanted = max(1, round(size * (patience or 1.0)))
    room = limits.room(len(prompt))
    logits, cache = runtime.start(encoded, numpy.asarray([prompt], dtype=numpy.int64))
    (silent,) = silence(logits, no_speech)
    logits = numpy.array(logits[:, -1], dtype=numpy.float32)
    texts: list[tuple[int, ...]] = [()]
    totals = [0.0]
    ended: dict[tuple[int, ...], float] = {}
    first = None
    for count in range(1, room + 1):
        scores = log_softmax(rules.apply(logits, texts))
        candidates: dict[tuple[int, ...], tuple[float, int]] = {}
        for row, (text, total) in enumerate(zip(texts, totals, strict=True)):
            for token in _largest(scores[row], size + 1):
                candidates[(*text, token)] = (total + float(scores[row, token]), row)
        first = first or time.perf_counter()
        ranked = sorted(candidates.items(), key=lambda pair: pair[1][0], reverse=True)
        kept: list[tuple[tuple[int, ...], float, int]] = []
        new: dict[tuple[int, ...], float] = {}
        for text, (total, row) in ranked:
            if text[-1] == rules.end:
                new[text] = total
            else:
                kept.append((text, total, row))
                if len(kept) == size:
                    break
        for text, total in new.items():  # the likeliest first
            if len(ended) < wanted:
                ended[text] = total
        texts, totals = [text for text, _, _ in kept], [total for _, total, _ in kept]
        if len(ended) >= wanted or not kept or count == room:
            break
        cache = runtime.reorder(cache, [row for _, _, row in kept])
        logits, cache = runtime.step(numpy.asarray([[text[-1]] for text in texts], dtype=numpy.int64), cache)
        logits = numpy.array(logits, dtype=numpy.float32)
    found = [Written(text, total, True, silent, first) for text, total in ended.items()]
    if len(found) < size:
        found += [Written(text, total, False, silent, first) for text, total in zip(texts, totals, strict=True)][
            : size - len(found)
        ]
    return best(found, length_penalty)


def best(found: Sequence[Written], length_penalty: float | None = None) -> Written:
    """The candidate with the highest rank, the first of equals."""
    return max(found, key=lambda each: each.rank(length_penalty))


def silence(logits: Any, where: tuple[int, int] | None) -> list[float | None]:
    """The probability of each row that nobody speaks: at (place, token) of the raw logits over the prompt."""
    import numpy

    if where is None:
        return [None] * len(logits)
    place, token = where
    rows = log_softmax(numpy.asarray(logits[:, place], dtype=numpy.float32))
    return [float(value) for value in numpy.exp(rows[:, token])]


def _largest(scores: Any, count: int) -> list[int]:
    """The places of the largest values that are not minus infinity, largest first."""
    import numpy

    count = min(count, scores.shape[0])
    places = numpy.argpartition(scores, -count)[-count:]
    places = places[numpy.argsort(-scores[places], kind="stable")]
    return [int(place) for place in places if scores[place] > -numpy.inf]
