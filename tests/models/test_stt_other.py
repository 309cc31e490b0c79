"""Models that are no Whisper: CTC on both runtimes, encoder-decoders of transformers and of mlx-audio."""

from __future__ import annotations

import io
import json
import shutil
from importlib.util import find_spec
from itertools import groupby

import numpy
import pytest

from tests.models import tiny_speech
from workbench.errors import ItemError, ModelError, UsageError
from workbench.models.loading import open_speech_to_text
from workbench.models.stt_plain import stretches
from workbench.types import Generation, Media, ModelSpec, Request

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
soundfile = pytest.importorskip("soundfile", reason="needs soundfile (pip install 'parity-workbench[speech]')")
mlx = pytest.mark.skipif(find_spec("mlx_audio") is None, reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return tiny_speech.ctc(tmp_path_factory.mktemp("ctc") / "a-name-without-a-hint")


@pytest.fixture(scope="module")
def moonshine(tmp_path_factory):
    return tiny_speech.moonshine(tmp_path_factory.mktemp("seq2seq") / "whisper-is-not-what-this-is")


def opened(text: str):
    return open_speech_to_text(ModelSpec.parse(text))


def asked(seconds: float = 1.5, seed: int = 0, **inputs) -> Request:
    file = io.BytesIO()
    soundfile.write(file, tiny_speech.wave(seconds, seed), 16000, format="WAV", subtype="FLOAT")
    return Request({"audio": Media(data=file.getvalue(), kind="audio"), "language": "en", "task": "transcribe", **inputs}, "asr-1")


def transformers_text(folder, samples) -> str:
    """transformers' own pipeline of extractor, model and tokenizer."""
    import torch
    from transformers import AutoModelForCTC, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    with torch.inference_mode():
        logits = AutoModelForCTC.from_pretrained(folder)(**processor(samples, sampling_rate=16000, return_tensors="pt")).logits
    return processor.batch_decode(logits.argmax(-1))[0]


def test_ctc_text_is_transformers(wav2vec2):
    model = opened(f"torch:{wav2vec2}?device=cpu")
    output = model.answer([asked()], Generation())[0]
    assert output.error is None and output.value == transformers_text(wav2vec2, tiny_speech.wave(1.5)).strip() != ""
    said = model.describe()
    assert (said["loop"], said["class"], said["dtype"], said["batch_size"]) == ("greedy CTC", "Wav2Vec2ForCTC", "float32", 1)
    assert set(output.seen["arrays"]) == {"samples"} and output.seen["audio"]["seconds"] == 1.5


@mlx
def test_ctc_on_mlx_is_torchs(wav2vec2):
    one, other = (opened(f"{runtime}:{wav2vec2}?device=cpu") for runtime in ("torch", "mlx"))
    request = asked(2.0, 3)
    wanted, found = (each.logits(each.prepare(request)) for each in (one, other))
    assert wanted.shape == found.shape and numpy.abs(wanted - found).max() <= 1e-5 * numpy.abs(wanted).max()
    assert one.answer([request], Generation())[0].tokens == other.answer([request], Generation())[0].tokens
    said = other.describe()
    assert said["library"] == "mlx-audio" and said["dtype"] == "float32" and said["class"].startswith("mlx_audio.stt.models.mms")


@mlx
def test_ctc_on_mlx_in_the_precision_asked_for_and_quantised(wav2vec2):
    assert opened(f"mlx:{wav2vec2}?device=cpu&dtype=float16").describe()["dtype"] == "float16"
    said = opened(f"mlx:{wav2vec2}?device=cpu&bits=8").describe()
    assert said["quantisation"].endswith("dequantised for the CPU") and said["dtype"] == "float32"
    assert "lm_head.weight" in said["quantised_weights"] and not set(said["quantised_weights"]) & set(said["plain_weights"])


def test_tokens_are_repeats_joined_without_blanks(wav2vec2):
    model = opened(f"torch:{wav2vec2}?device=cpu")
    best = model.logits(model.prepare(asked())).argmax(axis=-1).tolist()
    assert model.answer([asked()], Generation())[0].tokens == tuple(each for each, _ in groupby(best) if each != 0)


def test_a_double_letter_around_a_blank_stays_double(wav2vec2):
    model = opened(f"torch:{wav2vec2}?device=cpu")
    ids = [model.tokenizer.convert_tokens_to_ids(each) for each in ("h", "h", "e", "l", "<pad>", "l", "o")]
    frames = iter([numpy.eye(32, dtype=numpy.float32)[ids]])
    model.forward = lambda arrays: next(frames)
    heard = model.transcribe(tiny_speech.wave(0.5))
    assert heard.text == "hello" and heard.segments[0].end == 0.5 and heard.loop == "greedy CTC"


@pytest.mark.parametrize(
    ("count", "chunk", "stride"), [(10, 10, 2), (11, 10, 2), (100, 10, 2), (29, 10, 3), (16, 10, 2), (17, 10, 0)]
)
def test_stretches_cover_every_sample_once(count, chunk, stride):
    found = stretches(count, chunk, stride)
    kept = [place for first, end, left, right in found for place in range(first + left, end - right)]
    assert kept == list(range(count))
    assert all(end - first <= chunk for first, end, _, _ in found)
    inner = found[1:-1]
    assert all(left == right == stride for _, _, left, right in inner)


def test_long_audio_is_read_in_stretches_without_losing_frames(wav2vec2):
    whole = opened(f"torch:{wav2vec2}?device=cpu")
    cut = opened(f"torch:{wav2vec2}?device=cpu&chunk_seconds=2&stride_seconds=0.5")
    samples = tiny_speech.wave(7.0)
    one, other = whole.transcribe(samples), cut.transcribe(samples)
    assert (one.windows, other.windows) == (1, 6) and one.audio_seconds == other.audio_seconds == 7.0
    assert 0.8 < len(other.tokens) / len(one.tokens) < 1.25
    with pytest.raises(ItemError, match="longer than one stretch"):
        cut.prepare(asked(3.0))


def test_ctc_follows_no_tokens_and_says_why(wav2vec2):
    with pytest.raises(ItemError) as caught:
        opened(f"torch:{wav2vec2}?device=cpu").follow(asked(), [5])
    assert "no decoder" in str(caught.value)


def test_options_of_whispers_decoding_are_refused(wav2vec2, moonshine):
    for text, words in (
        (f"torch:{wav2vec2}?beam_size=2", "beam_size does nothing for a CTC model"),
        (f"torch:{wav2vec2}?loop=own", "loop does nothing for a CTC model"),
        (f"torch:{moonshine}?timestamps=true", "timestamps does nothing for a moonshine model"),
        (f"torch:{moonshine}?loop=shared", "loop=shared is not for moonshine"),
        (f"torch:{moonshine}?stride_seconds=1", "do not overlap"),
    ):
        with pytest.raises(UsageError) as caught:
            opened(text)
        assert words in str(caught.value)


def test_bad_requests_are_their_own_failure(wav2vec2):
    model = opened(f"torch:{wav2vec2}?device=cpu&batch_size=4")
    good, translated, broken = asked(), asked(task="translate"), Request({"audio": Media(data=b"no sound", kind="audio")}, "asr-1")
    found = model.answer([translated, good, broken, Request({"text": "?"}, "asr-1")], Generation())
    assert [each.error and each.error["reason"] for each in found] == ["model", None, "audio", "audio"]
    assert "one at a time" in model.describe()["notes"][-1]


def test_seq2seq_tokens_are_transformers_and_followed(moonshine):
    import torch
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    model = opened(f"torch:{moonshine}?device=cpu")
    output = model.answer([asked()], Generation(max_tokens=6))[0]
    plain = AutoModelForSpeechSeq2Seq.from_pretrained(moonshine)
    given = AutoProcessor.from_pretrained(moonshine)(tiny_speech.wave(1.5), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        wanted = plain.generate(**given, max_new_tokens=6, do_sample=False)[0].tolist()[1:]
    assert output.error is None and list(output.tokens) == wanted and output.finish in ("stop", "length")
    logits = model.follow(asked(), output.tokens)
    assert logits.shape == (len(wanted), 264) and logits.argmax(axis=-1).tolist() == wanted
    assert numpy.allclose(model.logits(model.prepare(asked()))[-1], logits[0], atol=1e-5)
    with pytest.raises(ItemError, match="0 to 263"):
        model.follow(asked(), [264])


@mlx
def test_mlx_audio_says_what_transformers_says_whatever_the_folder_is_called(moonshine):
    one, other = (opened(f"{runtime}:{moonshine}?device=cpu") for runtime in ("torch", "mlx"))
    wanted, found = (each.answer([asked()], Generation(max_tokens=6))[0] for each in (one, other))
    assert found.error is None and found.value == wanted.value and found.tokens is None
    assert other.describe()["class"].startswith("mlx_audio.stt.models.moonshine.")


@mlx
def test_a_rotation_that_mlx_audio_would_misread_is_refused(moonshine, tmp_path):
    shutil.copytree(moonshine, tmp_path / "turned")
    config = json.loads((moonshine / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5000.0
    tiny_speech.write(tmp_path / "turned", "config.json", config)
    with pytest.raises(ModelError, match="mlx-audio misreads"):
        opened(f"mlx:{tmp_path / 'turned'}")


def test_a_folder_without_its_extractor_is_refused(wav2vec2, tmp_path):
    shutil.copytree(wav2vec2, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="feature extractor or tokenizer"):
        opened(f"torch:{tmp_path / 'bare'}")
    tiny_speech.write(
        tmp_path / "bare",
        "preprocessor_config.json",
        {"feature_extractor_type": "Wav2Vec2FeatureExtractor", **tiny_speech.SOUND, "sampling_rate": 8000},
    )
    with pytest.raises(ModelError, match="8000 Hz"):
        opened(f"torch:{tmp_path / 'bare'}")


@mlx
def test_what_mlx_audio_does_not_have(tmp_path, wav2vec2):
    shutil.copytree(wav2vec2, tmp_path / "other")
    config = json.loads((wav2vec2 / "config.json").read_text())
    tiny_speech.write(tmp_path / "other", "config.json", config | {"model_type": "hubert"})
    with pytest.raises(ModelError, match="mlx-audio runs no hubert model"):
        opened(f"mlx:{tmp_path / 'other'}")
    tiny_speech.write(tmp_path / "other", "config.json", config | {"adapter_attn_dim": 16})
    with pytest.raises(ModelError, match="adapters for languages"):
        opened(f"mlx:{tmp_path / 'other'}")


@pytest.mark.parametrize("asked", [{"task": "translate"}, {"prompt": "Ada"}, {"beam_size": 5}, {"word_timestamps": True}])
def test_what_only_whisper_does_is_refused_not_left_undone(asked):
    from workbench.models.speech_to_text import Decoding
    from workbench.models.stt_plain import PlainSpeech

    with pytest.raises(ItemError, match=f"cannot do {next(iter(asked))}"):
        PlainSpeech(None, None, {}, None, {}, None).transcribe(numpy.zeros(16_000, numpy.float32), Decoding(**asked))
