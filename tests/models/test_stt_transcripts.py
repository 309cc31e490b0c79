"""Transcript files: each format's own rules, and text that would break them."""

import json
import re

import pytest

from workbench.errors import UsageError
from workbench.models.speech_to_text import Segment, Transcript, Word
from workbench.models.transcripts import FORMATS, clock, one_line, render, write

HOSTILE = " 1 < 2 & --> \u202eevil\u202c\n\n2\n00:00:01,000 --> 00:00:02,000\tfake \x1b[2J\u2028end\u0000"


def transcript(*texts, **more):
    segments = tuple(Segment(start=2.5 * place, end=2.5 * place + 2.0, text=text, tokens=(1,)) for place, text in enumerate(texts))
    return Transcript("".join(texts), "en", segments, (1, 2), 1, 5.0, **more)


def test_srt():
    assert render(transcript(" Set a timer.", " Now & <here>!"), "srt") == (
        "1\n00:00:00,000 --> 00:00:02,000\nSet a timer.\n\n2\n00:00:02,500 --> 00:00:04,500\nNow & <here>!\n"
    )


def test_vtt():
    assert render(transcript(" Set a timer.", " Now & <here>!"), "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nSet a timer.\n\n00:00:02.500 --> 00:00:04.500\nNow &amp; &lt;here&gt;!\n"
    )


def test_tsv_and_txt():
    assert render(transcript(" Set\ta timer.", " Now"), "tsv") == "start\tend\ttext\n0\t2000\tSet a timer.\n2500\t4500\tNow\n"
    assert render(transcript(" Set\ta timer.", " Now"), "txt") == "Set a timer.\nNow\n"


def test_json_holds_everything():
    words = (Word(" Hi", 0.0, 0.4, 0.9),)
    segment = Segment(0.0, 1.0, " Hi", (5,), average_logprob=float("-inf"), words=words)
    found = json.loads(render(Transcript(" Hi", "en", (segment,), (5, 6), 1, 1.0, loop="mlx_whisper.transcribe"), "json"))
    assert found["segments"][0]["words"] == [{"text": " Hi", "start": 0.0, "end": 0.4, "probability": 0.9}]
    assert found["segments"][0]["average_logprob"] is None and found["loop"] == "mlx_whisper.transcribe"
    assert (found["text"], found["language"], found["tokens"], found["windows"]) == (" Hi", "en", [5, 6], 1)


@pytest.mark.parametrize("form", FORMATS)
def test_text_cannot_end_its_line_early(form):
    plain, hostile = render(transcript(" word", " end"), form), render(transcript(HOSTILE, " end"), form)
    assert plain.count("\n") == hostile.count("\n")
    assert not set(hostile) & set("\x1b\x00\u202e\u202c\u2028")
    if form in ("srt", "vtt"):
        assert len(re.findall("-->", hostile)) == 2
    if form == "tsv":
        assert {line.count("\t") for line in hostile.splitlines()} == {2}


def test_nothing_said():
    empty = transcript()
    assert [render(empty, form) for form in ("txt", "srt", "vtt", "tsv")] == ["", "", "WEBVTT\n", "start\tend\ttext\n"]
    assert render(transcript(" ", "\n"), "srt") == ""


def test_subtitles_are_numbered_without_gaps_and_never_end_before_they_begin():
    found = render(
        Transcript("", "en", (Segment(0, 1, " ", ()), Segment(3.0, 3.0, "a", ()), Segment(4, 5, "b", ())), (), 1, 5.0), "srt"
    )
    assert found == "1\n00:00:03,000 --> 00:00:03,001\na\n\n2\n00:00:04,000 --> 00:00:05,000\nb\n"


def test_clocks():
    assert (
        clock(3661.0015, ".") == "01:01:01.002" and clock(360_000, ",") == "100:00:00,000" and clock(59.9996, ",") == "00:01:00,000"
    )


def test_characters_of_all_scripts_are_kept():
    text = "naïve 漢字 שלום 🎉 zero\u200dwidth"
    assert one_line(f" {text}\r\n") == text
    assert text in render(transcript(text), "srt") and json.loads(render(transcript(text), "json"))["text"] == text


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text("old")
    with pytest.raises(UsageError, match="unknown format"):
        write(transcript("a"), path, "docx")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write(transcript(" é"), path, "txt")
    assert path.read_bytes() == "é\n".encode() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arrow", ["-->", "---->", "a--->b-->c", "--" * 40 + ">"])
def test_no_arrow_of_any_length_is_left_in_a_subtitle(arrow):
    for form in ("srt", "vtt"):
        assert render(transcript(arrow), form).count("-->") == 1


def test_a_write_that_fails_leaves_nothing_and_long_names_are_written(tmp_path, monkeypatch):
    long = tmp_path / f"{'n' * 251}.txt"
    write(transcript(" a"), long, "txt")
    assert long.read_text() == "a\n"

    def interrupted(self, text, **more):
        self.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tmp_path), "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(transcript(" b"), long, "txt")
    assert list(tmp_path.iterdir()) == [long] and long.read_text() == "a\n"
