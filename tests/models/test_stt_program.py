"""Exported encoders and decoder steps: torch modules wrapped as programs write what the model itself writes."""

from __future__ import annotations

import numpy
import pytest

from tests.models.tiny_whisper import HEADS, LAYERS, POSITIONS, WIDTH, small_tokens, wave
from workbench.errors import ItemError, ModelError
from workbench.models.loading import open_speech_to_text
from workbench.models.speech_to_text import Decoding
from workbench.models.stt import WhisperSpeech
from workbench.models.stt_program import Layout, ProgramSpeech, Sizes
from workbench.types import ModelSpec

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

NAMES = [f"past.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
DECODING = Decoding(max_tokens=12, no_speech_threshold=None)


@pytest.fixture(scope="module")
def model(tiny_whisper):
    return open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}"))


def encoder_of(whisper):
    @torch.inference_mode()
    def program(given):
        return {"encoded": whisper.model.encoder(torch.from_numpy(given["mel"])).last_hidden_state.numpy()}

    return program


def stateless(whisper):
    """All tokens at each step."""

    @torch.inference_mode()
    def program(given):
        assert set(given) == {"tokens", "encoded"}
        ids, encoded = (torch.from_numpy(given[name]) for name in ("tokens", "encoded"))
        hidden = whisper.model.decoder(input_ids=ids, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        return {"logits": whisper.proj_out(hidden).numpy()}

    return program


def growing(whisper, fixed=False, attention=False):
    """Keys and values as arrays in and out; ``fixed``: of all positions, of which ``position`` are filled."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    @torch.inference_mode()
    def program(given):
        ids, encoded = (torch.from_numpy(given[name]) for name in ("tokens", "encoded"))
        filled = int(given["position"][0]) if fixed else given[NAMES[0]].shape[2]
        held = DynamicCache()
        if filled:
            for layer in range(LAYERS):
                held.update(*(torch.from_numpy(given[f"past.{layer}.{part}"][:, :, :filled]) for part in ("key", "value")), layer)
        cache = EncoderDecoderCache(held, DynamicCache())
        found = whisper.model.decoder(
            input_ids=ids, encoder_hidden_states=encoded, past_key_values=cache, use_cache=True, output_attentions=attention
        )
        outputs = {"logits": whisper.proj_out(found.last_hidden_state).numpy()}
        if attention:
            outputs["attention"] = torch.stack(found.cross_attentions, dim=1).numpy()
        for layer, each in enumerate(found.past_key_values.self_attention_cache.layers):
            for part, value in (("key", each.keys), ("value", each.values)):
                grown = value.numpy()
                if fixed:
                    grown = numpy.pad(grown, ((0, 0), (0, 0), (0, POSITIONS - grown.shape[2]), (0, 0)))
                outputs[f"present.{layer}.{part}"] = grown
        return outputs

    return program


def layout(kind):
    if kind == "all tokens again":
        return Layout()
    length = POSITIONS if kind == "fixed caches" else 0
    return Layout(
        caches={name: name.replace("past", "present") for name in NAMES},
        empty={name: (HEADS, length, WIDTH // HEADS) for name in NAMES},
        position="position" if kind == "fixed caches" else None,
        one_token=kind == "one token at a time",
        attention="attention" if kind == "growing caches" else None,
    )


def wrapped(model, kind):
    whisper = model.model
    decoder = stateless(whisper) if kind == "all tokens again" else growing(whisper, kind == "fixed caches")
    runtime = ProgramSpeech(encoder_of(whisper), decoder, layout(kind), Sizes())
    return WhisperSpeech(model.spec, runtime, model.tokens, {"batch_size": 2})


@pytest.mark.parametrize("kind", ["all tokens again", "growing caches", "fixed caches", "one token at a time"])
def test_programs_write_what_the_model_writes(model, kind):
    exported = wrapped(model, kind)
    for seed, settings in ((1, {"beam_size": 3}), (2, {"timestamps": True, "language": None})):
        decoding = Decoding(max_tokens=8, no_speech_threshold=None, **settings)
        found, expected = exported.transcribe(wave(2.0, seed), decoding), model.transcribe(wave(2.0, seed), decoding)
        assert found.tokens == expected.tokens and found.language == expected.language
        assert found.segments[0].average_logprob == pytest.approx(expected.segments[0].average_logprob, abs=1e-4)


def test_word_times_need_the_attention_as_an_output(model):
    whisper = model.model
    whisper.set_attn_implementation("eager")
    try:
        runtime = ProgramSpeech(encoder_of(whisper), growing(whisper, attention=True), layout("growing caches"), Sizes())
        exported = WhisperSpeech(model.spec, runtime, model.tokens, {}, {"alignment_heads": [[1, 0], [1, 1]]})
        wanted = Decoding(max_tokens=12, no_speech_threshold=None, word_timestamps=True)
        found, expected = exported.transcribe(wave(), wanted), model.transcribe(wave(), wanted)
    finally:
        whisper.set_attn_implementation("sdpa")
    assert [(word.text, word.start, word.end) for word in found.segments[0].words] == [
        (word.text, word.start, word.end) for word in expected.segments[0].words
    ]
    with pytest.raises(ItemError, match="no attention weights"):
        wrapped(model, "all tokens again").transcribe(wave(), wanted)


def test_programs_without_their_outputs_are_named(model):
    tokens = small_tokens()
    runtime = ProgramSpeech(lambda _: {"hidden": numpy.zeros((1, 2, 3))}, lambda _: {}, Layout(), Sizes())
    with pytest.raises(ItemError, match="the encoder gives no 'encoded'") as caught:
        WhisperSpeech(model.spec, runtime, tokens, {}).transcribe(wave(), DECODING)
    assert caught.value.why == "it gives hidden"
    with pytest.raises(ModelError, match="do not have the same names"):
        Layout(caches={"a": "b"})
    with pytest.raises(ModelError, match="needs caches"):
        Layout(one_token=True)
