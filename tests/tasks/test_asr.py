import random
from importlib import import_module

import pytest

from workbench.data.card import load_card
from workbench.errors import DataError, UsageError
from workbench.metrics import normalise
from workbench.tasks import asr
from workbench.tasks.asr import failed, prepare, score, to_sample, with_profile
from workbench.tasks.catalogue import BUILT_IN_TASKS, load_task
from workbench.tasks.scoring import MOST_GROUPS, score_responses
from workbench.types import Media, Response

WHISPER, LEADERBOARD = (normalise.profile_named(name) for name in ("whisper", "oal-2026-08"))
SETS = sorted(name for name, module in BUILT_IN_TASKS.items() if module == "workbench.tasks.asr_sets")


def sample(text, name="1", **row):
    return to_sample({"id": name, "text": text, **row}, 0)


def scored(text, response, profile=WHISPER, finish="stop"):
    return score(profile, sample(text), Response(response, finish=finish), random.Random(0))


def test_rows_become_samples():
    made = to_sample({"id": 7, "text": "Hi.", "speaker": 12, "duration": 1.5, "heard": True, "audio": None}, 3)
    assert (made.id, made.group, made.target) == ("7", "12", "Hi.")
    assert made.meta == {"speaker": "12", "language": "en", "duration": 1.5, "heard": True}
    alone = to_sample({"text": "Hi."}, 3)
    assert (alone.id, alone.group, alone.meta["speaker"]) == ("3", "3", None)
    for wrong in ({"text": None}, {"text": 5}):
        with pytest.raises(ValueError, match="reference"):
            to_sample(wrong, 0)
    with pytest.raises(KeyError):
        to_sample({"sentence": "x"}, 0)


def test_what_is_asked():
    audio = Media(data=b"RIFF", kind="audio")
    request = asr.ask(to_sample({"id": "1", "text": "ja", "audio": audio, "language": "de"}, 0))
    assert request.inputs == {"audio": audio, "language": "de", "task": "transcribe"}


@pytest.mark.parametrize(
    ("text", "response", "value", "reason", "errors"),
    [
        ("Turn it off!", "turn it off", 1.0, "parsed", 0),
        ("Turn it off!", "turn it", 2 / 3, "parsed", 1),
        ("Turn it off!", " ", 0.0, "empty", 3),
        ("off", "a b c", 0.0, "parsed", 3),
        ("?!", "", None, "empty", 0),
        ("?!", "hello there", None, "parsed", 2),
    ],
)
def test_scores(text, response, value, reason, errors):
    found = scored(text, response)
    assert (found.value, found.reason) == (pytest.approx(value), reason)
    assert found.counts["substitutions"] + found.counts["deletions"] + found.counts["insertions"] == errors
    assert found.counts["utterances"] == 1 and found.counts["sentence_errors"] == (errors > 0)


def test_an_answer_that_was_cut_says_so():
    assert scored("a b", "a b", finish="length").reason == "truncated"


def test_a_failed_item_counts_every_word_as_deleted():
    found = failed(WHISPER, sample("Mr. Smith is here"))
    assert (found.value, found.answer, found.reason) == (0.0, None, "error")
    assert (found.counts["words"], found.counts["deletions"], found.counts["character_errors"]) == (4, 4, 20)
    assert failed(LEADERBOARD, sample("uh")).counts["words"] == 0


def test_the_leaderboard_merges_compounds_and_drops_empty_references():
    assert scored("white paper", "whitepaper", LEADERBOARD).value == 1
    assert scored("white paper", "whitepaper").value == 0
    dropped = scored("Ignore time segment in scoring", "well", LEADERBOARD)
    assert dropped.value is None and set(dropped.counts.values()) == {0} and "left out" in dropped.explanation


def results_of(task, rows, texts, **more):
    samples = [to_sample(row, place) for place, row in enumerate(rows)]
    return score_responses(
        task, samples, {each.id: Response(text) for each, text in zip(samples, texts, strict=True)}, **more
    ).results


def test_results_never_hold_a_bare_rate():
    rows = [{"id": str(k), "text": "Red, blue, green, white.", "speaker": f"s{k % 3}", "heard": k % 3 != 0} for k in range(12)] + [
        {"id": "12", "text": "?", "speaker": "s0", "heard": False}, {"id": "13", "text": "!", "speaker": "s1", "heard": True},
    ]  # fmt: skip
    texts = ["red blue green white"] * 6 + ["red blue green"] * 6 + ["", ""]
    found = results_of(load_task("asr"), rows, texts)
    assert found["headline"] == {"metric": "wer", "value": 12.5, "unit": "%", "of": None}
    assert (found["profile"], found["normaliser"]["id"], found["normaliser"]["version"]) == ("whisper", "whisper-english", "1")
    sums = {name: found[name] for name in ("words", "hits", "substitutions", "deletions", "insertions", "errors")}
    assert sums["words"] == sum(item["words"] for item in found["per_item"].values())
    assert sums["errors"] == sums["substitutions"] + sums["deletions"] + sums["insertions"] == found["wer"] * sums["words"]
    assert found["interval"] == found["intervals"]["speaker"] and found["interval"]["unit"] == "fraction"
    assert found["interval"]["low"] <= found["wer"] <= found["interval"]["high"]
    assert found["empty_references"]["ids"] == ["12", "13"] and found["correct"] is None
    for axis, names in (("speaker", {"s0", "s1", "s2"}), ("voice", {"heard", "unheard"})):
        assert found["groups"][axis].keys() == names
        assert all({"words", "errors", "interval", "value", "n"} <= set(group) for group in found["groups"][axis].values())
    dropped = results_of(with_profile(load_task("asr"), "oal-2026-08"), rows, texts)
    assert (dropped["utterances"], dropped["empty_references"]["ids"]) == (12, ["12", "13"])
    assert dropped["scorer"] == "wer oal-2026-08" and dropped["aligner"].endswith("compounds merged")


def test_an_axis_of_very_many_speakers_is_no_table():
    rows = [{"id": str(k), "text": "a b", "speaker": f"s{k}"} for k in range(MOST_GROUPS + 1)]
    assert "speaker" not in results_of(load_task("asr"), rows, ["a b"] * len(rows))["groups"]
    assert len(results_of(load_task("asr"), rows[1:], ["a b"] * MOST_GROUPS)["groups"]["speaker"]) == MOST_GROUPS


def test_languages_choose_their_normaliser_and_both_are_named():
    rows = [{"id": "1", "text": "colour"}, {"id": "2", "text": "Über!", "language": "de"}]
    found = results_of(load_task("asr"), rows, ["color", "über"])
    assert found["errors"] == 0 and found["normaliser"]["id"] == "whisper-english and whisper-basic"
    with pytest.raises(UsageError, match="English"):
        results_of(with_profile(load_task("asr"), "oal-2026-08"), rows, ["color", "über"])


def test_prepared_texts_are_not_normalised_again(monkeypatch):
    monkeypatch.setattr(normalise, "KNOWN", {})
    samples = [sample(f"Number {k}", str(k)) for k in range(5)]
    prepare(samples, {each.id: "number one" for each in samples[:3]}, "whisper", processes=1)
    assert ("whisper", "en", "Number 4") in normalise.KNOWN and ("whisper", "en", "number one") in normalise.KNOWN


def test_profiles_are_for_speech():
    with pytest.raises(UsageError, match="no profiles"):
        with_profile(load_task("mmmu-sample"), "whisper")
    with pytest.raises(UsageError, match="unknown profile"):
        with_profile(load_task("asr"), "wisper")
    with pytest.raises(UsageError, match="no data of its own"):
        load_task("asr").load()


def test_the_family_is_that_of_the_models():
    from workbench.models import speech_to_text

    assert asr.FAMILY == speech_to_text.FAMILY == load_task("asr-sample").family


def test_the_bundled_sample_is_read():
    loaded = load_task("asr-sample").load(limit=5)
    assert all(each.meta["speaker"] and isinstance(each.meta["heard"], bool) for each in loaded.samples)
    assert loaded.samples[0].inputs["audio"].read().startswith(b"fLaC")


@pytest.mark.parametrize("name", SETS)
def test_public_sets_are_pinned_and_their_columns_make_samples(name):
    card = load_card(name)
    assert card.pinned and card.licence and card.url.endswith(card.hub) and card.media == ("audio",)
    row = dict.fromkeys((*card.ask, *card.score, *card.optional), "text")
    made = load_task(name).card.to_sample({**row, "audio": Media(data=b"x", kind="audio")}, 9)
    assert (made.id, made.target) == ("text", "text")
    assert (made.meta["speaker"] == "text") == ("speaker_id" in card.optional)
    assert load_task(name).description and import_module(BUILT_IN_TASKS[name])


def test_there_is_a_set_for_each_card_of_the_plan():
    assert (
        sorted(
            [
                "librispeech-clean",
                "librispeech-other",
                "voxpopuli",
                "ami",
                "earnings22",
                "gigaspeech",
                "spgispeech",
                "fleurs-en",
                "common-voice-en",
            ]
        )
        == SETS
    )
    with pytest.raises(DataError):
        results_of(load_task("asr"), [{"id": "1", "text": "a"}], ["a"], fixed={"2": failed(WHISPER, sample("a"))})
