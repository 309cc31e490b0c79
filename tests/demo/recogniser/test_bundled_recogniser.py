"""The folder ``demo:stt`` as it ships."""

import json

import pytest

from workbench import locate
from workbench.demo.recogniser import folder, tokens

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def place():
    return locate.demo_model("stt")


@pytest.fixture(scope="module")
def state(place):
    from safetensors.torch import load_file

    return load_file(place / folder.WEIGHTS)


def test_weights_are_half_precision_and_small(place, state):
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert all(torch.isfinite(value).all() for value in state.values())
    assert (place / folder.WEIGHTS).stat().st_size <= 16_000_000


def test_transformers_loads_every_weight_and_no_other(place):
    from transformers import WhisperForConditionalGeneration

    model, found = WhisperForConditionalGeneration.from_pretrained(place, output_loading_info=True)
    assert not any(found[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.d_model == folder.WIDTH
    assert model.config.d_model % 32 == 0  # MLX quantises groups of 32


def test_settings_are_the_scripts(place):
    pytest.importorskip("mlx_whisper")
    stored = json.loads((place / "config.json").read_text())
    assert stored == folder.config()
    generation = json.loads((place / "generation_config.json").read_text())
    heads = generation["alignment_heads"]
    assert generation == json.loads(json.dumps(folder.generation_config(heads)))
    assert all(layer < folder.DECODER_LAYERS and head < folder.HEADS for layer, head in heads)


def test_tokens_that_training_never_used_share_one_row(state):
    table = state["model.decoder.embed_tokens.weight"]
    japanese = tokens.ENGLISH_ID + 7  # <|ja|>
    same = (table == table[japanese]).all(1)
    assert 49_000 < int(same.sum()) < 50_500
    assert not same[list(tokens.PROMPT)].any()


def test_the_encoder_positions_are_whispers_sinusoids(state):
    from workbench.demo.recogniser.network import sinusoids

    wanted = sinusoids(folder.AUDIO_POSITIONS, folder.WIDTH).half()
    assert torch.equal(state["model.encoder.embed_positions.weight"], wanted)


def test_it_hears_a_few_samples_and_no_words_in_silence():
    from workbench.demo.recogniser import measure
    from workbench.metrics import wer

    pytest.importorskip("soundfile")
    rows, waves = measure.read_samples(10)
    known = [place for place, row in enumerate(rows) if row["heard"]]
    waves = [waves[place] for place in known] + measure.quiet_clips()["white"][5:6]
    *heard, quiet = measure.Transcriber(locate.demo_model("stt")).hear(waves)
    counts = measure.counts_of([rows[place] for place in known], heard)
    assert wer.rates(counts)["wer"] < 0.25  # of a handful of clips; the README has the full figures
    assert quiet.text == ""
    assert quiet.no_speech > 0.6
