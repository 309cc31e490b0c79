"""Profiles: what is done to a reference and a transcript before their words are compared, and how words are matched.

    profile = profile_named("whisper")
    profile.normalise("Mr. Smith's colour TV costs $20 million")     # "mister smith is color tv costs $20000000"
    profile.normaliser("de").id                                       # "whisper-basic"
    normalise_many(texts, profile, processes=4)                       # each distinct text once, over processes

One set of transcripts scores 5.04 % or 5.39 % depending on these rules alone (open_asr_leaderboard#164), so a rate is always shown
with its profile and the normaliser's id and version. A version changes whenever any text would come out differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from workbench.errors import UsageError
from workbench.metrics.normalise.basic import WRITTEN_WITHOUT_SPACES, basic
from workbench.metrics.normalise.english import leaderboard_english, whisper_english

CACHED = 1 << 17
KNOWN: dict[tuple[str, str, str], str] = {}
MANY = 20_000
IGNORED_REFERENCE = "ignore time segment in scoring"


@dataclass(frozen=True)
class Normaliser:
    """A function from text to text with a name: ``id``, ``version`` (ours), ``source`` (whose rules, at which commit)."""

    id: str
    version: str
    source: str
    function: Callable[[str], str]

    def as_json(self) -> dict[str, str]:
        return {"id": self.id, "version": self.version, "source": self.source}


@dataclass(frozen=True)
class Profile:
    """How transcripts are compared. ``merge_compounds``: adjacent words may join to equal one of the other side. ``drops_empty``: an
    utterance whose normalised reference is empty, or says "ignore time segment in scoring", is left out."""

    name: str
    description: str
    choose: Callable[[str | None], Normaliser]
    merge_compounds: bool = False
    drops_empty: bool = False

    def normaliser(self, language: str | None = "en") -> Normaliser:
        """The normaliser for a language (``en``, ``de``, ``english``, ``pt-BR``; None: English). Raises UsageError where it has none."""
        return self.choose(language)

    def normalise(self, text: str, language: str | None = "en") -> str:
        """Words joined by single spaces. Results are kept, since transcripts repeat and a corpus is scored more than once."""
        key = (self.name, code(language), text)
        found = KNOWN.get(key)
        if found is None:
            found = " ".join(self.normaliser(language).function(text).split())
            if len(KNOWN) >= CACHED:
                KNOWN.pop(next(iter(KNOWN)))
            KNOWN[key] = found
        return found

    def remember(self, texts: Sequence[str], normalised: Sequence[str], language: str | None = "en") -> None:
        """Keep what another process has made of ``texts``: all of it, however much there is."""
        KNOWN.update(((self.name, code(language), text), done) for text, done in zip(texts, normalised, strict=True))

    def drops(self, normalised_reference: str) -> bool:
        return self.drops_empty and normalised_reference.strip() in ("", IGNORED_REFERENCE)


def code(language: str | None) -> str:
    """``English``, ``en-US`` and None are ``en``."""
    short = (language or "en").lower().replace("_", "-").split("-")[0]
    return "en" if short == "english" else short


@cache
def whisper(language: str | None) -> Normaliser:
    source = "openai/whisper at c0d2f62"
    short = code(language)
    if short == "en":
        return Normaliser("whisper-english", "1", source, whisper_english())
    split = short in WRITTEN_WITHOUT_SPACES
    name = "whisper-basic-letters" if split else "whisper-basic"
    return Normaliser(name, "1", source, partial(basic, split_letters=split))


@cache
def leaderboard(language: str | None) -> Normaliser:
    if code(language) != "en":
        raise UsageError(
            f"profile 'oal-2026-08' is for English, not {language!r}",
            why="the leaderboard scores other languages by other rules",
            fix="--profile whisper",
        )
    return Normaliser("oal-english", "1", "huggingface/open_asr_leaderboard at d1e99b2", leaderboard_english())


@cache
def none(language: str | None) -> Normaliser:
    return Normaliser("none", "1", "lower case only", str.lower)


WHISPER = Profile("whisper", "the normalisers of openai/whisper: English, and basic for other languages", whisper)
LEADERBOARD = Profile(
    "oal-2026-08", "the Open ASR Leaderboard of August 2026: its English normaliser, compounds merged", leaderboard, True, True
)
NONE = Profile("none", "the text as it stands, case-insensitive, split at white space", none)
PROFILES = {profile.name: profile for profile in (WHISPER, LEADERBOARD, NONE)}


def profile_named(name: str) -> Profile:
    """Raises UsageError for an unknown name, listing those there are."""
    if name not in PROFILES:
        known = "; ".join(f"{profile.name} ({profile.description})" for profile in PROFILES.values())
        raise UsageError(f"unknown profile {name!r}", why=f"profiles: {known}", fix="--profile whisper")
    return PROFILES[name]


def normalise_many(texts: Iterable[str], profile: Profile, language: str | None = "en", processes: int | None = None) -> list[str]:
    """The normalised texts in order. ``processes`` None uses every core for more than 20,000 distinct texts, else this process only.

    Processes are started afresh ("spawn"), so a script that asks for several needs the usual ``if __name__ == "__main__":``.
    """
    import os

    texts = list(texts)
    distinct = list(dict.fromkeys(texts))
    if processes is None:
        processes = (os.cpu_count() or 1) if len(distinct) > MANY else 1
    if processes < 2:
        return [profile.normalise(text, language) for text in texts]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    size = -(-len(distinct) // processes)
    parts = [distinct[start : start + size] for start in range(0, len(distinct), size)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = [text for part in pool.map(partial(part_of, profile.name, language), parts) for text in part]
    found = dict(zip(distinct, done, strict=True))
    return [found[text] for text in texts]


def part_of(profile: str, language: str | None, texts: Sequence[str]) -> list[str]:
    """What one process does."""
    return [PROFILES[profile].normalise(text, language) for text in texts]
