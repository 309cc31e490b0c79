"""The parts of a run that speech adds, one by one and without a model: formats, lengths, lines, libraries, progress, the table."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from scipy.stats import t

from workbench.errors import RuntimeMissing, UsageError
from workbench.metrics.stats import tango
from workbench.run import libraries, session
from workbench.run.lines import problem
from workbench.run.media_files import audio_seconds, suffix
from workbench.run.plan import plan
from workbench.run.session import OpenModel, RunningScore
from workbench.run.summary import performance, print_table, score_text
from workbench.types import Media, ModelSpec, Request, media_in


def sound(kind: str, subtype: str | None = None) -> bytes:
    numpy, soundfile = (
        pytest.importorskip("numpy"),
        pytest.importorskip("soundfile", reason="pip install 'parity-workbench[speech]'"),
    )
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * numpy.sin(numpy.arange(8000) / 20).astype("float32"), 16_000, format=kind, subtype=subtype)
    return stream.getvalue()


def picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: sound("FLAC"), "flac"),
        (lambda: sound("WAV"), "wav"),
        (lambda: sound("RF64"), "wav"),
        (lambda: sound("OGG", "VORBIS"), "ogg"),
        (lambda: sound("OGG", "OPUS"), "ogg"),
        (lambda: sound("MP3", "MPEG_LAYER_III"), "mp3"),
        (lambda: b"ID3\x04\x00\x00\x00\x00\x00\x00", "mp3"),
        (picture, "png"),
        (lambda: b"plain text", "bin"),
        (lambda: b"", "bin"),
        (lambda: b"\xff\xd8\xff\xe0 a JPEG's first bytes and no more", "bin"),
        (lambda: b"RIFF\x00\x00\x00\x00AVI LIST", "bin"),
        (lambda: b"\xff\xfe\xff\xfe", "bin"),
    ],
)
def test_the_suffix_is_what_the_bytes_are(make, wanted, tmp_path):
    path = tmp_path / "named.jpg"
    path.write_bytes(make())
    assert suffix(Media(path=path, kind="audio")) == wanted
    assert suffix(Media(path=tmp_path / "missing.wav", kind="audio")) == "bin"


def test_media_of_a_request_are_images_then_audio():
    image, audio = Media(data=b"1"), Media(data=b"2", kind="audio")
    assert media_in(Request({"text": "?", "images": [image], "audio": audio}, "1")) == [image, audio]
    assert media_in(Request({"audio": None}, "1")) == media_in(Request({"text": "?"}, "1")) == []
    assert audio_seconds(Request({"text": "?", "images": [image]}, "1")) is None


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG"])
def test_the_length_of_a_sound(kind):
    assert audio_seconds(Request({"audio": Media(data=sound(kind), kind="audio")}, "1")) == pytest.approx(0.5)


def test_a_sound_that_cannot_be_read_has_no_length():
    pytest.importorskip("soxr", reason="pip install 'parity-workbench[speech]'")
    assert audio_seconds(Request({"audio": Media(data=b"no sound", kind="audio")}, "1")) is None


LINE = {
    "id": "1",
    "group": "1",
    "groups": [],
    "input_hash": "h",
    "input": {"text": "", "media": [], "target": "a", "seen": None, "audio_seconds": 1.5},
    "output": {"value": "a", "tokens": [1], "finish": "stop", "segments": [{"start": 0, "end": 1.0, "text": " a"}]},
    "score": {"value": 1.0, "answer": "a", "reason": "parsed", "counts": {"words": 1}},
    "timing": None,
}


def test_a_line_of_speech_is_a_line():
    assert problem(LINE) is None


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("input", {"audio_seconds": "long"}, "input.audio_seconds is no number"),
        ("input", {"audio_seconds": -1}, "input.audio_seconds is no number"),
        ("input", {"audio_seconds": True}, "input.audio_seconds is no number"),
        ("output", {"segments": {"start": 0}}, "output.segments is no list"),
        ("output", {"segments": [{"start": 0, "end": None, "text": "a"}]}, "output.segments is no list"),
        ("output", {"segments": ["a"]}, "output.segments is no list"),
    ],
)
def test_a_damaged_line_is_named(part, change, words):
    assert words in problem({**LINE, part: {**LINE[part], **change}})


def test_the_libraries_of_speech_are_those_that_make_its_answers():
    mlx = SimpleNamespace(distributions=("mlx", "mlx-vlm", "transformers"))
    vlm, stt = ModelSpec.parse("demo:vlm@mlx"), ModelSpec.parse("demo:stt@mlx")
    assert libraries.libraries("vision-language", mlx, vlm) == ("mlx", "mlx-vlm", "transformers", "tokenizers", "pillow", "numpy")
    speech = libraries.libraries("speech-to-text", mlx, stt)
    assert speech[:3] == ("mlx", "mlx-whisper", "transformers") and {"soundfile", "soxr"} <= set(speech) and "pillow" not in speech
    assert "mlx-audio" in libraries.libraries("speech-to-text", mlx, stt.with_options(library="mlx-audio"))


@pytest.mark.parametrize(
    ("model", "lacking", "extra"),
    [
        ("demo:stt@torch", "soxr", "speech"),
        ("demo:stt@mlx", "mlx-whisper", "mlx"),
        ("demo:stt@mlx?library=mlx-audio", "mlx-audio", "mlx"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_begun(model, lacking, extra, monkeypatch):
    def here(names, fix):
        return SimpleNamespace(ok=lacking not in names, reason=f"{lacking} is not installed", fix=fix)

    monkeypatch.setattr(libraries, "package_availability", here)
    with pytest.raises(RuntimeMissing, match="speech to text cannot run") as caught:
        libraries.check_libraries("speech-to-text", ModelSpec.parse(model))
    assert lacking in caught.value.why and extra in caught.value.fix
    libraries.check_libraries("vision-language", ModelSpec.parse(model))


def test_a_typing_error_in_an_option_of_speech_is_refused_before_anything_is_begun():
    with pytest.raises(UsageError, match="unknown option 'beamsize'"):
        libraries.check_libraries("speech-to-text", ModelSpec.parse("demo:stt@mlx?beamsize=5"))


def test_a_family_that_is_not_run_is_refused():
    task = SimpleNamespace(name="hums", family="music")
    with pytest.raises(UsageError, match="asks a music model"):
        from workbench.run import plan as planning

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "load_task", lambda name: task)
            plan("hums", "demo:stt@torch")


def test_another_family_closes_the_former_model(monkeypatch):
    log = []

    def opened(spec, family):
        log.append(f"open {family}")
        return SimpleNamespace(close=lambda: log.append(f"close {family}"))

    monkeypatch.setattr(session, "open_model", opened)
    spec = ModelSpec.parse("torch:both")
    with OpenModel() as models:
        assert [models.get(spec, family)[1] for family in ("vision-language", "speech-to-text", "speech-to-text")] == [
            True,
            True,
            False,
        ]
    assert log == ["open vision-language", "close vision-language", "open speech-to-text", "close speech-to-text"]


def counted(words: int, wrong: int) -> dict:
    return {"score": {"value": None, "counts": {"words": words, "substitutions": wrong, "deletions": 0, "insertions": 0}}}


def test_the_running_rate_says_what_it_rests_on():
    running = RunningScore(SimpleNamespace(scorer="wer whisper"), [counted(8, 1)])
    running.add([counted(12, 1), counted(0, 0)])
    error = (3 / 2 * (0.2**2 + 0.2**2)) ** 0.5 / 20  # linearised: errors - 0.1 * words of three utterances
    assert str(running) == f"WER 10.0 ± {100 * t.ppf(0.975, 2) * error:.1f} % (whisper 1, 2 errors in 20 words)"
    assert str(RunningScore(SimpleNamespace(scorer="wer none"), [])) == "WER - (none 1, 0 errors in 0 words)"
    assert str(RunningScore(SimpleNamespace(scorer="wer none"), [counted(5, 0)] * 20)).startswith(
        f"WER 0.0 ± {100 * tango(0, 0, 20, 0.95)[1] / 5:.1f} %"
    )
    own = SimpleNamespace(scorer="wer of my own")  # a name that an own eval may take
    assert str(RunningScore(own, [{"score": {"value": 0.5, "counts": {"correct": 1}}}])) == "score 50.0 %"
    kept = RunningScore(SimpleNamespace(scorer="wer whisper"), [{"score": {"value": 0.0, "counts": {"correct": 0}}}])
    assert str(kept) == "WER - (whisper 1, 0 errors in 0 words)"


SPOKEN = {
    "n": 4,
    "headline": {"metric": "wer", "value": 5.25, "unit": "%", "of": None},
    "interval": {"low": 0.041, "high": 0.0662, "unit": "fraction"},
    "wer": 0.0525,
    "profile": "whisper",
    "normaliser": {"id": "whisper-english", "version": "1"},
    "words": 2230,
    "errors": 117,
    "item_errors": 0,
    "performance": {"items_per_second": 2.0, "rtfx": 6.4},
}
SEEN = {
    "n": 400,
    "headline": {"metric": "accuracy", "value": 71.5, "unit": "%", "of": None},
    "interval": {"low": 66.9, "high": 75.7, "unit": "%"},
    "item_errors": 1,
    "performance": {"items_per_second": 30.0},
}


def run_of(task: str, results: dict):
    return SimpleNamespace(results=results, manifest={"task": {"name": task}, "model": {"text": "demo"}, "evidence": "host"})


def test_the_table_shows_both_families(capsys):
    print_table([run_of("asr-sample", SPOKEN), run_of("mmmu-sample", SEEN)])
    head, spoken, seen = (line for line in capsys.readouterr().out.splitlines() if "task" in line or "sample" in line)
    assert "word errors" in head and "RTFx" in head
    for cell in ("WER 5.25 % (whisper 1)", "4.1 to 6.6 %", "117 of 2,230", "6.4"):
        assert cell in spoken
    assert "71.50 %" in seen and "66.9 to 75.7 %" in seen and "WER" not in seen
    print_table([run_of("mmmu-sample", SEEN)])
    assert "RTFx" not in (alone := capsys.readouterr().out) and "word errors" not in alone


def test_a_rate_in_words_is_never_bare():
    assert score_text(SPOKEN) == "WER 5.25 % (whisper 1, 117 errors in 2,230 words)"
    assert score_text({"headline": SPOKEN["headline"], "wer": "an own eval's"}) == "5.25 %"


def test_speed_needs_audio_and_time():
    timed = {"total": 0.5, "first": None, "n_out": 3}
    lines = [
        {"input": {"audio_seconds": 4.0}, "timing": timed},
        {"input": {"audio_seconds": 6.0}, "timing": timed},
        {"input": {"audio_seconds": 100.0}, "timing": None},
        {"input": None, "timing": timed},
    ]
    found = performance(lines, evidence="host")
    assert (found["audio_seconds"], found["rtf"], found["rtfx"]) == (10.0, 0.1, 10.0) and found["n"] == 3
    assert "rtf" not in performance(lines[3:], evidence="host")
