"""Audio for the page: the recorded bytes as data URLs, those of flipped utterances first.

    sounds = Sounds(runs)
    sounds.find("asr-sample", "17", "9f2c...")     # 0: the first sound kept, or a Missing that says why there is none

A sound is embedded as it was recorded, undecoded. What it is called is told by its own first bytes and never by a name, only kinds that
browsers play are taken, and the page's policy lets nothing but an audio element use it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.errors import ItemError
from workbench.parity.comparison import Comparison
from workbench.report.embedding import Embedded, Words
from workbench.run.bundle import Run
from workbench.run.media_files import HEAD_BYTES, audio_suffix
from workbench.types import Media

BUDGET_BYTES = 24_000_000
"""Characters of all sounds of a page, in base64."""

PLAIN_BYTES = 3_000_000
"""Once the page holds this much, utterances on which nothing changed get no player."""

LARGEST_BYTES = 6_000_000
"""Of one sound, encoded; a longer one stays in the bundle."""

MOST_SOUNDS = 4_000
TYPES = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg"}


@dataclass(frozen=True)
class Sound:
    """A sound as the page holds it: a data URL."""

    sha256: str
    url: str


class Sounds(Embedded):
    """The sounds of one page."""

    words = Words("audio", "audio was")
    most = MOST_SOUNDS

    def __init__(self, runs: Iterable[Run], budget: int = BUDGET_BYTES, wanted: bool = True):
        super().__init__(runs, budget, wanted)

    def made(self, media: Media, sha256: str) -> Sound:
        data = media.read()
        kind = audio_suffix(data[:HEAD_BYTES])
        if kind is None:
            raise ItemError("this is no sound", reason="audio", why="no audio format that browsers play")
        if len(data) > LARGEST_BYTES:
            raise ItemError(
                "this sound is too long for a page", reason="audio", why=f"it is larger than {LARGEST_BYTES / 1e6:g} MB"
            )
        return Sound(sha256, f"data:{TYPES[kind]};base64,{base64.b64encode(data).decode()}")

    def reserve(self, comparisons: Iterable[Comparison]) -> None:
        """Take the sounds of every flipped utterance first, whichever candidate shows it."""
        for comparison in comparisons:
            for pair in comparison.flips:
                if pair.of_speech:
                    for sha256 in (pair.reference.get("input") or {}).get("media") or ():
                        self.find(pair.task, pair.id, sha256)
