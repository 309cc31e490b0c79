"""A converted Whisper, its stages run by torch under the shared decoding: it writes what the whole model writes."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from workbench.errors import ItemError, UsageError
from workbench.models import options
from workbench.models.loading import open_speech_to_text
from workbench.models.speech_to_text import FAMILY, Decoding
from workbench.types import Generation, Media, ModelSpec, Request

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

from tests.models.staged_programs import opened  # noqa: E402
from tests.models.tiny_whisper import wave  # noqa: E402
from workbench.models.stt_stages import StagesSpeech  # noqa: E402

SHORT = {"max_tokens": 8, "no_speech_threshold": None}


@pytest.fixture(scope="module")
def reference(tiny_whisper):
    return open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}"))


@pytest.fixture(scope="module")
def models(tiny_whisper):
    return {kind: opened(StagesSpeech, tiny_whisper, stateful=kind == "states") for kind in ("caches", "states")}


@pytest.fixture(scope="module", params=["caches", "states"])
def model(models, request):
    return models[request.param]


GREEDY, BEAMS = {}, {"beam_size": 3}
TIMES, SAMPLES = {"timestamps": True, "language": None}, {"temperatures": (0.6,), "best_of": 3}
PROMPT = {"prompt": "names", "task": "translate"}
# Half-precision states change the logits of this loud model by 0.5 %: what rests on near ties is tried without them.
TRIED = [("caches", each) for each in (GREEDY, BEAMS, TIMES, SAMPLES, PROMPT)] + [
    ("states", each) for each in (GREEDY, BEAMS, TIMES)
]


@pytest.mark.parametrize(("kind", "settings"), TRIED)
def test_it_writes_what_the_model_writes(reference, models, kind, settings):
    model = models[kind]
    sound, decoding = wave(2.0, 3), Decoding(**SHORT, **settings)
    found, expected = model.transcribe(sound, decoding), reference.transcribe(sound, decoding)
    assert (found.tokens, found.text, found.language) == (expected.tokens, expected.text, expected.language)
    assert found.segments[0].average_logprob == pytest.approx(expected.segments[0].average_logprob, abs=2e-3)


def test_long_audio_goes_window_by_window(reference, model):
    sound = wave(33.0, 2)
    found, expected = model.transcribe(sound, Decoding(**SHORT)), reference.transcribe(sound, Decoding(**SHORT))
    assert found.windows == expected.windows == 2 and found.tokens == expected.tokens


def test_word_times_come_from_the_cross_attention_in_one_reading(reference, model):
    wanted = Decoding(**SHORT, word_timestamps=True)
    before = model.stages["step"].calls
    model.transcribe(wave(), Decoding(**SHORT))
    plain = model.stages["step"].calls - before
    found, expected = model.transcribe(wave(), wanted), reference.transcribe(wave(), wanted)
    words = [[(word.text, word.start, word.end) for word in each.segments[0].words] for each in (found, expected)]
    assert words[0] == words[1] and words[0]
    text = sum(token < model.tokens.end for token in found.tokens)
    start = len(model.tokens.start("en", "transcribe", timestamps=False))
    assert model.stages["step"].calls - before == 2 * plain + start + text + 1  # logits and attention are of one reading


def test_teacher_forced_logits_are_the_models(reference, model):
    request = Request({"audio": _media(wave(1.0, 5)), "language": "en", "task": "transcribe"}, "test-1")
    tokens = (400, 17, 2, 50257)
    found, expected = model.follow(request, tokens), reference.follow(request, tokens)
    assert found.shape == expected.shape == (4, 51865)
    assert numpy.abs(found - expected).max() < (1e-2 if model.stages.stateful else 2e-5) * numpy.abs(expected).max()
    prepared = model.prepare(request)
    assert numpy.abs(model.logits(prepared) - reference.logits(reference.prepare(request))).max() < (
        0.3 if model.stages.stateful else 1e-3
    )


def test_an_exported_prompt_is_read_once_for_all_beams_of_a_window(model):
    (heard,) = model.runtime.encode(numpy.zeros((1, 80, 3000), dtype=numpy.float32))
    prompt = numpy.asarray([[50258, 50259, 50359]] * 3, dtype=numpy.int64)
    before = model.stages["step"].calls
    logits, cache = model.runtime.start([heard], prompt)
    assert model.stages["step"].calls - before == 3 and logits.shape == (3, 3, 51865)
    one, cache = model.runtime.step(numpy.asarray([[5], [6], [5]]), cache)
    assert numpy.array_equal(one[0], one[2]) and not numpy.array_equal(one[0], one[1])
    cache = model.runtime.reorder(cache, [1, 1, 0])
    two, _ = model.runtime.step(numpy.asarray([[7], [8], [7]]), cache)
    for row, past in enumerate(([6, 7], [6, 8], [5, 7])):
        whole = model.runtime.teacher_forced([heard], numpy.asarray([[*prompt[0], *past]]))
        assert numpy.abs(two[row] - whole[0, -1]).max() < 1e-5


def test_outputs_of_a_reference_have_no_timing_and_a_devices_have(tiny_whisper, model):
    request = Request({"audio": _media(wave(1.0, 5)), "language": "en", "task": "transcribe"}, "test-1")
    (untimed,) = model.answer([request], Generation(max_tokens=2))
    (timed,) = opened(StagesSpeech, tiny_whisper, stateful=False, evidence="device").answer([request], Generation(max_tokens=2))
    assert untimed.timing is None and timed.timing.total > 0 and untimed.tokens == timed.tokens
    assert untimed.seen["audio"]["seconds"] == 1.0


def test_what_goes_wrong_is_the_items(tiny_whisper):
    model = opened(StagesSpeech, tiny_whisper, stateful=False, batch_size="3")
    assert model.batch_size == 1 and "one at a time" in model.describe()["notes"][0]
    model.stages["step"].failing = 2
    good = Request({"audio": _media(wave(1.0, 5)), "language": "en", "task": "transcribe"}, "test-1")
    first, second = model.answer([good, good], Generation(max_tokens=2))
    assert (first.error["reason"], second.finish) == ("model", "length") and "computing the program" in first.error["why"]
    step = model.stages["step"]
    step.stage = replace(step.stage, outputs=tuple(name.replace("cross_attention", "other") for name in step.stage.outputs))
    with pytest.raises(ItemError, match="gives no attention weights"):
        model.transcribe(wave(), Decoding(**SHORT, word_timestamps=True))


def test_options_are_whispers_decoding_and_the_conversions():
    found = options.read("coreml", {"beam_size": "5", "target": "iOS17"}, FAMILY)
    assert (found["beam_size"], found["target"]) == (5, "iOS17")
    assert Decoding(**{name: found[name] for name in options.DECODING if name != "beam_size"}) == Decoding()
    for name in ("loop", "preprocessing", "chunk_seconds", "device"):
        with pytest.raises(UsageError, match=f"unknown option {name!r}"):
            options.read("coreml", {name: "own"}, FAMILY)
    with pytest.raises(UsageError, match="patience is for a beam search"):
        options.read("coreml", {"patience": "1"}, FAMILY)


def _media(samples) -> Media:
    import io

    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, 16000, format="WAV", subtype="FLOAT")
    return Media(data=stream.getvalue(), kind="audio")
