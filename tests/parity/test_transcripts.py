"""Rung 5 of speech to text: the right word, the right way round, with profile, words, errors and interval in its sentence."""

import json

import pytest

import workbench as wb
from tests.report.bundles import make_line, make_run
from tests.report.speech_bundles import SENTENCES, make_speech_run, some_lines, spoken
from workbench.cli.main import main
from workbench.errors import UsageError
from workbench.parity.ladder import compare_all, make_margin
from workbench.parity.sides import read_sides


def utterances(n=60, wrong=(), **more):
    """Each of a speaker of its own, without errors but in ``wrong``, which have one each."""
    found = []
    for number in range(n):
        reference = SENTENCES[number % len(SENTENCES)]
        heard = reference.replace("the", "a", 1) if number in wrong and "the" in reference else reference
        heard = f"{heard} please" if number in wrong and heard == reference else heard
        found.append(spoken(str(number), reference, heard, **more))
    return found


def compared(tmp_path, before, after, **more):
    first = make_speech_run(tmp_path / "a", "torch:a", before)
    return wb.compare(first, make_speech_run(tmp_path / "b", "mlx:a", after, **more.pop("run", {})), **more)


def test_the_same_transcripts_are_equivalent_and_every_rung_speaks_of_speech(tmp_path):
    found = compared(tmp_path, utterances(200), utterances(200))
    assert found.verdict.name == "EQUIVALENT" and found.of_speech
    for told in (
        "200 utterances",
        "±2.0 points",
        "profile whisper, normaliser whisper-english 1",
        "words",
        "resampled",
        "0 utterances broke",
    ):
        assert told in found.verdict.sentence
    assert [(rung.name, rung.status) for rung in found.rungs] == [
        ("artifact", "same"),
        ("inputs", "same"),
        ("tensors", "not run"),
        ("tokens", "not run"),
        ("transcripts", "same"),
        ("time", "information"),
    ]
    assert (
        found.rung(2).finding == "Same log-mel, prompt and token ids on all 200 utterances." and "log-mel" in found.rung(2).question
    )
    assert "Free-running, the same tokens on 200 of 200 utterances." in found.rung(4).finding
    assert found.rung(6).facts["paired_ratio"]["ratio"] == 1 and "RTF" in found.rung(6).finding
    for rung in found.rungs:
        assert "answer" not in f"{rung.finding}{rung.question}" and "image" not in rung.finding and "pixel" not in rung.question


@pytest.mark.parametrize(("first", "second", "direction", "broke"), [((), range(60), "higher", 60), (range(60), (), "lower", 0)])
def test_a_higher_rate_is_the_worse_one(tmp_path, first, second, direction, broke):
    found = compared(tmp_path, utterances(60, first), utterances(60, second))
    assert found.verdict.name == "DIFFERENT" and f"has a {direction} WER than torch:a" in found.verdict.sentence
    assert found.overall.broke == broke and (found.overall.difference > 0) == (direction == "higher")
    assert {pair.change for pair in found.pairs} == {"broke" if broke else "fixed"}
    chance = found.strata[0].words.decisive.probability_of_improvement
    assert chance == (0 if direction == "higher" else 1)


def test_too_few_utterances_say_how_many_would_settle_it(tmp_path):
    found = compared(tmp_path, utterances(30), utterances(30, (3,)))
    assert found.verdict.name == "INCONCLUSIVE" and found.verdict.needed > 30
    assert f"about {found.verdict.needed:,} utterances" in found.verdict.sentence


def test_a_relative_margin_is_of_the_rate(tmp_path):
    before, after = utterances(200, range(0, 200, 2)), utterances(200, range(0, 200, 2))
    found = compared(tmp_path, before, after, margin=30, relative=True)
    assert found.verdict.name == "EQUIVALENT" and "% of the reference's rate" in found.verdict.sentence
    clean = compared(tmp_path / "clean", utterances(20), utterances(20, (1,)), margin=30, relative=True)
    assert clean.verdict.name == "INCONCLUSIVE" and "makes no error" in clean.verdict.sentence


@pytest.mark.parametrize(("changes", "field"), [({"profile": "none"}, "normaliser"), ({"version": "2"}, "normaliser")])
def test_another_profile_or_normaliser_is_incomparable_and_named(tmp_path, changes, field):
    found = compared(tmp_path, utterances(20), utterances(20), run=changes)
    assert found.verdict.name == "INCOMPARABLE" and [each.field for each in found.verdict.fields] == [field]
    assert "whisper-english 1" in found.verdict.sentence
    assert [rung.name for rung in found.rungs if rung.status == "not run"][-1] == "transcripts"


def test_another_recording_is_incomparable_and_named(tmp_path):
    after = utterances(20, media=["b" * 64])
    for line in after:
        line["input_hash"] = line["input_hash"][::-1]
    found = compared(tmp_path, utterances(20, media=["a" * 64]), after)
    assert found.verdict.name == "INCOMPARABLE" and found.verdict.fields[0].field.startswith("data.audio")


def test_no_word_in_any_reference_is_no_rate(tmp_path):
    before = [spoken(str(number), "", "") for number in range(5)]
    found = compared(tmp_path, before, [spoken(str(number), "", "noise") for number in range(5)])
    assert found.verdict.name == "INCOMPARABLE" and "no reference holds a word" in found.verdict.sentence


def test_a_failed_utterance_counts_as_deleted_words_and_is_noted(tmp_path):
    after = utterances(60)
    after[4] = spoken("4", SENTENCES[4], None)
    found = compared(tmp_path, utterances(60), after)
    assert found.strata[0].words.candidate.deletions == len(SENTENCES[4].split()) and found.overall.broke == 1
    assert any("1 utterance of asr-made failed and counts with every word deleted" in note for note in found.notes)


def test_strata_hold_speakers_voices_and_tasks_and_the_corpus_is_pooled(tmp_path):
    folders = []
    for model, wrong in (("torch:a", ()), ("mlx:a", (1, 2, 5))):
        folders += [
            make_speech_run(tmp_path / model[:3], model, some_lines(40, wrong), task=task) for task in ("asr-one", "asr-two")
        ]
    sides = read_sides(folders)
    (found,) = compare_all(sides, make_margin(2.0, False))
    axes = {(each.axis, each.name) for each in found.strata}
    assert {("all", "all items"), ("task", "asr-one"), ("speaker", "speaker 3"), ("voice", "unheard")} <= axes
    assert found.overall.n == 80 and found.strata[0].words.reference.words == 2 * found.strata[1].words.reference.words
    assert found.overall.clusters == 8, "a speaker of another task is another speaker"
    assert "Word error rates" in str(found) and "5 transcripts" in str(found)
    assert len(found.to_frame()["candidate_substitutions"]) == 80


def test_vision_language_and_speech_have_a_verdict_each(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seeing = [
        str(make_run(tmp_path, f"demo:vlm@{name}", [make_line(str(each)) for each in range(150)])) for name in ("torch", "mlx")
    ]
    hearing = [
        str(make_speech_run(tmp_path, f"demo:stt@{name}", utterances(60, wrong)))
        for name, wrong in (("torch", ()), ("mlx", range(60)))
    ]
    assert main(["parity", *seeing, *hearing, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(each["reference"], each["candidate"], each["verdict"]["name"]) for each in found["comparisons"]] == [
        ("demo:vlm@torch", "demo:vlm@mlx", "EQUIVALENT"),
        ("demo:stt@torch", "demo:stt@mlx", "DIFFERENT"),
    ]
    assert found["comparisons"][1]["strata"][0]["words"]["candidate"]["errors"] == 60
    both = ["--reference", "demo:stt@mlx", "--reference", "demo:vlm@mlx"]
    assert main(["parity", *seeing, *hearing, *both, "--json"]) == 1
    turned = json.loads(capsys.readouterr().out)["comparisons"]
    assert {(each["reference"], each["candidate"]) for each in turned} == {
        ("demo:stt@mlx", "demo:stt@torch"),
        ("demo:vlm@mlx", "demo:vlm@torch"),
    }
    assert main(["parity", *seeing, hearing[0]]) == 0
    assert "demo:stt@torch is compared with nothing" in capsys.readouterr().err
    assert main(["parity", seeing[0], hearing[0]]) == 2
    assert "are not compared with each other" in capsys.readouterr().err


def test_one_family_has_one_reference(tmp_path):
    runs = [make_speech_run(tmp_path, f"demo:{name}", utterances(20)) for name in "abc"]
    with pytest.raises(UsageError, match="cannot both be the reference"):
        read_sides(runs, reference=["demo:b", "demo:c"])
    assert [side.label for side in read_sides(runs, reference=["demo:b"])] == ["demo:b", "demo:a", "demo:c"]


def test_several_candidates_are_corrected_within_their_own_family(tmp_path):
    runs = [
        make_speech_run(tmp_path, f"demo:{name}", utterances(60, wrong))
        for name, wrong in (("a", ()), ("b", range(60)), ("c", (1,)))
    ]
    first, second = compare_all(read_sides(runs), make_margin(2.0, False))
    assert first.verdict.name == "DIFFERENT" and first.rung(5).facts["p_value_holm"] <= 0.05
    assert second.rung(5).facts["p_value_holm"] >= second.overall.p


def test_utterances_that_failed_on_both_sides_are_no_evidence(tmp_path):
    failed = [spoken(str(number), SENTENCES[number % 5], None) for number in range(200)]
    found = compared(tmp_path / "all", failed, failed)
    assert found.verdict.name == "INCOMPARABLE" and "200 failed" in found.verdict.sentence
    some = [*failed[:3], *utterances(200)[3:]]
    found = compared(tmp_path / "some", some, some)
    assert found.verdict.name == "EQUIVALENT" and "and 3 utterances failed on both sides" in found.rung(5).finding


def test_the_frame_of_the_strata_says_what_each_rate_stands_on(tmp_path):
    frame = compared(tmp_path, some_lines(40), some_lines(40, wrong=range(6))).strata_frame()
    assert set(frame["profile"]) == {"profile whisper, normaliser whisper-english 1"}
    assert frame["reference_words"][0] == sum(frame["reference_words"][frame["axis"] == "speaker"]) == 240
    assert frame["candidate_errors"][0] == frame["reference_errors"][0] + 6
    assert frame["resampled"][0] == "speaker" and set(frame["resampled"][frame["axis"] == "speaker"]) == {"utterance"}
