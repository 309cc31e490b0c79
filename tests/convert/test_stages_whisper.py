"""Whisper in stages against transformers' encoder, its decoder with its own caches, and its cross-attention."""

from __future__ import annotations

import json

import numpy
import pytest

from tests.convert import staged_models as made
from workbench.errors import ModelError, UsageError

pytest.importorskip("transformers")

CLASS = "WhisperForConditionalGeneration"
PROMPT = [2, 7, 9]
SIZES = {"mels-80": {}, "mels-128": {"mels": 128, "vocabulary": 61, "decoder_layers": 3, "scale_embedding": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("whisper")
    saved = {name: made.whisper(where / name, **settings) for name, settings in SIZES.items()}
    return lambda name: saved[name]


@pytest.fixture(scope="module")
def plain(folder):
    from workbench.convert.stages import stages_of

    cut = {name: stages_of(folder(name), stateful=False) for name in SIZES}
    return lambda name: cut[name]


def sound(stages, seed=0):
    """A window of noise and a prompt, as the family prepares them."""
    mel = numpy.random.default_rng(seed).standard_normal((1, stages.sizes["mels"], stages.sizes["frames"]))
    return {"input_features": mel.astype(numpy.float32), "input_ids": numpy.array([PROMPT])}


def decoded(model, arrays, count):
    """(tokens, logits of each, encoder's output) of transformers' decoder with its own caches."""
    import torch

    with torch.no_grad():
        encoded = model.model.encoder(torch.from_numpy(arrays["input_features"]))
        given, past, tokens, rows = torch.from_numpy(arrays["input_ids"]), None, [], []
        while len(tokens) < count:
            found = model(decoder_input_ids=given, encoder_outputs=encoded, past_key_values=past, use_cache=True)
            rows.append(found.logits[0])
            tokens.append(int(found.logits[0, -1].argmax()))
            given, past = torch.tensor([tokens[-1:]]), found.past_key_values
    return tokens, torch.cat(rows).numpy(), encoded.last_hidden_state.numpy()


@pytest.mark.parametrize("name", SIZES)
def test_chained_stages_are_transformers_decoder_with_its_caches(name, folder, plain):
    stages, model = plain(name), made.own(folder(name), CLASS)
    assert stages.sizes["frames"] == 40 and stages.sizes["context"] == 24 and stages.sizes["mels"] == int(name[-3:].strip("-"))
    for seed in (0, 1):
        arrays = sound(stages, seed)
        expected, rows, encoded = decoded(model, arrays, 8)
        tokens: list[int] = []
        found: list = []
        while len(tokens) < 8:
            feeds = stages.feeds(arrays, tokens)
            found += [stages["step"].run(feed)[0] for feed in (feeds["step"][-1:] if tokens else feeds["step"])]
            tokens.append(int(found[-1]["logits"][0, 0].argmax()))
        assert tokens == expected and len(set(tokens)) > 1
        for step, row in zip(found, rows, strict=True):
            assert made.relative(step["logits"][0, 0], row) < 1e-5
        (feed,) = feeds["encoder"]
        assert made.relative(stages["encoder"].run(feed)[0]["encoded"], encoded) < 1e-6
        words = numpy.random.default_rng(seed).integers(0, stages.sizes["vocabulary"], 21).tolist()
        forced = forcing(model, encoded, [*PROMPT, *words])
        steps = [stages["step"].run(feed)[0] for feed in stages.feeds(arrays, words)["step"]]
        for at, step in enumerate(steps):
            assert made.relative(step["logits"][0, 0], forced["logits"][at]) < 1e-5
            assert made.relative(step["cross_attention"][:, :, 0], forced["attention"][:, :, at]) < 1e-5


def forcing(model, encoded, ids):
    """transformers' logits (tokens, vocabulary) and attention to the sound (layers, heads, tokens, frames), all tokens read at once."""
    import torch

    with torch.no_grad():
        found = model.model.decoder(
            input_ids=torch.tensor([ids]), encoder_hidden_states=torch.from_numpy(encoded), use_cache=False, output_attentions=True
        )
        return {
            "logits": model.proj_out(found.last_hidden_state)[0].numpy(),
            "attention": torch.cat(found.cross_attentions).numpy(),
        }


def test_a_stateful_step_is_the_plain_one_but_for_float16_caches(folder, plain):
    from workbench.convert.stages import stages_of

    stateful = stages_of(folder("mels-80"), stateful=True)
    arrays = sound(stateful)
    ours, theirs = (stages.feeds(arrays, [11, 12])["step"] for stages in (stateful, plain("mels-80")))
    assert set(ours[0]) == set(theirs[0]) and ours[0]["keys"].dtype == numpy.float16 and not ours[0]["keys"].any()
    for at, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        outputs, after = stateful["step"].run(mine)
        expected, _ = plain("mels-80")["step"].run(other)
        for name in ("logits", "cross_attention"):
            gap = made.relative(outputs[name], expected[name])
            assert (gap == 0) if at == 0 else (0 < gap < 3e-3), "the first step reads no rounded cache"
        assert made.relative(after["values"], expected["new_values"]) < 1e-3
    first = stateful["step"].run(ours[0])[1]["keys"]
    assert (first == plain("mels-80")["step"].run(theirs[0])[0]["new_keys"].astype(numpy.float16)).all()


def test_unwritten_places_of_the_caches_count_for_exactly_nothing(plain):
    stages = plain("mels-80")
    step = stages.feeds(sound(stages), [11])["step"][-1]
    dirty, written = dict(step), int(step["positions"][0, 0])
    for name in ("keys", "values"):
        dirty[name] = step[name].copy()
        dirty[name][:, :, written:] = -40.0
    before, after = (stages["step"].run(feed)[0] for feed in (step, dirty))
    assert all((before[name] == after[name]).all() for name in ("logits", "cross_attention"))
    dirty["values"][:, :, 0] += 1.0
    assert (stages["step"].run(dirty)[0]["logits"] != before["logits"]).any()


def test_layers_and_weights_have_the_names_of_a_capture_and_of_the_files(folder, plain):
    from safetensors.torch import load_file

    from workbench.capture.hooks import module_paths
    from workbench.capture.names import COARSE, RENAMES, chosen, names_of

    stages, model = plain("mels-128"), made.own(folder("mels-128"), CLASS)
    known = names_of(module_paths(model), RENAMES["speech-to-text"])
    cut = {layer for stage in stages for layer in stage.layers.values()}
    assert set(chosen(known, COARSE).values()) <= cut <= set(known.values())
    assert stages["encoder"].layers["encoder.layers.2"] == "audio.block.2"
    assert stages["encoder"].layers["cross_keys.1"] == "text.block.1.cross_attention.k_proj"
    assert stages["step"].layers["decoder.layers.1.encoder_attn"] == "text.block.1.cross_attention"
    files = load_file(folder("mels-128") / "model.safetensors")
    for stage in stages:
        weights = dict(stage.module.named_parameters(remove_duplicate=False))
        assert set(stage.parameters) == set(weights)
        for path, stored in stage.parameters.items():
            assert files[stored].shape == weights[path].shape and (files[stored] == weights[path]).all(), stored
    assert stages["step"].parameters["proj_out.weight"] == "model.decoder.embed_tokens.weight"


def test_the_demo_recogniser_is_followed_as_through_its_own_wrapper():
    for library in ("soundfile", "soxr"):
        pytest.importorskip(library, reason="pip install 'parity-workbench[speech]'")
    from workbench import locate
    from workbench.convert.stages import stages_of
    from workbench.models.loading import open_speech_to_text
    from workbench.tasks.catalogue import load_task
    from workbench.types import Generation, ModelSpec

    model = open_speech_to_text(ModelSpec.parse("demo:stt@torch"))
    stages = stages_of(locate.demo_model("stt"), stateful=False, context=64)
    task = load_task("asr-sample")
    (sample,) = task.load(1).samples
    ask = task.ask(sample)
    tokens = [*model.answer([ask], Generation(max_tokens=8))[0].tokens][:6]
    assert len(tokens) == 6
    steps = stages.feeds(model.prepare(ask).arrays, tokens)["step"]
    found = [stages["step"].run(feed)[0]["logits"][0, 0] for feed in steps[-7:-1]]
    assert made.relative(numpy.stack(found), model.follow(ask, tokens)) < 1e-5
    assert [int(row.argmax()) for row in found] == tokens


@pytest.mark.parametrize("stage", ["encoder", "step"])
def test_every_stage_is_exported(stage, plain):
    import torch

    from workbench.convert.coreml.exporting import export

    stages = plain("mels-80")
    feed = stages.feeds(sound(stages, 3), [5])[stage][-1]
    found = export(stages[stage]).module()(*(torch.from_numpy(value) for value in feed.values()))
    for value, expected in zip(found, stages[stage].run(feed)[0].values(), strict=True):
        assert made.relative(value.detach(), expected) < 1e-6


def test_what_cannot_be_cut_is_refused(folder, plain, tmp_path):
    from workbench.convert.stages import stages_of
    from workbench.models.whisper_layout import TO_DIMENSIONS

    with pytest.raises(UsageError, match="has 24 positions") as told:
        stages_of(folder("mels-80"), stateful=True, context=25)
    assert "--context 24" in str(told.value)
    with pytest.raises(UsageError, match="too short"):
        stages_of(folder("mels-80"), stateful=True, context=4)
    (tmp_path / "config.json").write_text(json.dumps(dict.fromkeys(TO_DIMENSIONS, 2)))
    with pytest.raises(ModelError, match="mlx-whisper's layout") as told:
        stages_of(tmp_path, stateful=True)
    assert "--to transformers" in str(told.value)
    arrays = sound(plain("mels-80"))
    with pytest.raises(ModelError, match=r"log-mel of \(1, 80, 40\), not \(1, 80, 39\)"):
        plain("mels-80").feeds({**arrays, "input_features": arrays["input_features"][..., 1:]})
    with pytest.raises(ModelError, match="24 places"):
        plain("mels-80").feeds(arrays, [5] * 22)
