"""LLaVA in stages against transformers' own forward and generate, over towers, decoders and numbers of images."""

from __future__ import annotations

import json

import numpy
import pytest

from tests.convert import staged_models as made
from workbench.errors import ModelError, UsageError

pytest.importorskip("transformers")

MODELS = {
    "clip-llama": {},
    "clip-llama-tied": {
        "text": {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        }
    },
    "clip-mistral-two-layers": {
        "decoder": "mistral",
        "text": {"head_dim": 16, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        "vision_feature_layer": [-2, -1],
    },
    "clip-second-last": {"vision_feature_layer": -2, "vision_feature_select_strategy": "full", "dtype": "float16"},
    "siglip-qwen2": {"tower": "siglip_vision_model", "decoder": "qwen2", "vision_feature_select_strategy": "full"},
}
FEATURES = {"clip-second-last": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``folder("clip-llama")``: saved once."""
    saved = {}

    def find(name):
        if name not in saved:
            saved[name] = made.llava(tmp_path_factory.mktemp("staged") / name, **MODELS[name])
        return saved[name]

    return find


@pytest.fixture(scope="module")
def plain(folder):
    """``plain("clip-llama")``: the stages with caches as inputs and outputs."""
    from workbench.convert.stages import stages_of

    cut = {}

    def find(name):
        if name not in cut:
            cut[name] = stages_of(folder(name), stateful=False)
        return cut[name]

    return find


@pytest.mark.parametrize("name", MODELS)
def test_chained_stages_are_transformers(name, folder, plain):
    model, stages = made.own(folder(name)), plain(name)
    features = FEATURES.get(name, 4)
    assert stages.sizes["image_tokens"] == features and stages.sizes["context"] == 64
    for images in (0, 1, 2):
        arrays = made.request(images, features, seed=images)
        tokens, rows = made.greedy(stages, arrays, 6)
        expected = model.generate(**made.tensors(arrays), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
        assert tokens == expected[0, arrays["input_ids"].shape[1] :].tolist()
        whole = made.logits(model, arrays, tokens[:-1])
        for row, reference in zip(rows, whole, strict=True):
            assert made.relative(row, reference) < 1e-5


def test_a_prompt_of_one_token_goes_through_the_step(folder, plain):
    arrays = {"input_ids": numpy.array([[9]])}
    feeds = plain("clip-llama").feeds(arrays, [])
    assert feeds["prefill"] == feeds["vision"] == [] and len(feeds["step"]) == 1
    tokens, rows = made.greedy(plain("clip-llama"), arrays, 3)
    assert made.relative(rows, made.logits(made.own(folder("clip-llama")), arrays, tokens[:-1])) < 1e-5


def test_a_stateful_step_is_the_plain_one_but_for_float16_caches(folder, plain):
    from workbench.convert.stages import stages_of

    stateful, arrays = stages_of(folder("clip-llama"), stateful=True), made.request(1, 4)
    ours, theirs = (stages.feeds(arrays, [5, 9, 11])["step"] for stages in (stateful, plain("clip-llama")))
    assert (ours[0]["keys"] == theirs[0]["keys"].astype(numpy.float16)).all() and ours[0]["keys"].dtype == numpy.float16
    step = stateful["step"]
    inputs, states = step.split(ours[-1])
    assert set(inputs) == set(step.example) and set(states) == {"keys", "values"} == set(step.states)
    for mine, other in zip(ours, theirs, strict=True):
        outputs, after = step.run(mine)
        expected, _ = plain("clip-llama")["step"].run(other)
        assert 0 < made.relative(outputs["logits"], expected["logits"]) < 3e-3
        for name in ("keys", "values"):
            assert made.relative(after[name], expected[f"new_{name}"]) < 1e-3
            assert (after[name][:, :, int(mine["positions"][0, 0]) + 1 :] == 0).all()
    assert not step.module.keys.any(), "running must not change what is exported"
    given = step.run({**ours[0], "keys": plain("clip-llama")["step"].run(theirs[0])[0]["new_keys"]})[0]["logits"]
    assert (given == step.run(ours[0])[0]["logits"]).all(), "the place of the token itself is written, whatever was there"


def test_what_is_masked_counts_for_exactly_nothing(plain):
    stages, arrays = plain("clip-llama"), made.request(1, 4)
    feeds = stages.feeds(arrays, [5, 9])
    (prefill,), step = feeds["prefill"], feeds["step"][1]
    before = stages["prefill"].run(prefill)[0]
    length = prefill["tokens"].shape[1]
    other = {**prefill, "tokens": prefill["tokens"].copy()}
    other["tokens"][0, -2:] = [7, 8]
    after = stages["prefill"].run(other)[0]
    assert (before["logits"][0, : length - 2] == after["logits"][0, : length - 2]).all()
    assert (before["logits"][0, -2] != after["logits"][0, -2]).any()
    noise = {**prefill, "image_embeddings": numpy.where(prefill["tokens"][..., None] == 3, prefill["image_embeddings"], 1e3)}
    noise["image_embeddings"] = noise["image_embeddings"].astype(numpy.float32)
    assert (stages["prefill"].run(noise)[0]["logits"] == before["logits"]).all()
    dirty, written = dict(step), int(step["positions"][0, 0])
    for name in ("keys", "values"):
        dirty[name] = step[name].copy()
        dirty[name][:, :, written:] = 50.0
    assert (stages["step"].run(dirty)[0]["logits"] == stages["step"].run(step)[0]["logits"]).all()
    dirty["keys"][:, :, written - 1] += 1.0
    assert (stages["step"].run(dirty)[0]["logits"] != stages["step"].run(step)[0]["logits"]).any()


@pytest.mark.parametrize("name", ["clip-llama-tied", "siglip-qwen2", "demo"])
def test_layers_and_weights_have_the_names_of_a_capture_and_of_the_files(name, folder, plain):
    from safetensors.torch import load_file

    from workbench import locate
    from workbench.capture.hooks import module_paths
    from workbench.capture.names import COARSE, chosen, names_of
    from workbench.convert.stages import stages_of
    from workbench.convert.stages.naming import Files

    where = locate.demo_model("vlm") if name == "demo" else folder(name)
    stages = stages_of(where, stateful=True, context=128) if name == "demo" else plain(name)
    model = made.own(where)
    known = names_of(module_paths(model))
    cut = {layer for stage in stages for layer in stage.layers.values()}
    assert set(chosen(known, COARSE).values()) <= cut <= set(known.values())
    assert stages["step"].layers["language_model.layers.1"] == "text.block.1"
    assert stages["vision"].layers["multi_modal_projector"] == "projector"
    files = load_file(where / "model.safetensors")
    for stage in stages:
        weights = dict(stage.module.named_parameters(remove_duplicate=False))
        assert set(stage.parameters) == set(weights)
        for path, stored in stage.parameters.items():
            assert (files[stored] == weights[path]).all(), stored
    assert Files(where).name_of("lm_head.weight", model.lm_head.weight + 1, ()) is None, "a name is told by the values too"
    assert stages.shared == (("prefill", "step"),)
    assert stages["prefill"].module.lm_head is stages["step"].module.lm_head


def test_the_demo_model_answers_as_through_its_own_wrapper():
    from tests.models.conftest import picture
    from workbench import locate
    from workbench.convert.stages import stages_of
    from workbench.models.loading import open_vision_language
    from workbench.types import Media, ModelSpec, Request

    model = open_vision_language(ModelSpec.parse("demo:vlm@torch"))
    stages = stages_of(locate.demo_model("vlm"), stateful=False, context=256)
    media = [picture(64, 64, seed=seed) for seed in (1, 2)]
    assert isinstance(media[0], Media)
    for images in ([], media[:1], media):
        ask = Request({"text": "What is this?", "images": images}, "stages@1")
        arrays = model.prepare(ask).arrays
        tokens, rows = made.greedy(stages, arrays, 3)
        prompt = arrays["input_ids"].shape[1]
        assert made.relative(rows[prompt - 1 :], model.follow(ask, tokens)) < 1e-5


@pytest.mark.parametrize(
    ("name", "stage"), [("siglip-qwen2", "vision"), ("clip-mistral-two-layers", "prefill"), ("clip-llama-tied", "step")]
)
def test_every_stage_is_exported_for_prompts_of_any_length(name, stage, plain):
    import torch

    from workbench.convert.coreml.exporting import export

    stages = plain(name)
    exported = export(stages[stage]).module()
    for arrays in (made.request(1, 4, length=3), made.request(2, 4, length=12)):
        (feed,) = stages.feeds(arrays, [5])[stage][:1]
        found = exported(*(torch.from_numpy(value) for value in feed.values()))
        values = found if isinstance(found, tuple) else (found,)
        for value, expected in zip(values, stages[stage].run(feed)[0].values(), strict=True):
            assert made.relative(value.detach(), expected) < 1e-6


def refused(tmp_path, change, base="clip-llama", **how):
    """What is said of a folder whose config.json was changed."""
    from workbench.convert.stages import stages_of

    where = made.llava(tmp_path / base, **MODELS[base])
    config = json.loads((where / "config.json").read_text())
    change(config)
    (where / "config.json").write_text(json.dumps(config))
    with pytest.raises((ModelError, UsageError)) as told:
        stages_of(where, **{"stateful": False, **how})
    return str(told.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(model_type="llava_next"), "is a llava_next model"),
        (lambda config: config.update(model_type="paligemma"), "is a paligemma model"),
        (lambda config: config["vision_config"].update(model_type="pixtral"), "has the vision tower pixtral"),
        (lambda config: config["text_config"].update(model_type="gemma2"), "has the language model gemma2"),
        (
            lambda config: config["text_config"].update(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions of the type dynamic",
        ),
    ],
)
def test_other_models_are_refused_with_what_to_do_instead(tmp_path, change, words):
    told = refused(tmp_path, change)
    assert words in told and "file.py:factory" in told and "clip-llama" in told


def test_folders_that_cannot_be_cut_whole_are_refused(tmp_path):
    assert "quantised (4-bit" in refused(tmp_path, lambda config: config.update(quantization={"bits": 4, "group_size": 32}))
    assert "lacks" in refused(tmp_path, lambda config: config["text_config"].update(num_hidden_layers=3))


def test_a_context_is_what_the_model_has_and_holds_an_image(tmp_path, folder):
    from workbench.convert.stages import stages_of

    def window(config):
        config["text_config"]["sliding_window"] = 16

    for asked, words in ((65, "has 64 positions"), (5, "one image takes 4 places")):
        with pytest.raises(UsageError, match=words):
            stages_of(folder("clip-llama"), stateful=False, context=asked)
    short = refused(tmp_path / "short", lambda config: config["text_config"].update(max_position_embeddings=5))
    assert "a context of 5 tokens is too short" in short and "--context" not in short
    told = refused(tmp_path, window, base="clip-mistral-two-layers", context=17)
    assert "see the last 16 only" in told and "--context 16" in told
    stages = stages_of(tmp_path / "clip-mistral-two-layers", stateful=False)
    assert stages.sizes["context"] == 16 and stages["step"].example["mask"].shape == (1, 1, 1, 16)


def test_the_shortened_window_is_transformers_within_it(tmp_path):
    from workbench.convert.stages import stages_of

    where = made.llava(tmp_path / "windowed", decoder="mistral", text={"sliding_window": 12})
    arrays = made.request(1, 4, length=4)
    tokens, rows = made.greedy(stages_of(where, stateful=False), arrays, 5)
    assert arrays["input_ids"].shape[1] + len(tokens) > 12
    assert made.relative(rows, made.logits(made.own(where), arrays, tokens[:-1])) < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.update(input_ids=arrays["input_ids"][:, 1:]), None),
        (lambda arrays: arrays.update(input_ids=arrays["input_ids"].repeat(2, axis=0)), "one prompt"),
        (lambda arrays: arrays.pop("pixel_values"), "4 image tokens for 0 images"),
        (lambda arrays: arrays.update(pixel_values=numpy.zeros((1, 3, 24, 24), dtype=numpy.float32)), "takes images of"),
        (lambda arrays: arrays["attention_mask"].__setitem__((0, 0), 0), "padded"),
        (lambda arrays: arrays["input_ids"].__setitem__((0, 0), 48), "token id 48"),
        (lambda arrays: arrays.update(input_ids=numpy.full((1, 64), 9)), "64 places|0 image tokens|image tokens for"),
    ],
)
def test_arrays_of_another_model_are_refused(plain, change, words):
    arrays = made.request(1, 4)
    change(arrays)
    arrays["attention_mask"] = arrays["attention_mask"][:, : arrays["input_ids"].shape[1]]
    if words is None:
        assert plain("clip-llama").feeds(arrays, [5])["step"]
    else:
        with pytest.raises(ModelError, match=words):
            plain("clip-llama").feeds(arrays, [5])
