"""The speech-to-text family: sound in, text out, with the times at which it was said.

model = open_speech_to_text(ModelSpec.parse("demo:stt@torch"))
model.transcribe(Media(path="talk.flac", kind="audio"), Decoding(timestamps=True)).text
model.answer([Request({"audio": media, "language": "en", "task": "transcribe"}, "asr-1")], Generation(max_tokens=224))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workbench.errors import UsageError
from workbench.types import Generation, Media, ModelSpec, Output, Request

FAMILY = "speech-to-text"


@dataclass(frozen=True, slots=True)
class Decoding:
    """How speech becomes text. The defaults are greedy and without fallback: the same audio gives the same tokens.

    ``language`` None lets the model detect it. ``temperatures`` are tried in turn while a window's text is too repetitive
    (``compression_ratio_threshold``) or too unlikely (``logprob_threshold``). A window counts as silent only when both hold: its
    no-speech probability is above ``no_speech_threshold`` and its mean log-probability below ``logprob_threshold``.
    ``beam_size`` searches at temperature 0, ``best_of`` samples so many at others. Values and rules: A. Radford et al.,
    arXiv 2212.04356, section 4.5; openai/whisper ``whisper/decoding.py``, ``whisper/transcribe.py``.
    """

    language: str | None = "en"
    task: Literal["transcribe", "translate"] = "transcribe"
    timestamps: bool = False
    word_timestamps: bool = False
    temperatures: tuple[float, ...] = (0.0,)
    beam_size: int | None = None
    best_of: int | None = None
    patience: float | None = None
    length_penalty: float | None = None
    prompt: str | None = None
    prefix: str | None = None
    suppress_tokens: tuple[int, ...] | Literal["default"] = "default"
    suppress_blank: bool = True
    max_initial_timestamp: float | None = 1.0
    max_tokens: int = 224
    no_speech_threshold: float | None = 0.6
    logprob_threshold: float | None = -1.0
    compression_ratio_threshold: float | None = 2.4
    condition_on_previous_text: bool = False
    chunking: Literal["sequential", "overlap"] = "sequential"
    seed: int = 0

    def __post_init__(self):
        """Raises UsageError for what cannot be meant."""
        for name in ("beam_size", "best_of", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if not self.temperatures or any(each < 0 for each in self.temperatures):
            raise UsageError(f"temperatures must be numbers from 0 on, not {self.temperatures}", fix="temperatures=0,0.2,0.4")
        if self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
            raise UsageError(f"length_penalty must be from 0 to 1, not {self.length_penalty}")
        if self.patience is not None and self.patience <= 0:
            raise UsageError(f"patience must be above 0, not {self.patience}")
        for name, known in (("task", ("transcribe", "translate")), ("chunking", ("sequential", "overlap"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} cannot be {getattr(self, name)!r}", why=f"known: {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Word:
    """``text`` with its leading space, seconds from the start of the audio, and the mean probability of its tokens."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech; times in seconds from the start of the audio."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    average_logprob: float | None = None
    no_speech_probability: float | None = None
    compression_ratio: float | None = None
    temperature: float = 0.0
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """``tokens`` are the text tokens of all windows with each window's end token, as they were decoded; ``windows`` says how many.

    ``loop`` names whose decoding it was: ``shared``, or a library's own (``mlx_whisper.transcribe``).
    """

    text: str
    language: str | None
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    windows: int
    audio_seconds: float
    finish: Literal["stop", "length"] = "stop"
    loop: str = "shared"


class SpeechRuntime(Protocol):
    """One encoder-decoder speech model on one runtime, as the shared decoding loop drives it. Everything crosses as numpy.

    An encoder and a decoder step exported to another runtime need no more than this to be decoded like the rest.
    """

    mels: int
    frames: int
    """Mel frames a window holds (Whisper: 3000); ``frames // 2`` encoder positions."""
    text_positions: int
    vocabulary: int

    def encode(self, mel: Any) -> Any:
        """``mel`` float32 (batch, mels, frames) -> the encoder's output, in whatever form the runtime keeps it."""
        ...

    def start(self, encoded: Any, tokens: Any) -> tuple[Any, Any]:
        """``tokens`` int64 (batch, n) -> (logits float32 (batch, n, vocabulary), cache).

        ``encoded`` has as many rows as ``tokens``, or one that serves every row.
        """
        ...

    def step(self, tokens: Any, cache: Any) -> tuple[Any, Any]:
        """The next token of each row, int64 (batch, 1) -> (logits float32 (batch, vocabulary), cache)."""
        ...

    def reorder(self, cache: Any, rows: Sequence[int]) -> Any:
        """The cache whose row i was row ``rows[i]``: a beam search keeps, drops and repeats rows."""
        ...

    def select(self, encoded: Any, rows: Sequence[int]) -> Any:
        """The encoder's output of these rows, in this order; a row may be asked for more than once."""
        ...

    def teacher_forced(self, encoded: Any, tokens: Any) -> Any:
        """Logits float32 (batch, n, vocabulary) of ``tokens`` int64 (batch, n) in one pass, without a cache."""
        ...

    def cross_attention(self, encoded: Any, tokens: Any) -> Any:
        """Attention weights float32 (layers, heads, n, positions) of one row of tokens (1, n) over the encoder's positions."""
        ...


class SpeechToText(Protocol):
    """A loaded model. ``answer`` never raises for one bad item: its Output carries the error."""

    spec: ModelSpec
    batch_size: int

    def transcribe(self, audio: Media, decoding: Decoding = ...) -> Transcript:
        """Audio of any length. Raises ItemError for audio that cannot be used."""
        ...

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order; up to ``batch_size`` requests are run together."""
        ...

    def prepare(self, request: Request) -> Any:
        """What the model is given: ``.arrays`` (``input_features`` (1, mels, frames) or ``input_values``, and ``input_ids`` (1, n): the
        decoder's prompt), ``.prompt`` (that prompt as text), ``.length`` (its tokens). Raises ItemError."""
        ...

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """The logits that predict each of ``tokens`` in turn, numpy float32 (len(tokens), vocabulary). Raises ItemError."""
        ...

    def logits(self, prepared: Any) -> Any:
        """The logits at every position of ``prepared``'s tokens, numpy (positions, vocabulary)."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was really loaded: library, dtype, device, parameters, decoding, quantisation, log-mel, stop ids."""
        ...

    def close(self) -> None: ...
