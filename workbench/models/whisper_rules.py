"""What a Whisper decoder may write next: suppressed tokens, no blank at the beginning, and the grammar of timestamps.

    rules = Rules.of(tokens, decoding, window_seconds=30.0)
    rules.apply(logits, written)      # in place; ``written`` holds the tokens of each row since the prompt

The grammar: a text begins with a time; times come in pairs (the end of a segment, the beginning of the next) except before the
end token; they never go back, and a segment is longer than nothing; and where all times together are likelier than the likeliest
text token, a time comes next. Source: openai/whisper, ``whisper/decoding.py`` (``SuppressBlank``, ``SuppressTokens``, ``ApplyTimestampRules``).

mlx-whisper 0.4.3 departs from it twice: it takes the last time's place in the text for its token, so times may go back; and it
weighs times against text before anything is suppressed, so a suppressed token can keep a time from being written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import ItemError
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_tokens import SECONDS_PER_TIMESTAMP, WhisperTokens


@dataclass(frozen=True)
class Rules:
    """``always`` and ``at_begin`` are token ids; ``latest_begin`` is the last time a text may begin with, as a token."""

    always: tuple[int, ...]
    at_begin: tuple[int, ...]
    timestamps: bool
    end: int
    no_timestamps: int
    first_timestamp: int
    latest_begin: int | None

    @classmethod
    def of(cls, tokens: WhisperTokens, decoding: Decoding) -> Rules:
        """``suppress_tokens`` ``default`` is Whisper's own list; ids that are given replace it. Special tokens are suppressed always."""
        asked = tokens.non_speech if decoding.suppress_tokens == "default" else decoding.suppress_tokens
        latest = None
        if decoding.max_initial_timestamp is not None:
            latest = tokens.first_timestamp + round(decoding.max_initial_timestamp / SECONDS_PER_TIMESTAMP)
        return cls(
            always=tuple(sorted({*asked, *tokens.never_written})),
            at_begin=(*tokens.pieces(" "), tokens.end) if decoding.suppress_blank else (),
            timestamps=decoding.timestamps,
            end=tokens.end,
            no_timestamps=tokens.no_timestamps,
            first_timestamp=tokens.first_timestamp,
            latest_begin=latest,
        )

    def apply(self, logits: Any, written: Sequence[Sequence[int]]) -> Any:
        """``logits`` float32 (rows, vocabulary), changed in place: minus infinity for what may not come next. Returned too."""
        import numpy

        logits[:, list(self.always)] = -numpy.inf
        for row, text in zip(logits, written, strict=True):
            if not text and self.at_begin:
                row[list(self.at_begin)] = -numpy.inf
            if self.timestamps:
                self._timestamps(row, text)
        return logits

    def _timestamps(self, row: Any, text: Sequence[int]) -> None:
        import numpy

        first = self.first_timestamp
        row[self.no_timestamps] = -numpy.inf
        last = len(text) >= 1 and text[-1] >= first
        before = len(text) < 2 or text[-2] >= first
        if last:
            if before:
                row[first:] = -numpy.inf
            else:
                row[: self.end] = -numpy.inf
        times = [token for token in text if token >= first]
        if times:
            # The second of a pair may equal the first; any other time must be later.
            row[first : times[-1] if last and not before else times[-1] + 1] = -numpy.inf
        if not text:
            row[:first] = -numpy.inf
            if self.latest_begin is not None:
                row[self.latest_begin + 1 :] = -numpy.inf
        if row[first:].max() > -numpy.inf and log_sum(row[first:]) > row[:first].max():
            row[:first] = -numpy.inf


def log_sum(values: Any) -> float:
    """The logarithm of the sum of exponentials of a vector that holds at least one finite value."""
    import numpy

    top = values.max()
    return float(top + numpy.log(numpy.exp(values - top, dtype=numpy.float64).sum()))


def log_softmax(logits: Any) -> Any:
    """Row-wise, float32 (rows, vocabulary). Raises ItemError for logits that are no numbers, of which a greedy choice would make text."""
    import numpy

    top = logits.max(axis=-1, keepdims=True)
    if numpy.isnan(top).any():  # the maximum is no number where any value is none
        raise ItemError(
            "the model computed no numbers",
            reason="model",
            why="its logits hold NaN: damaged weights, or a range that float16 does not have",
            fix="?dtype=float32",
        )
    shifted = logits - top
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=-1, keepdims=True, dtype=numpy.float64)).astype(shifted.dtype)
