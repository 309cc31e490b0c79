"""Public speech recognition test sets, as tasks: word error rate under the profile asked for (default: Whisper's normaliser).

    workbench eval librispeech-clean --model torch:openai/whisper-base --limit 50
    workbench score librispeech-clean --predictions answers.jsonl --profile oal-2026-08

The cards name repository, commit, split and licence. Five sets come from the leaderboard's own collection, whose texts and
segments are those that its numbers stand for.
"""

from __future__ import annotations

from functools import partial

from workbench.registry import task
from workbench.tasks.asr import build, to_sample
from workbench.types import Task

LIBRISPEECH = partial(to_sample, speaker="speaker_id")
COLLECTION = partial(to_sample, speaker=None)


@task
def librispeech_clean() -> Task:
    return build("librispeech-clean", "LibriSpeech test-clean: 2,620 utterances read from audiobooks", LIBRISPEECH)


@task
def librispeech_other() -> Task:
    return build("librispeech-other", "LibriSpeech test-other: 2,939 utterances by harder speakers", LIBRISPEECH)


@task
def voxpopuli() -> Task:
    return build(
        "voxpopuli",
        "VoxPopuli English test: speeches in the European Parliament",
        partial(to_sample, text="normalized_text", name="audio_id", speaker="speaker_id"),
    )


@task
def ami() -> Task:
    return build("ami", "AMI meetings, headset microphones, test", partial(to_sample, name="audio_id", speaker="speaker_id"))


@task
def earnings22() -> Task:
    return build("earnings22", "Earnings-22 test: earnings calls in many accents, segments of the leaderboard", COLLECTION)


@task
def gigaspeech() -> Task:
    return build("gigaspeech", "GigaSpeech test: podcasts and videos, segments of the leaderboard", COLLECTION)


@task
def spgispeech() -> Task:
    return build("spgispeech", "SPGISpeech test: financial calls, segments of the leaderboard", COLLECTION)


@task
def fleurs_en() -> Task:
    # A sentence is read by several people and has one id, so a recording is known by its file.
    return build(
        "fleurs-en", "FLEURS, American English, test", partial(to_sample, text="raw_transcription", name="path", speaker=None)
    )


@task
def common_voice_en() -> Task:
    return build("common-voice-en", "Common Voice English test, as the leaderboard's collection has it", COLLECTION)
