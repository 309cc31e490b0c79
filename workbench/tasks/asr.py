"""Speech to text: word error rate under a named profile, over the whole corpus, with its words, errors and intervals.

    load_task("asr-sample").score(sample, Response("turn it of"), random.Random(0)).counts    # {"words": 3, "hits": 2, "substitutions": 1, ...}
    with_profile(load_task("librispeech-clean"), "oal-2026-08")

Both texts are normalised by the profile (``workbench.metrics.normalise``), words are aligned at unit costs with ties as kaldialign has them,
and errors and words are summed before dividing. An item that failed counts every word of its reference as deleted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from workbench.data.card import FromCard
from workbench.data.rows import Rows
from workbench.errors import UsageError
from workbench.metrics import wer
from workbench.metrics.normalise import Profile, normalise_many, profile_named
from workbench.metrics.transcripts import DROPPED_RULE, pair_counts, summary
from workbench.registry import task
from workbench.types import Generation, Reason, Request, Response, Sample, Score, Task

FAMILY = "speech-to-text"
PROMPT = "asr-transcribe-1"
MAX_TOKENS = 224  # half of Whisper's text positions, as its own decoding has it
ELSEWHERE = ("id", "text", "audio", "speaker")


def to_sample(
    row: Mapping[str, Any],
    position: int,
    *,
    text: str = "text",
    name: str = "id",
    speaker: str | None = "speaker",
    language: str = "en",
) -> Sample:
    """A row as a sample: ``text``, ``name`` and ``speaker`` are its columns; without an id column the position is the id.

    Raises ValueError for a reference or a language that is not text.
    """
    reference = row[text]
    if not isinstance(reference, str):
        raise ValueError(f"{text!r} must be the reference as text, not {'null' if reference is None else type(reference).__name__}")
    spoken = row.get("language") or language
    if not isinstance(spoken, str):
        raise ValueError(f"'language' must be a code as text, like 'en', not {type(spoken).__name__}")
    given = str(position) if row.get(name) is None else str(row[name])
    who = None if speaker is None or row.get(speaker) in (None, "") else str(row[speaker])
    meta = {key: value for key, value in row.items() if key not in (*ELSEWHERE, text, name, speaker)}
    meta = {**meta, "speaker": who, "language": spoken}
    return Sample(given, {"audio": row.get("audio")}, reference, who or given, meta)


def ask(sample: Sample) -> Request:
    """The recording, to be transcribed in its language (forced, not detected)."""
    return Request({"audio": sample.inputs["audio"], "language": sample.meta["language"], "task": "transcribe"}, PROMPT)


def counted(profile: Profile, sample: Sample, text: str) -> tuple[dict[str, int], str]:
    """(counts, normalised transcript); all counts are 0 where the profile leaves the item out."""
    language = sample.meta["language"]
    reference, heard = profile.normalise(sample.target, language), profile.normalise(text, language)
    return pair_counts(profile, reference, heard), heard


def scored(counts: Mapping[str, int], answer: str | None, reason: Reason) -> Score:
    """``value`` is 1 - WER, at least 0; None for a reference without words, which has no rate."""
    words = counts["words"]
    value = max(0.0, 1 - wer.errors(counts) / words) if words else None
    explanation = None if words else "the normalised reference has no words" if counts["utterances"] else DROPPED_RULE
    return Score(value, answer, reason, dict(counts), explanation)


def score(profile: Profile, sample: Sample, response: Response, rng: random.Random) -> Score:
    """The counts of one utterance; ``answer`` is the normalised transcript."""
    counts, heard = counted(profile, sample, response.text)
    reason: Reason = "empty" if not response.text.strip() else "truncated" if response.finish == "length" else "parsed"
    return scored(counts, heard, reason)


def failed(profile: Profile, sample: Sample) -> Score:
    """Nothing was heard of an item that failed: every word of its reference is deleted."""
    return scored(counted(profile, sample, "")[0], None, "error")


def groups(sample: Sample) -> Iterator[tuple[str, str]]:
    if sample.meta["speaker"] is not None:
        yield "speaker", sample.meta["speaker"]
    if isinstance(sample.meta.get("heard"), bool):
        yield "voice", "heard" if sample.meta["heard"] else "unheard"


def details(
    profile: Profile, samples: Sequence[Sample], responses: Mapping[str, Response], scores: Mapping[str, Score]
) -> dict[str, Any]:
    """What a word error rate is never shown without: profile, normaliser, aligner, words, errors, both intervals, empty references."""
    used = [sample for sample in samples if sample.id in scores]
    counts = [scores[sample.id].counts for sample in used]
    empty = [sample.id for sample in used if not scores[sample.id].counts["words"]]
    return summary(profile, counts, [sample.meta["speaker"] for sample in used], normaliser_of(profile, used), empty)


def normaliser_of(profile: Profile, samples: Sequence[Sample]) -> dict[str, str]:
    """The normaliser's names; of several languages all that were used, in order of appearance."""
    languages = dict.fromkeys(sample.meta["language"] for sample in samples) or {"en": None}
    found = {each.id: each for each in (profile.normaliser(language) for language in languages)}
    several = [each.as_json() for each in found.values()]
    return {name: " and ".join(dict.fromkeys(each[name] for each in several)) for name in several[0]}


def by_profile(profile: Profile) -> dict[str, Any]:
    """The parts of a task that a profile decides."""
    return {
        "score": partial(score, profile),
        "failed": partial(failed, profile),
        "details": partial(details, profile),
        "scorer": f"wer {profile.name}",
    }


def with_profile(found: Task, name: str) -> Task:
    """The same task, scored under another profile. Raises UsageError for an unknown profile, or a task that is not speech to text."""
    profile = profile_named(name)
    if found.family != FAMILY or "wer" not in [metric.name for metric in found.metrics]:
        raise UsageError(
            f"task {found.name!r} has no profiles", why="only word error rates have", fix=f"workbench score {found.name}"
        )
    return replace(found, **by_profile(profile))


def prepare(samples: Sequence[Sample], texts: Mapping[str, str], profile: str, processes: int | None = None) -> None:
    """Normalise everything beforehand, over processes where there is much of it; scoring then finds each text done.

    Worth it from some 20,000 distinct texts on; the results are the same.
    """
    found = profile_named(profile)
    by_language: dict[str, dict[str, None]] = {}
    for sample in samples:
        pair = (sample.target, texts[sample.id]) if sample.id in texts else (sample.target,)
        by_language.setdefault(sample.meta["language"], {}).update(dict.fromkeys(pair))
    for language, several in by_language.items():
        found.remember(list(several), normalise_many(several, found, language, processes), language)


def build(
    name: str, description: str, read: Callable[..., Sample] = to_sample, source: Any = None, profile: str = "whisper"
) -> Task:
    return Task(
        name=name,
        version="1",
        family=FAMILY,
        card=source or FromCard(name, read),
        ask=ask,
        metrics=(wer.WER, wer.CER, wer.MER, wer.WIL, wer.SER),
        headline="wer",
        groups=groups,
        generation=Generation(max_tokens=MAX_TOKENS),
        description=description,
        **by_profile(profile_named(profile)),
    )


def no_rows() -> list:
    raise UsageError(
        "task 'asr' has no data of its own",
        why="it scores files: rows of id and text, and predictions of id and response",
        fix="workbench score asr --items rows.jsonl --predictions predictions.jsonl --profile whisper",
    )


@task
def asr() -> Task:
    rows = Rows(no_rows, name="asr", to_sample=to_sample)
    return build("asr", "transcripts from anywhere against your own references (scoring only)", source=rows)


@task
def asr_sample() -> Task:
    return build("asr-sample", "self-made utterances of synthetic voices, bundled")
