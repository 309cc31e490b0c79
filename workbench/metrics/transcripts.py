"""Word error rate of texts, in one call: with the profile, words, errors and intervals that it is never shown without.

    found = word_error_rate(["turn it off"], ["turn it of"], profile="whisper")
    found["wer"], found["words"], found["errors"], found["normaliser"]["id"]     # 0.333..., 3, 1, "whisper-english"

Tasks, ``workbench score`` and the Hugging Face ``evaluate`` modules (``evaluate_module("wer")``) all sum up with ``summary``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import locate
from workbench.errors import DataError, UsageError
from workbench.metrics import wer
from workbench.metrics.normalise import Profile, normalise_many, profile_named

EMPTY_RULE = "kept: it has no words, and every word heard is an insertion; where no reference has any, the rate is their number"
DROPPED_RULE = "left out: the normalised reference is empty or says 'ignore time segment in scoring'"
RATES = ("wer", "cer", "mer", "wil", "sentence_error_rate")


def word_error_rate(
    references: Sequence[str],
    transcripts: Sequence[str],
    profile: str = "whisper",
    language: str | None = "en",
    speakers: Sequence[Hashable | None] | None = None,
    processes: int | None = 1,
) -> dict[str, Any]:
    """The corpus rates of pairs of texts (fractions), with everything that ``summary`` has, and ``per_item``: counts in order.

    ``processes`` None uses every core for large sets. Raises DataError for lists of other lengths or what is not text, UsageError for an
    unknown profile.
    """
    found = profile_named(profile)
    check(references, transcripts, speakers)
    counts = counts_of(references, transcripts, found, language, processes)
    normaliser = found.normaliser(language).as_json()
    empty = [str(place) for place, each in enumerate(counts) if not each["words"]]
    return {**summary(found, counts, speakers or [None] * len(counts), normaliser, empty), "per_item": counts}


def check(references: Sequence[str], transcripts: Sequence[str], speakers: Sequence[Hashable | None] | None) -> None:
    if isinstance(references, str) or isinstance(transcripts, str):
        raise DataError(
            "references and transcripts must be lists of texts", why="one text was given", fix="word_error_rate([text], [heard])"
        )
    if len(references) != len(transcripts) or speakers is not None and len(speakers) != len(references):
        given = f"{len(references)} references, {len(transcripts)} transcripts"
        raise DataError(
            "there must be one transcript a reference", why=given if speakers is None else f"{given}, {len(speakers)} speakers"
        )
    for name, texts in (("reference", references), ("transcript", transcripts)):
        place = next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)
        if place is not None:
            raise DataError(f"{name} {place} is not text", why=f"it is {type(texts[place]).__name__}")


def counts_of(
    references: Sequence[str], transcripts: Sequence[str], profile: Profile, language: str | None, processes: int | None
) -> list[dict[str, int]]:
    """Counts of every pair in order; of one that the profile leaves out all are 0."""
    left, right = (normalise_many(texts, profile, language, processes) for texts in (references, transcripts))
    return [pair_counts(profile, reference, heard) for reference, heard in zip(left, right, strict=True)]


def pair_counts(profile: Profile, reference: str, heard: str) -> dict[str, int]:
    """Counts of one pair of normalised texts."""
    if profile.drops(reference):
        return dict.fromkeys(wer.NAMES, 0)
    return wer.count(reference, heard, profile.merge_compounds)


def summary(
    profile: Profile,
    counts: Sequence[Mapping[str, int]],
    speakers: Sequence[Hashable | None],
    normaliser: Mapping[str, str],
    empty: Sequence[str],
) -> dict[str, Any]:
    """All rates of a corpus and what they stand on. ``empty`` names utterances without reference words; rates are None without utterances.

    ``interval`` is that of speakers where there are two or more, else of utterances; ``intervals`` has both.
    """
    kept = [(each, speaker) for each, speaker in zip(counts, speakers, strict=True) if each["utterances"]]
    sums = wer.total(each for each, _ in kept)
    intervals = wer.intervals([each for each, _ in kept], [speaker for _, speaker in kept])
    return {
        "profile": profile.name,
        "normaliser": dict(normaliser),
        "aligner": aligner(profile),
        **(wer.rates([sums]) if kept else dict.fromkeys(RATES)),
        **sums,
        "errors": wer.errors(sums),
        "interval": intervals.get("speaker") or intervals["utterance"],
        "intervals": intervals,
        "empty_references": {"n": len(empty), "ids": list(empty), "rule": DROPPED_RULE if profile.drops_empty else EMPTY_RULE},
    }


def aligner(profile: Profile) -> str:
    from importlib.metadata import version

    return f"kaldialign {version('kaldialign')}, unit costs{', compounds merged' if profile.merge_compounds else ''}"


def evaluate_module(name: str) -> Path:
    """The folder of a module for Hugging Face ``evaluate``: ``evaluate.load(str(evaluate_module("wer")))``, without a network.

    Modules: ``wer``, ``cer``. Raises UsageError for another name.
    """
    found = locate.find(f"evals/evaluate/{name}")
    if found is None or not (found / f"{name}.py").is_file():
        raise UsageError(f"there is no evaluate module {name!r}", why="modules: cer, wer")
    return found
