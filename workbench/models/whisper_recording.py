"""One recording on its way through the model: which window comes next, with which prompt, and what was heard so far.

    recording = Recording(mel, frames_of_audio, decoding, tokens, limits, window=3000)
    while starts := recording.ready():
        for start in starts:
            recording.take(start, decoded)          # of recording.window(start) after recording.prompt()
    recording.transcript()

``sequential`` windows begin where the last finished sentence ended (without timestamps: where the last window ended), so
each waits for the one before it. ``overlap`` windows are known at once and share a fifth with their neighbours; their texts are stitched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import ItemError
from workbench.models.speech_to_text import Decoding, Segment, Transcript, Word
from workbench.models.whisper_fallback import Decoded
from workbench.models.whisper_search import Limits
from workbench.models.whisper_segments import Cut, Piece, cut
from workbench.models.whisper_stitch import stitch
from workbench.models.whisper_tokens import WhisperTokens
from workbench.models.whisper_words import inside

FRAMES_PER_SECOND = 100
OVERLAP = 5
"""Overlapping windows share one part in so many with the next."""

HOT = 0.5
"""Text drawn at a higher temperature is not told to the next window (openai/whisper, ``whisper/transcribe.py``)."""


@dataclass
class Heard:
    """One window's result; ``words`` are its words in order, each with its number of tokens."""

    decoded: Decoded
    cut: Cut
    words: list[tuple[Word, int]] | None = None


@dataclass
class Recording:
    """``mel`` float32 (mels, frames), at least one window long; ``length`` of its frames are audio, the rest is silence after it.

    Raises ItemError(reason="context") when prompt and new tokens do not fit into the decoder.
    """

    mel: Any
    length: int
    seconds: float
    decoding: Decoding
    tokens: WhisperTokens
    limits: Limits
    window_frames: int
    language: str | None = None
    heard: dict[int, Heard] = field(default_factory=dict)
    error: ItemError | None = None

    def __post_init__(self):
        self.language = self.decoding.language if self.tokens.languages else (self.decoding.language or "en")
        self._told: list[int] = self.tokens.encode(self.decoding.prompt) if self.decoding.prompt else []
        self._told_from = 0
        self._next: int | None = 0
        self.prompt_tokens = 0
        if self.language is not None:
            self.start_tokens()  # a language that the model does not know is said before anything is computed
        needed = self.prompt_length + self.limits.tokens
        if needed > self.limits.positions:
            raise ItemError(
                f"{self.prompt_length} prompt tokens and {self.limits.tokens} new ones do not fit",
                reason="context",
                why=f"the model has {self.limits.positions} positions",
                fix=f"--max-tokens {max(1, self.limits.positions - self.prompt_length)}",
            )

    def ready(self) -> list[int]:
        """First frames of the windows that can be decoded now."""
        if self.error:
            return []
        if self.decoding.chunking == "overlap":
            step = self.window_frames - self.window_frames // OVERLAP
            last = max(0, self.length - self.window_frames)
            return [start for start in range(0, last + step, step) if start not in self.heard and start < max(self.length, 1)]
        return [self._next] if self._next is not None and self._next < max(self.length, 1) else []

    def window(self, start: int) -> Any:
        """The log-mel from frame ``start`` on, float32 (mels, window frames)."""
        import numpy

        found = self.mel[:, start : start + self.window_frames]
        missing = self.window_frames - found.shape[1]
        # The least value is that of digital silence, which every sound is followed by.
        return found if missing <= 0 else numpy.pad(found, ((0, 0), (0, missing)), constant_values=self.mel.min())

    def audio_frames(self, start: int) -> int:
        """Frames of the window that are audio."""
        return max(1, min(self.window_frames, self.length - start))

    def start_tokens(self) -> tuple[int, ...]:
        return self.tokens.start(self.language, self.decoding.task, self.decoding.timestamps)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt; known before the language is."""
        start = (3 if self.tokens.languages else 1) + (0 if self.decoding.timestamps else 1)
        return len(self._before()) + start + len(self._prefix())

    def prompt(self) -> tuple[int, ...]:
        """The text before this window (or the user's prompt), then what to do, then the text's given beginning."""
        return (*self._before(), *self.start_tokens(), *self._prefix())

    def _before(self) -> list[int]:
        told = self._told[self._told_from :]
        return [self.tokens.start_of_previous, *told[-(self.limits.positions // 2 - 1) :]] if told else []

    def _prefix(self) -> list[int]:
        return self.tokens.encode(self.decoding.prefix) if self.decoding.prefix else []

    def cut(self, start: int, decoded: Decoded) -> Cut:
        """The pieces of a window's text."""
        seconds = min(self.audio_frames(start) / FRAMES_PER_SECOND, self.seconds - start / FRAMES_PER_SECOND)
        if decoded.silent:
            return Cut((), seconds)
        return cut(decoded.written.text_tokens, self.tokens.first_timestamp, start / FRAMES_PER_SECOND, seconds)

    def take(self, start: int, decoded: Decoded, words: list[tuple[Word, int]] | None = None) -> None:
        """Note a window's text; the next window follows from it."""
        found = self.cut(start, decoded)
        self.prompt_tokens += self.prompt_length
        self.heard[start] = Heard(decoded, found, words)
        if self.decoding.chunking == "overlap":
            return
        self._next = start + max(1, round(found.advance * FRAMES_PER_SECOND))
        if not decoded.silent:
            self._told += [token for piece in found.pieces for token in piece.tokens]
            if not self.decoding.condition_on_previous_text or decoded.temperature > HOT:
                self._told_from = len(self._told)

    def transcript(self) -> Transcript:
        """What was said, from all windows. ``tokens`` are theirs as they were decoded, unfinished sentences and silent windows too."""
        order = sorted(self.heard)
        windows = [self.heard[start] for start in order]
        overlap = self.decoding.chunking == "overlap" and len(windows) > 1
        pieces = [[*each.cut.pieces, *([each.cut.rest] if overlap and each.cut.rest else [])] for each in windows]
        texts = [[token for piece in found for token in self._text(piece)] for found in pieces]
        spans = stitch(texts, 1 / OVERLAP) if overlap else [(0, len(text)) for text in texts]
        segments: list[Segment] = []
        kept: list[int] = []
        for each, found, text, span in zip(windows, pieces, texts, spans, strict=True):
            kept += text[slice(*span)]
            segments += self._segments(each, found, span, segments[-1].end if segments and overlap else 0.0)
        written = [each.decoded.written for each in windows]
        return Transcript(
            text=self.tokens.decode(kept),
            language=self.language,
            segments=tuple(segments),
            tokens=tuple(token for each in written for token in each.tokens),
            windows=len(windows),
            audio_seconds=self.seconds,
            finish="stop" if all(each.ended for each in written) else "length",
        )

    def _segments(self, heard: Heard, pieces: Sequence[Piece], span: tuple[int, int], after: float) -> list[Segment]:
        """The segments of one window, of its text tokens from ``span[0]`` to ``span[1]``; none begins before ``after``."""
        found: list[Segment] = []
        place = 0
        words = list(heard.words or ())
        spoken = 0  # text tokens before words[0]
        for piece in pieces:
            text = self._text(piece)
            here = text[max(0, span[0] - place) : max(0, span[1] - place)]
            place += len(text)
            mine: list[Word] = []
            while words and spoken < place:
                word, length = words.pop(0)
                if span[0] <= spoken < span[1]:
                    mine.append(word)
                spoken += length
            said = self.tokens.decode(here)
            start = max(piece.start, after)
            end = max(piece.end, start)
            if not said.strip():
                continue
            found.append(
                Segment(
                    start=round(start, 3),
                    end=round(end, 3),
                    text=said,
                    tokens=piece.tokens if len(here) == len(text) else tuple(here),
                    average_logprob=heard.decoded.written.average_logprob,
                    no_speech_probability=heard.decoded.written.no_speech,
                    compression_ratio=heard.decoded.compression_ratio,
                    temperature=heard.decoded.temperature,
                    words=None if heard.words is None else inside(mine, start, end),
                )
            )
        return found

    def _text(self, piece: Piece) -> list[int]:
        return [token for token in piece.tokens if token < self.tokens.end]
