"""``workbench transcribe`` as a user types it, with the demo model on torch."""

import json
import re

import numpy
import pytest

import workbench as wb
from workbench.cli.main import main
from workbench.cli.transcribe import names
from workbench.errors import UsageError
from workbench.models import speech_to_text

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
soundfile = pytest.importorskip("soundfile", reason="needs soundfile (pip install 'parity-workbench[speech]')")

MODEL = "demo:stt@torch"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Noise and a tone, each for one second; and a text file with a sound's name."""
    folder = tmp_path_factory.mktemp("sounds")
    random = numpy.random.default_rng(0)
    soundfile.write(folder / "noise.wav", 0.1 * random.standard_normal(16_000), 16_000)
    soundfile.write(folder / "tone.flac", 0.3 * numpy.sin(numpy.arange(44_100) * 0.05), 44_100)
    (folder / "text.wav").write_text("not a sound")
    return folder


@pytest.fixture
def fixed(monkeypatch):
    """Stands in for a model where only the files matter: says what it was asked."""

    class Model:
        closed = False
        asked: list[speech_to_text.Decoding] = []

        def transcribe(self, audio, decoding):
            from workbench.data.media import load_audio

            sound = load_audio(audio)
            self.asked.append(decoding)
            segment = speech_to_text.Segment(0.0, 1.0, f" heard {audio.path.stem}", (1,))
            return speech_to_text.Transcript(segment.text, "en", (segment,), (1,), 1, sound.seconds)

        def close(self):
            self.closed = True

    model = Model()
    Model.asked = []
    monkeypatch.setattr("workbench.models.loading.open_speech_to_text", lambda spec: model)
    return model


def test_the_demo_model_answers_from_end_to_end(sounds, tmp_path, capsys):
    code = main(["transcribe", str(sounds / "tone.flac"), "--max-tokens", "4", "--format", "json", "--out", str(tmp_path / "out")])
    assert code == 0
    found = json.loads((tmp_path / "out" / "tone.json").read_text())
    assert found["loop"] == "shared" and found["windows"] == 1 and found["audio_seconds"] == 1.0
    assert "tone.flac -> " in capsys.readouterr().out
    python = wb.transcribe(sounds / "tone.flac", MODEL, max_tokens=4)
    assert [python.text, list(python.tokens)] == [found["text"], found["tokens"]]


def test_a_bad_file_is_said_and_the_others_go_on(sounds, tmp_path, capsys, fixed):
    paths = [str(sounds / name) for name in ("noise.wav", "text.wav", "missing.wav", "tone.flac")]
    assert main(["transcribe", *paths, "--out", str(tmp_path)]) == 6
    said = capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.txt", "tone.txt"]
    assert (tmp_path / "tone.txt").read_text() == "heard tone\n"
    assert re.search(r"text\.wav: audio .*\n", said.err) and "missing.wav" in said.err
    assert "2 of 4 files could not be transcribed" in said.err and fixed.closed


def test_without_a_folder_everything_is_printed(sounds, capsys, fixed):
    assert main(["transcribe", str(sounds / "tone.flac"), "--format", "srt"]) == 0
    assert capsys.readouterr().out == "1\n00:00:00,000 --> 00:00:01,000\nheard tone\n"
    assert main(["transcribe", str(sounds / "tone.flac"), str(sounds / "noise.wav")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[1], lines[3]] == ["heard tone", "heard noise"] and lines[0].startswith("== ")
    assert main(["transcribe", str(sounds / "tone.flac"), str(sounds / "noise.wav"), "--format", "srt"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err


def test_subtitles_ask_for_times_and_options_reach_the_model(sounds, fixed):
    tone = str(sounds / "tone.flac")
    assert main(["transcribe", tone, "--format", "vtt"]) == 0
    assert main(["transcribe", tone, "--format", "vtt", "--no-timestamps"]) == 0
    assert (
        main(
            [
                "transcribe",
                tone,
                "--language",
                "auto",
                "--task",
                "translate",
                "--prompt",
                "Ada",
                "--words",
                "--model",
                f"{MODEL}?beam_size=3",
            ]
        )
        == 0
    )
    first, second, third = fixed.asked
    assert first.timestamps and not second.timestamps and not third.timestamps
    assert (third.language, third.task, third.prompt, third.word_timestamps, third.beam_size) == (None, "translate", "Ada", True, 3)
    assert (first.language, first.max_tokens) == ("en", 224)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "demo:stt@torch?beems=3"], "unknown option 'beems'"),
        (["--model", "demo:nobody@torch"], "nobody"),
        (["--max-tokens", "0"], "max_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_meant_ends_with_2(sounds, words, said, capsys):
    assert main(["transcribe", str(sounds / "tone.flac"), *words]) == 2
    assert said in capsys.readouterr().err


def test_file_names_do_not_collide(tmp_path):
    paths = [tmp_path / "a" / "talk.wav", tmp_path / "b" / "Talk.flac", tmp_path / "talk.mp3", tmp_path / "talk.v2.wav"]
    assert list(names(paths, "srt")) == ["talk.srt", "Talk-2.srt", "talk-3.srt", "talk.v2.srt"]


def test_the_function_refuses_settings_that_do_not_exist(sounds):
    with pytest.raises(UsageError, match="unknown setting 'beam'"):
        wb.transcribe(sounds / "tone.flac", MODEL, beam=5)


def test_nothing_that_is_there_is_replaced_unless_asked(sounds, tmp_path, capsys, fixed, monkeypatch):
    """A corpus often keeps the text that somebody wrote down beside the recording."""
    (tmp_path / "tone.txt").write_text("the reference\n")
    typed = ["transcribe", str(sounds / "noise.wav"), str(sounds / "tone.flac"), "--out", str(tmp_path)]
    opened = []
    monkeypatch.setattr("workbench.models.loading.open_speech_to_text", lambda spec: opened.append(spec) or fixed)
    assert main(typed) == 2 and not opened, "said before a model is loaded"
    assert "tone.txt is there already" in capsys.readouterr().err
    assert (tmp_path / "tone.txt").read_text() == "the reference\n" and not (tmp_path / "noise.txt").exists()
    assert main([*typed, "--overwrite"]) == 0 and (tmp_path / "tone.txt").read_text() == "heard tone\n"
    assert main([*typed[:-1], str(tmp_path / "tone.txt")]) == 2
    assert "cannot be a folder for transcripts" in capsys.readouterr().err


def test_a_folder_is_no_sound(sounds, capsys, fixed):
    assert main(["transcribe", str(sounds)]) == 6
    assert main(["transcribe", str(sounds / "gone.wav")]) == 6
    assert "Traceback" not in capsys.readouterr().err
