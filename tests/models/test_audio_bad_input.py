"""Every bad sound through the demo recogniser: a clear result or a clear error, the others undisturbed, and the run goes on."""

import json

import numpy
import pytest

from tests.data.sounds import RATE, WAVE, written
from workbench.data.card import FromCard
from workbench.types import Generation, Media, ModelSpec, Request

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SPEC = "demo:stt@torch?batch_size=3"
FEW = Generation(max_tokens=2)
GOOD = written(WAVE)


def with_bad_sample(value):
    samples = WAVE.copy()
    samples[4_000] = value
    return written(samples, kind="WAV", subtype="FLOAT")


HEARD = {
    "good": GOOD,
    "0.01 s": written(WAVE[:160]),
    "one sample": written(WAVE[:1]),
    "silence": written(numpy.zeros(RATE)),
    "clipping": written(numpy.clip(WAVE * 20, -1, 1)),
    "8 channels at 192 kHz": written(numpy.repeat(numpy.repeat(WAVE, 12)[:, None], 8, axis=1), 192_000, "WAV"),
    "floats above full scale": written(WAVE * 1e4, kind="WAV", subtype="FLOAT"),
}
REFUSED = {
    "empty file": (b"", "audio is an empty file"),
    "no samples": (written(WAVE[:0], kind="WAV"), "audio holds no sound"),
    "not a number": (with_bad_sample(numpy.nan), "audio holds a sample that is no sound"),
    "infinite": (with_bad_sample(numpy.inf), "audio holds a sample that is no sound"),
    "cut off FLAC": (GOOD[: len(GOOD) // 2], "audio is cut off"),
    "cut off WAV": (written(WAVE, kind="WAV")[:10_000], "audio is cut off"),
    "text": (b"this is no sound\n" * 50, "audio is text, not sound"),
    "bytes": (bytes(range(256)) * 8, "audio is in no known sound format, cut off or damaged"),
}


def request(data):
    return Request({"audio": Media(data=data, kind="audio"), "language": "en", "task": "transcribe"}, "test")


@pytest.fixture(scope="module")
def model():
    from workbench.models.loading import open_speech_to_text

    opened = open_speech_to_text(ModelSpec.parse(SPEC))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def outputs(model):
    """Good and bad ones mixed in one call, by name."""
    names = [name for pair in zip(REFUSED, HEARD, strict=False) for name in pair] + list(REFUSED)[len(HEARD) :]
    sounds = HEARD | {name: data for name, (data, _) in REFUSED.items()}
    assert set(names) == set(sounds)
    return dict(zip(names, model.answer([request(sounds[name]) for name in names], FEW), strict=True))


@pytest.mark.parametrize("name", list(HEARD))
def test_odd_sounds_are_heard_as_they_would_be_alone(name, outputs, model):
    output = outputs[name]
    assert output.error is None
    assert isinstance(output.value, str)
    alone = model.answer([request(HEARD[name])], FEW)[0]
    assert (alone.value, alone.tokens, alone.finish) == (output.value, output.tokens, output.finish)


@pytest.mark.parametrize("name", list(REFUSED))
def test_bad_sounds_are_that_items_error(name, outputs):
    output = outputs[name]
    assert (output.value, output.finish, output.error["reason"]) == (None, "error", "audio")
    assert output.error["what"].startswith(REFUSED[name][1])
    assert output.error["why"] or output.error["fix"]
    assert "0x" not in json.dumps(output.error)


def test_what_was_done_to_a_sound_is_recorded(outputs):
    eight = outputs["8 channels at 192 kHz"].seen["audio"]
    assert (eight["channels"], eight["mono"], eight["resampled"]) == (8, "mean of 8 channels", "soxr HQ, 192000 to 16000 Hz")
    assert "clipped" in outputs["clipping"].seen["audio"]["warnings"][0]
    assert outputs["clipping"].seen["audio"]["clipped"] > 0.5
    assert outputs["silence"].seen["audio"]["peak"] == 0.0


def test_the_run_goes_on(tmp_path):
    from workbench.run.runner import evaluate
    from workbench.tasks import asr

    rows = []
    for number, (name, data) in enumerate((HEARD | {name: data for name, (data, _) in REFUSED.items()}).items()):
        (tmp_path / f"{number}.wav").write_bytes(data)
        rows.append({"id": name, "audio": f"{number}.wav", "text": "good morning"})
    rows.append({"id": "punctuation", "audio": "0.wav", "text": "?! ,"})
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = tmp_path / "bad.toml"
    card.write_text(
        'path = "."\nfiles = ["items.jsonl"]\nsplit = "test"\nlicence = "x"\n'
        '[columns]\nask = ["id", "audio"]\nscore = ["id", "text"]\nmedia = ["audio"]\n'
    )
    task = asr.build("bad-sounds", "sounds that are hard to hear", source=FromCard(str(card), asr.to_sample))
    run = evaluate(task, SPEC, runs=tmp_path / "runs", max_tokens=2)
    assert run.status == "complete"
    assert list(run.items()) == [row["id"] for row in rows]
    assert run.results["item_errors"] == len(REFUSED)
    for name in REFUSED:
        item = run.items()[name]
        assert item["output"]["error"]["reason"] == "audio"
        assert item["score"]["counts"]["deletions"] == item["score"]["counts"]["words"] == 2
    assert run.items()["punctuation"]["score"]["counts"]["words"] == 0
    assert run.results["words"] == 2 * (len(HEARD) + len(REFUSED))
