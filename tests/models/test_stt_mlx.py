"""Both MLX Whispers against transformers on the same weights: encoder, logits, steps, searches, precisions, and their own loops."""

from __future__ import annotations

import json

import numpy
import pytest

from tests.models import tiny_speech
from workbench.errors import ModelError, UsageError
from workbench.models.loading import open_speech_to_text
from workbench.models.speech_to_text import Decoding
from workbench.types import Generation, Media, ModelSpec, Request

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
pytest.importorskip("mlx_audio", reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")
pytest.importorskip("mlx_whisper", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")

LIBRARIES = ["mlx-whisper", "mlx-audio"]
libraries = pytest.mark.parametrize("library", LIBRARIES)
POSITIONS = 100
TOKENS = numpy.array([[50258, 50259, 50359, 50363, 400, 1029]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Windows of one second, so that a test takes no time: 100 positions of the encoder."""
    return tiny_speech.whisper(tmp_path_factory.mktemp("whisper") / "no-hint-of-its-type", max_source_positions=POSITIONS)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Windows of 30 s, which the libraries' own loops are made for."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    return tiny_speech.whisper(tmp_path_factory.mktemp("whisper") / "long", alignment=[[0, 0]], **sizes, **heads)


@pytest.fixture(scope="module")
def mel():
    return numpy.random.default_rng(0).standard_normal((2, 80, 2 * POSITIONS)).astype(numpy.float32)


@pytest.fixture(scope="module")
def witness(folder, mel):
    """transformers' encoder output and logits in float32."""
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        given = torch.tensor(mel)
        encoded = model.model.encoder(given).last_hidden_state
        ids = torch.tensor(TOKENS).repeat(2, 1)
        return encoded.numpy(), model(encoder_outputs=(encoded,), decoder_input_ids=ids).logits.numpy()


def opened(folder, library: str = "mlx-whisper", **options):
    text = "&".join(f"{name}={value}" for name, value in {"device": "cpu", "library": library, **options}.items())
    return open_speech_to_text(ModelSpec.parse(f"mlx:{folder}?{text}"))


def encoded(model, mel):
    from mlx import core

    return numpy.array(model.runtime.encode(mel).astype(core.float32))


def near(found, wanted, of_the_scale: float) -> bool:
    return float(numpy.abs(found - wanted).max()) <= of_the_scale * float(numpy.abs(wanted).max())


@libraries
def test_encoder_and_logits_agree_with_transformers_in_float32(folder, mel, witness, library):
    model = opened(folder, library)
    assert near(encoded(model, mel), witness[0], 1e-5)
    logits = model.runtime.teacher_forced(model.runtime.encode(mel), numpy.repeat(TOKENS, 2, axis=0))
    assert near(logits, witness[1], 1e-5)
    said = model.describe()
    assert (said["library"], said["dtype"], said["quantisation"]) == (library, "float32", None)
    assert said["positions"] == "the checkpoint's own sinusoids"
    stored = sum(value.size for name, value in _weights(folder).items() if name != "proj_out.weight")
    assert said["parameters"] == stored


def test_the_librarys_own_table_is_what_parts_the_encoders(long):
    """Without the checkpoint's table both libraries' encoders are 1e-4 off, which a comparison would take for the runtime's doing."""
    import torch
    from mlx_whisper.whisper import sinusoids
    from transformers import WhisperForConditionalGeneration

    mel = numpy.random.default_rng(0).standard_normal((1, 80, 3000)).astype(numpy.float32)
    with torch.inference_mode():
        hub = WhisperForConditionalGeneration.from_pretrained(long).eval()
        wanted = hub.model.encoder(torch.tensor(mel)).last_hidden_state.numpy()
    model = opened(long)
    apart = [numpy.abs(encoded(model, mel) - wanted).max()]
    model.model.encoder._positional_embedding = sinusoids(1500, 16)
    apart.append(numpy.abs(encoded(model, mel) - wanted).max())
    assert apart[0] <= 1e-5 * numpy.abs(wanted).max() and apart[1] > 3 * apart[0] and apart[1] > 2e-5


@libraries
def test_steps_with_a_cache_are_one_pass(folder, mel, library):
    runtime = opened(folder, library).runtime
    sound = runtime.encode(mel[:1])
    whole = runtime.teacher_forced(sound, TOKENS)
    logits, cache = runtime.start(sound, TOKENS[:, :4])
    assert near(logits, whole[:, :4], 1e-5)
    for place in (4, 5):
        logits, cache = runtime.step(TOKENS[:, place : place + 1], cache)
        assert near(logits, whole[:, place], 1e-5)


@libraries
def test_one_sound_serves_many_rows_and_rows_are_reordered(folder, mel, library):
    runtime = opened(folder, library).runtime
    rows = numpy.array([[50258, 400], [50258, 1029], [50258, 11]])
    _, cache = runtime.start(runtime.encode(mel[:1]), rows)
    again = numpy.array([[7], [8], [9]])
    kept, _ = runtime.step(again, runtime.reorder(cache, [2, 0, 0]))
    wanted = runtime.teacher_forced(runtime.encode(mel[:1]), numpy.concatenate([rows[[2, 0, 0]], again], axis=1))[:, -1]
    assert near(kept, wanted, 1e-5)
    both = runtime.encode(mel)
    _, cache = runtime.start(both, rows[:2])
    swapped, _ = runtime.step(again[:2], runtime.reorder(cache, [1, 0]))
    wanted = runtime.teacher_forced(runtime.select(both, [1, 0]), numpy.concatenate([rows[[1, 0]], again[:2]], axis=1))[:, -1]
    assert near(swapped, wanted, 1e-5)


def test_a_cache_may_be_continued_twice(folder, mel):
    """The library's decoder writes into the list that it is given."""
    runtime = opened(folder).runtime
    _, cache = runtime.start(runtime.encode(mel[:1]), TOKENS[:, :4])
    first, _ = runtime.step(TOKENS[:, 4:5], cache)
    runtime.step(TOKENS[:, 5:6], cache)
    assert numpy.array_equal(first, runtime.step(TOKENS[:, 4:5], cache)[0])


@libraries
def test_cross_attention_is_transformers(folder, mel, library):
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        found = model(torch.tensor(mel[:1]), decoder_input_ids=torch.tensor(TOKENS), output_attentions=True).cross_attentions
    wanted = torch.stack([layer[0] for layer in found]).numpy()
    runtime = opened(folder, library).runtime
    given = runtime.cross_attention(runtime.encode(mel[:1]), TOKENS)
    assert given.shape == (2, 2, 6, POSITIONS) and near(given, wanted, 1e-5)


@libraries
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 8e-2)])
def test_half_precision_is_what_was_asked_for(folder, mel, witness, library, dtype, tolerance):
    model = opened(folder, library, dtype=dtype)
    assert model.describe()["dtype"] == dtype
    sound = model.runtime.encode(mel[:1])
    assert str(sound.dtype) == f"mlx.core.{dtype}"
    logits = model.runtime.teacher_forced(sound, TOKENS)
    assert near(logits, witness[1][:1], tolerance) and not near(logits, witness[1][:1], 1e-5)


@libraries
def test_quantised_on_load_says_which_weights(folder, mel, library):
    from mlx import core

    model = opened(folder, library, bits=8, dequantise="false")
    said = model.describe()
    assert said["quantisation"].startswith("8-bit, group 32, ") and "dequantised" not in said["quantisation"]
    packed, plain = set(said["quantised_weights"]), set(said["plain_weights"])
    assert "decoder.token_embedding.weight" in packed and "encoder.conv1.weight" in plain and not packed & plain
    layer = model.model.encoder.blocks[0].mlp1
    assert layer.weight.dtype == core.uint32 and layer.bits == 8
    other = opened(folder, library, bits=8)
    assert other.describe()["quantisation"] == said["quantisation"] + ", dequantised for the CPU"
    assert other.describe()["quantised_weights"] == said["quantised_weights"] and other.describe()["dtype"] == "float32"
    sound = other.runtime.encode(mel[:1])
    assert near(model.runtime.teacher_forced(sound, TOKENS), other.runtime.teacher_forced(sound, TOKENS), 1e-4)


def test_rows_that_are_no_whole_groups_cannot_be_quantised(long):
    with pytest.raises(ModelError) as caught:
        opened(long, bits=4, group_size=128)
    assert "whole groups of 128" in str(caught.value)


@libraries
def test_answers_are_torchs_token_for_token(folder, library):
    torch_model = open_speech_to_text(ModelSpec.parse(f"torch:{folder}?device=cpu"))
    model = opened(folder, library)
    requests = [asked(seed) for seed in (1, 2)]
    wanted = torch_model.answer(requests, Generation(max_tokens=8))
    found = model.answer(requests, Generation(max_tokens=8))
    assert [each.error for each in found] == [None, None]
    assert [each.tokens for each in found] == [each.tokens for each in wanted]
    one, other = (each.follow(requests[0], [5, 6, 7]) for each in (model, torch_model))
    assert near(one, other, 1e-5)


def asked(seed: int) -> Request:
    return Request({"audio": sound(seed, 0.8), "language": "en", "task": "transcribe"}, "asr-1")


def sound(seed: int, seconds: float) -> Media:
    import io

    soundfile = pytest.importorskip("soundfile", reason="needs soundfile (pip install 'parity-workbench[speech]')")
    file = io.BytesIO()
    soundfile.write(file, tiny_speech.wave(seconds, seed), 16000, format="WAV", subtype="FLOAT")
    return Media(data=file.getvalue(), kind="audio")


@libraries
def test_own_log_mel_is_close_to_the_shared_one(folder, library):
    shared, own = (
        opened(folder, library, preprocessing=each).prepare(asked(3)).arrays["input_features"] for each in ("shared", "own")
    )
    assert shared.shape == own.shape == (1, 80, 2 * POSITIONS)
    assert 0 < numpy.abs(shared - own).max() < 1e-3


@libraries
def test_own_loop_is_named_and_gives_the_shared_loops_greedy_tokens(long, library):
    model = opened(long, library, loop="own")
    name = {"mlx-whisper": "mlx_whisper.transcribe", "mlx-audio": "mlx_audio.stt.models.whisper.Model.generate"}[library]
    assert (model.describe()["loop"], model.describe()["preprocessing"]) == (name, "own")
    shared = opened(long, library, preprocessing="own")
    asked = Decoding(max_tokens=4, no_speech_threshold=None)
    # 30 s exactly: what is missing of a window the libraries fill with zeros of the log-mel, not with silence.
    one, other = (each.transcribe(tiny_speech.wave(30.0, 4), asked) for each in (model, shared))
    assert one.loop == name and other.loop == "shared" and one.audio_seconds == 30.0
    text = [token for token in other.tokens if token < 50257]
    assert [token for token in one.tokens if token < 50257] == text and len(text) > 0
    assert one.finish == other.finish


def test_the_librarys_cache_keeps_one_model_whatever_the_precision_and_ours_does_not(long):
    import sys

    import mlx_whisper  # noqa: F401  its name ``transcribe`` is a function; the module is found by its full name
    from mlx import core

    holder = sys.modules["mlx_whisper.transcribe"].ModelHolder
    full, half = (opened(long, loop="own", dtype=each) for each in ("float32", "float16"))
    holder.model, holder.model_path = full.model, "somewhere"
    assert holder.get_model("somewhere", core.float16).encoder.conv1.weight.dtype == core.float32  # the trap
    asked = Decoding(max_tokens=2, no_speech_threshold=None)
    texts = [each.transcribe(tiny_speech.wave(1.0), asked).text for each in (full, half, full)]
    assert texts[0] == texts[2] != ""
    assert half.model.encoder.conv1.weight.dtype == core.float16 and half.describe()["dtype"] == "float16"
    assert holder.model is None and holder.model_path is None  # nothing is left for the next caller


def test_what_mlx_does_not_compute_is_refused(folder, tmp_path):
    import shutil

    for name, value in (
        ("activation_function", "relu"),
        ("encoder_ffn_dim", 64),
        ("scale_embedding", True),
        ("decoder_attention_heads", 3),
    ):
        other = tmp_path / name
        shutil.copytree(folder, other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ModelError) as caught:
            opened(other)
        assert "no Whisper that MLX computes" in str(caught.value) or "divided" in str(caught.value)


def test_a_packed_folder_is_not_packed_again(folder, tmp_path):
    from workbench.convert.whisper import to_mlx_whisper

    done = to_mlx_whisper(folder, tmp_path / "packed", bits=8, check=False)
    with pytest.raises(UsageError, match="quantised already"):
        opened(done.target, bits=4)
    with pytest.raises(ModelError, match="laid out for mlx-whisper"):
        open_speech_to_text(ModelSpec.parse(f"torch:{done.target}"))


def _weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
