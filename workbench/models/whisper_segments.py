"""From a window's tokens to stretches of speech with times, and how far the next window begins after it.

    cut(tokens_of_the_window, 50364, offset=30.0, seconds=30.0)     # Cut(pieces=[Piece(30.0, 32.4, tokens)], advance=2.4)

Two times in a row end one segment and begin the next. What follows the last pair was cut off by the window's end, so the next
window begins there. Source: openai/whisper, ``whisper/transcribe.py``, the loop over windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.models.whisper_tokens import SECONDS_PER_TIMESTAMP


@dataclass(frozen=True)
class Piece:
    """Tokens, times among them, that were said from ``start`` to ``end`` (seconds of the audio)."""

    start: float
    end: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """``advance``: seconds from this window's start to the next one's. ``rest``: what follows the last pair of times, if anything."""

    pieces: tuple[Piece, ...]
    advance: float
    rest: Piece | None = None


def cut(tokens: Sequence[int], first_timestamp: int, offset: float, seconds: float) -> Cut:
    """The pieces of one window that begins at ``offset`` and holds ``seconds`` of the audio; ``tokens`` without the end token.

    No piece ends after the window's audio, and the next window always begins later than this one. A single piece begins with its first
    time; openai/whisper lets it begin with the window.
    """
    times = [token >= first_timestamp for token in tokens]
    ends_with_one = times[-2:] == [False, True]
    pairs = [place for place in range(1, len(tokens)) if times[place - 1] and times[place]]

    def at(token: int) -> float:
        return min((token - first_timestamp) * SECONDS_PER_TIMESTAMP, seconds)

    if not pairs:
        said = [token for token, is_time in zip(tokens, times, strict=True) if is_time]
        end = at(said[-1]) if said and said[-1] != first_timestamp else seconds
        begin = at(said[0]) if said and times[0] and len(said) > 1 else 0.0
        return Cut((Piece(offset + begin, offset + end, tuple(tokens)),), seconds)
    places = [0, *pairs, *([len(tokens)] if ends_with_one else [])]
    pieces = tuple(
        Piece(offset + at(tokens[start]), offset + at(tokens[end - 1]), tuple(tokens[start:end]))
        for start, end in zip(places, places[1:], strict=False)
    )
    if ends_with_one:
        return Cut(pieces, seconds)
    last = at(tokens[places[-1] - 1])
    rest = Piece(offset + at(tokens[places[-1]]), offset + seconds, tuple(tokens[places[-1] :]))
    return Cut(pieces, last if last > 0 else seconds, rest)
