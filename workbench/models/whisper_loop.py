"""The shared decoding loop: recordings of any length through one model, windows of several of them together.

    loop = Loop(runtime, tokens, batch_size=8, heads=None)
    loop.run(recordings)         # afterwards each has its transcript, or its error

Windows share a batch when they are decoded alike and their prompts are equally long, so no window is padded and each gets what
it would get alone. A batch that fails is run again window by window; what fails alone is that recording's error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import RuntimeMissing
from workbench.models.answering import item_error
from workbench.models.speech_to_text import SpeechRuntime, Word
from workbench.models.whisper_fallback import Decoded, decode_windows
from workbench.models.whisper_recording import FRAMES_PER_SECOND, Recording
from workbench.models.whisper_rules import log_softmax
from workbench.models.whisper_tokens import WhisperTokens
from workbench.models.whisper_words import SECONDS_PER_POSITION, align


@dataclass
class Timed:
    """A recording with what its decoding took: seconds (a batch's time is shared out), seconds to the first token when it was alone
    from the first window on, and the largest batch that it was in."""

    recording: Recording
    seconds: float = 0.0
    first: float | None = None
    batch: int = 1


class Loop:
    """``heads``: (layer, head) pairs of the cross-attention that follow speech, for word times; None: the upper half of the layers."""

    def __init__(
        self, runtime: SpeechRuntime, tokens: WhisperTokens, batch_size: int = 1, heads: Sequence[tuple[int, int]] | None = None
    ):
        self.runtime, self.tokens, self.batch_size, self.heads = runtime, tokens, batch_size, heads

    def run(self, recordings: Sequence[Timed]) -> None:
        """Decode all windows of all recordings."""
        while jobs := [(each, start) for each in recordings for start in each.recording.ready()]:
            groups: dict[Any, list[tuple[Timed, int]]] = {}
            for timed, start in jobs:
                recording = timed.recording
                alike = replace(recording.decoding, language=None, prompt=None, prefix=None, task="transcribe")
                groups.setdefault((alike, recording.prompt_length, recording.limits), []).append((timed, start))
            for group in groups.values():
                for begin in range(0, len(group), self.batch_size):
                    self._try(group[begin : begin + self.batch_size])

    def _try(self, batch: Sequence[tuple[Timed, int]]) -> None:
        batch = [job for job in batch if job[0].recording.error is None]
        try:
            if batch:
                self._decode(batch)
        except RuntimeMissing:  # its process is gone: every further batch would fail too
            raise
        except Exception as error:  # noqa: BLE001  whatever one batch raises is that batch's failure, not the run's
            if len(batch) > 1:
                for job in batch:
                    if job[1] not in job[0].recording.heard:
                        self._try([job])
                return
            batch[0][0].recording.error = item_error(error)

    def _decode(self, batch: Sequence[tuple[Timed, int]]) -> None:
        import numpy

        began = time.perf_counter()
        recordings = [timed.recording for timed, _ in batch]
        encoded = self.runtime.encode(numpy.stack([timed.recording.window(start) for timed, start in batch]).astype(numpy.float32))
        self._detect(recordings, encoded)
        found = decode_windows(
            self.runtime,
            encoded,
            [recording.prompt() for recording in recordings],
            self.tokens,
            recordings[0].decoding,
            recordings[0].limits,
            [start for _, start in batch],
        )
        words = [
            self._words(timed.recording, start, each, encoded, row)
            for row, ((timed, start), each) in enumerate(zip(batch, found, strict=True))
        ]
        seconds = (time.perf_counter() - began) / len(batch)
        for (timed, start), each, spoken in zip(batch, found, words, strict=True):
            if len(batch) == 1 and not timed.recording.heard and each.written.first_token_at:
                timed.first = each.written.first_token_at - began
            timed.recording.take(start, each, spoken)
            timed.seconds += seconds
            timed.batch = max(timed.batch, len(batch))

    def _detect(self, recordings: Sequence[Recording], encoded: Any) -> None:
        """Give each recording that has no language yet the likeliest one of its first window."""
        rows = [row for row, recording in enumerate(recordings) if recording.language is None]
        if rows:
            part = encoded if len(rows) == len(recordings) else self.runtime.select(encoded, rows)
            for row, language in zip(rows, languages(self.runtime, part, self.tokens, len(rows)), strict=True):
                recordings[row].language = max(language, key=language.__getitem__)

    def _words(self, recording: Recording, start: int, decoded: Decoded, encoded: Any, row: int) -> list[tuple[Word, int]] | None:
        """The window's words, with times from the start of the audio."""
        if not recording.decoding.word_timestamps:
            return None
        found = recording.cut(start, decoded)
        pieces = [*found.pieces, *([found.rest] if found.rest else [])]
        text = [token for piece in pieces for token in piece.tokens if token < self.tokens.end]
        text = text[: max(0, self.runtime.text_positions - recording.prompt_length - 5)]
        words = align(
            self.runtime,
            self.runtime.select(encoded, [row]),
            self.tokens,
            text,
            recording.language,
            recording.decoding.task,
            positions=round(recording.audio_frames(start) / FRAMES_PER_SECOND / SECONDS_PER_POSITION),
            heads=self.heads,
        )
        offset = start / FRAMES_PER_SECOND
        return [(replace(word, start=word.start + offset, end=word.end + offset), length) for word, length in words]


def languages(runtime: SpeechRuntime, encoded: Any, tokens: WhisperTokens, rows: int) -> list[dict[str, float]]:
    """The probability of each language for each row, among languages alone, after ``<|startoftranscript|>``.

    Source: openai/whisper, ``whisper/decoding.py``, ``detect_language``.
    """
    import numpy

    logits, _ = runtime.start(encoded, numpy.full((rows, 1), tokens.start_of_transcript, dtype=numpy.int64))
    known = list(tokens.languages.values())
    chances = numpy.exp(log_softmax(numpy.asarray(logits[:, 0], dtype=numpy.float32)[:, known]))
    return [dict(zip(tokens.languages, map(float, row), strict=True)) for row in chances]
