"""Decoding one window of audio, and decoding it again when the text shows that the first attempt went wrong.

    decoded = decode_windows(runtime, encoded, prompts, tokens, decoding, limits, places=[0, 3000])

A text that repeats itself compresses well, and one that the model does not believe has a low mean log-probability; either is
tried again at the next temperature. A window is silent when two things hold: the model gives silence a high probability, and it
does not believe the text either. Source: openai/whisper, ``whisper/transcribe.py`` (``decode_with_fallback`` and the loop after
it); A. Radford et al., arXiv 2212.04356, section 4.5. mlx-whisper 0.4.3 does not try again as soon as the first of the two holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.models.speech_to_text import Decoding, SpeechRuntime
from workbench.models.whisper_rules import Rules
from workbench.models.whisper_search import Limits, Written, beam, best, greedy
from workbench.models.whisper_tokens import WhisperTokens


@dataclass(frozen=True)
class Decoded:
    """One window's text: what was written, at which temperature, and whether nobody speaks in it."""

    written: Written
    temperature: float
    compression_ratio: float
    silent: bool


def decode_windows(
    runtime: SpeechRuntime,
    encoded: Any,
    prompts: Sequence[Sequence[int]],
    tokens: WhisperTokens,
    decoding: Decoding,
    limits: Limits,
    places: Sequence[int],
) -> list[Decoded]:
    """One result a window, in order. ``prompts`` have equal lengths; ``places`` are the windows' first frames in their audio, which
    seed what is drawn, so that a window's text does not depend on the windows beside it."""
    rules = Rules.of(tokens, decoding)
    start = list(prompts[0]).index(tokens.start_of_transcript)
    no_speech = None if tokens.no_speech is None else (start, tokens.no_speech)
    found: list[Decoded | None] = [None] * len(prompts)
    waiting = list(range(len(prompts)))
    for step, temperature in enumerate(decoding.temperatures):
        part = encoded if len(waiting) == len(prompts) else runtime.select(encoded, waiting)
        rows = [prompts[index] for index in waiting]
        written = _attempt(
            runtime, part, rows, rules, limits, decoding, temperature, [places[index] for index in waiting], no_speech
        )
        for index, each in zip(waiting, written, strict=True):
            text = tokens.decode(each.text_tokens).strip()
            silent = is_silent(each.no_speech, each.average_logprob, decoding)
            found[index] = Decoded(each, temperature, compression_ratio(text), silent)
        last = step + 1 == len(decoding.temperatures)
        waiting = [] if last else [index for index in waiting if goes_wrong(found[index], decoding)]
        if not waiting:
            break
    return found  # type: ignore[return-value]  the first temperature filled every place


def _attempt(
    runtime: SpeechRuntime,
    encoded: Any,
    prompts: Sequence[Sequence[int]],
    rules: Rules,
    limits: Limits,
    decoding: Decoding,
    temperature: float,
    places: Sequence[int],
    no_speech: tuple[int, int] | None,
) -> list[Written]:
    """Each window at one temperature: beams at 0, the best of several samples above it, else one text."""
    import numpy

    def random(place: int, sample: int) -> Any:
        return numpy.random.default_rng([decoding.seed, place, round(temperature * 1e6), sample])

    def alone(row: int) -> Any:
        return encoded if len(prompts) == 1 else runtime.select(encoded, [row])

    if temperature == 0 and decoding.beam_size:
        return [
            beam(
                runtime,
                alone(row),
                prompt,
                rules,
                limits,
                size=decoding.beam_size,
                patience=decoding.patience,
                length_penalty=decoding.length_penalty,
                no_speech=no_speech,
            )
            for row, prompt in enumerate(prompts)
        ]
    if temperature > 0 and decoding.best_of and decoding.best_of > 1:
        samples = range(decoding.best_of)
        texts = [
            greedy(
                runtime,
                alone(row),
                [prompt for _ in samples],
                rules,
                limits,
                temperature=temperature,
                random=[random(places[row], sample) for sample in samples],
                no_speech=no_speech,
            )
            for row, prompt in enumerate(prompts)
        ]
        return [best(each, decoding.length_penalty) for each in texts]
    draws = [random(place, 0) for place in places] if temperature > 0 else None
    return greedy(runtime, encoded, prompts, rules, limits, temperature=temperature, random=draws, no_speech=no_speech)


def goes_wrong(decoded: Decoded, decoding: Decoding) -> bool:
    """Whether the window is to be tried again: too repetitive or too unlikely, and not silent."""
    if decoded.silent:
        return False
    most, least = decoding.compression_ratio_threshold, decoding.logprob_threshold
    return (most is not None and decoded.compression_ratio > most) or (
        least is not None and decoded.written.average_logprob < least
    )


def is_silent(no_speech: float | None, average_logprob: float, decoding: Decoding) -> bool:
    """Both: silence is likelier than its threshold, and the text no likelier than its own.

    Without a ``logprob_threshold`` the first decides alone, without a ``no_speech_threshold`` nothing is silent.
    """
    if no_speech is None or decoding.no_speech_threshold is None or no_speech <= decoding.no_speech_threshold:
        return False
    return decoding.logprob_threshold is None or average_logprob <= decoding.logprob_threshold


def compression_ratio(text: str) -> float:
    """Bytes of the text for each byte of its zlib compression; above 2.4 it repeats itself. 0 for no text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
