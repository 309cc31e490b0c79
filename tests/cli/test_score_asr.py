"""``workbench score asr``: what a good call prints and writes, and one table of what can be wrong."""

import argparse
import json

import pytest

from workbench.cli import score
from workbench.errors import WorkbenchError

ITEMS = [
    {"id": "1", "text": "Mr. Smith's colour TV costs twenty dollars.", "speaker": "a", "duration": 2.1, "extra": [1]},
    {"id": "2", "text": "turn it off", "speaker": "b"},
    {"id": "3", "text": "white paper", "speaker": "a"},
    {"id": "4", "text": "?!", "speaker": "b"},
]
ANSWERS = [
    {"id": "1", "response": "mister smith is color tv costs $20"},
    {"id": "2", "response": "turn of"},
    {"id": "3", "response": "whitepaper"},
    {"id": "4", "response": ""},
]


def run(*words):
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, words)])
    return args.run(args)


@pytest.fixture
def files(tmp_path):
    """A function that writes items and predictions, and returns the words that name them."""

    def write(items=ITEMS, answers=ANSWERS):
        for name, rows in (("items", items), ("answers", answers)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "asr", "--items", tmp_path / "items.jsonl", "--predictions", tmp_path / "answers.jsonl"

    return write


def test_json_has_what_a_rate_stands_on(files, capsys):
    assert run(*files(), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["profile"], found["words"], found["errors"]) == ("whisper", 12, 4)
    assert found["wer"] == pytest.approx(4 / 12)
    assert {name: found[name] for name in ("hits", "substitutions", "deletions", "insertions")} == {
        "hits": 8, "substitutions": 2, "deletions": 2, "insertions": 0,
    }  # fmt: skip
    assert found["interval"]["resampled"] == "speaker" and set(found["intervals"]) == {"utterance", "speaker"}
    assert found["per_item"]["3"]["words"] == 2 and found["per_item"]["3"]["substitutions"] == 1
    assert found["empty_references"] == {"n": 1, "ids": ["4"], "rule": found["empty_references"]["rule"]}


@pytest.mark.parametrize(
    ("profile", "rate", "words"),
    [
        ("whisper", "33.33 %", "12 in 4 utterances"),
        ("oal-2026-08", "25.00 %", "12 in 3 utterances"),
        ("none", "84.62 %", "13 in 4 utterances"),
    ],
)
def test_people_see_profile_words_errors_and_both_intervals(files, capsys, profile, rate, words):
    assert run(*files(), "--profile", profile) == 0
    printed = capsys.readouterr().out
    lines = {line[:17].strip(): line[17:].strip() for line in printed.splitlines()}
    assert lines["profile"] == profile and lines["WER"] == rate and lines["words"].startswith(words)
    assert "version 1" in lines["normaliser"] and "kaldialign" in lines["aligned by"]
    assert "substituted" in lines["errors"] and " to " in lines["over utterances"] and "speakers" in lines["over speakers"]
    assert "speaker" in printed and "95 % interval" in printed


def test_partial_scores_what_is_there(files, capsys):
    words = files(answers=ANSWERS[:2])
    with pytest.raises(WorkbenchError, match="no prediction"):
        run(*words)
    assert run(*words, "--partial", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scored"], found["missing"], found["words"]) == (2, 2, 10)


def test_one_utterance_has_no_interval_and_says_so(files, capsys):
    assert run(*files(ITEMS[:1], ANSWERS[:1])) == 0
    assert "fewer than two utterances" in capsys.readouterr().out


def test_large_sets_are_normalised_beforehand(files, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(score, "MANY", 3)
    monkeypatch.setattr(score, "prepare", lambda samples, texts, profile: seen.append((len(samples), len(texts), profile)))
    run(*files(), "--profile", "none", "--json")
    assert seen == [(4, 4, "none")] and json.loads(capsys.readouterr().out)["profile"] == "none"


@pytest.mark.parametrize(
    ("items", "answers", "more", "message"),
    [
        (ITEMS, ANSWERS, ("--profile", "wisper"), "unknown profile 'wisper'.*oal-2026-08"),
        ([{"id": "1"}], ANSWERS[:1], (), "row 0.*'text' is missing"),
        ([{"id": "1", "text": None}], ANSWERS[:1], (), "row 0.*must be the reference as text, not null"),
        ([{"id": "1", "text": "a"}] * 2, ANSWERS[:1], (), "more than once"),
        ([{"id": "1", "text": "a", "language": 5}], ANSWERS[:1], (), "'language' must be a code as text"),
        (ITEMS, [{"id": "9", "response": "x"}], (), "no item"),
        (ITEMS, [{"id": "1"}], (), "lacks 'response'"),
        (ITEMS, [{"id": "1", "response": None}], (), "response must be text, not null"),
        ([{"id": "1", "text": "a", "language": "de"}], ANSWERS[:1], ("--profile", "oal-2026-08"), "for English"),
    ],
)
def test_bad_input(files, items, answers, more, message):
    with pytest.raises(WorkbenchError) as caught:
        run(*files(items, answers), *more)
    import re

    assert re.search(message, f"{caught.value.what} {caught.value.why}")


def test_a_profile_is_for_speech_and_asr_needs_files(files):
    with pytest.raises(WorkbenchError, match="no profiles"):
        run("mmstar-sample", "--predictions", files()[-1], "--profile", "whisper")
    with pytest.raises(WorkbenchError, match="no data of its own"):
        run("asr", "--predictions", files()[-1])


def test_names_that_steer_a_terminal_or_are_half_a_character_are_shown_not_obeyed(files, tmp_path):
    import subprocess
    import sys

    items = [{"id": "a", "text": "x y", "speaker": "\x1b[2Jred"}, {"id": "b\ud800\x1b[31m", "text": "?", "speaker": "\ud800"}]
    words = map(str, files(items, [{"id": "a", "response": "x z"}, {"id": "b\ud800\x1b[31m", "response": ""}]))
    done = subprocess.run([sys.executable, "-m", "workbench", "score", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout and b"[2Jred" in done.stdout and b"no reference words" in done.stdout
