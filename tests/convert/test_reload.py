"""The check: a rule that drops, swaps, changes or mistypes anything is caught, the first difference is named, and nothing stays."""

import os
import sys

import pytest

from workbench.convert import hub_layout, reload, saved
from workbench.convert.hub_layout import layouts, to_hub_layout
from workbench.convert.layout import Layout
from workbench.convert.reload import DifferentModel
from workbench.errors import ModelError, RuntimeMissing, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
TOWER = layouts()["llava"].renames
Q, K = "language_model.model.layers.0.self_attn.q_proj.weight", "language_model.model.layers.1.self_attn.q_proj.weight"


def dropped(given, config):
    return {name: value for name, value in given.items() if name != Q}


def swapped(given, config):
    return {**given, Q: given[K], K: given[Q]}


def nudged(given, config):
    found = dict(given)
    found[Q] = given[Q].clone()
    found[Q][3, 5] = torch.nextafter(found[Q][3, 5], torch.tensor(1e9))
    return found


def transposed(given, config):
    return {**given, Q: given[Q].T.contiguous()}


def extra(given, config):
    return {**given, "language_model.model.layers.7.x": given[Q]}


def reshaped(given, config):
    return {**given, Q: given[Q][:32]}


def theta(config):
    config["text_config"]["rope_theta"] = 49999.0


def epsilon(config):
    config["text_config"]["rms_norm_eps"] = 1e-6


def forgets_theta(config):
    del config["text_config"]["rope_theta"]


def layers(config):
    config["text_config"]["num_hidden_layers"] = 1


DAMAGED = {
    "dropped": (Layout(("llava",), renames=TOWER, weights=dropped), "lacks", "layers.0.self_attn.q_proj"),
    "swapped": (Layout(("llava",), renames=TOWER, weights=swapped), "not the same model", "layers.0.self_attn.q_proj"),
    "one value by the smallest step": (
        Layout(("llava",), renames=TOWER, weights=nudged),
        "not the same model",
        "layers.0.self_attn.q_proj",
    ),
    "transposed": (Layout(("llava",), renames=TOWER, weights=transposed), "not the same model", "layers.0.self_attn.q_proj"),
    "cut": (Layout(("llava",), renames=TOWER, weights=reshaped), "another shape", "layers.0.self_attn.q_proj"),
    "one more": (Layout(("llava",), renames=TOWER, weights=extra), "unknown weight", "layers.7"),
    "a wrong name": (Layout(("llava",), renames=(("mlp", "ffn"),)), "lacks", "mlp"),
    "frequencies": (Layout(("llava",), renames=TOWER, config=theta), "not the same model", "inv_freq"),
    "forgotten frequencies": (Layout(("llava",), renames=TOWER, config=forgets_theta), "not the same model", "inv_freq"),
    "a setting": (Layout(("llava",), renames=TOWER, config=epsilon), "another configuration", "text_config.rms_norm_eps is 1e-05"),
    "a layer less": (Layout(("llava",), renames=TOWER, config=layers), "unknown weight", "layers.1"),
    "no longer loadable": (
        Layout(("llava",), renames=TOWER, config=lambda config: config.update(text_config=7)),
        "cannot load",
        "Error",
    ),
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_a_damaged_rule_is_caught(name, five, tmp_path, monkeypatch):
    layout, what, named = DAMAGED[name]
    monkeypatch.setattr(hub_layout, "layouts", lambda: {"llava": layout})
    with pytest.raises(DifferentModel) as caught:
        to_hub_layout(five("llava"), tmp_path / "hub")
    assert caught.value.exit_code == 1 and what in caught.value.what and named in str(caught.value)
    assert "nothing was written" in caught.value.fix and os.listdir(tmp_path) == []


def test_a_source_that_is_not_whole_is_the_sources_fault(copied, tmp_path, edit):
    edit(copied / "config.json", lambda config: {**config, "text_config": {**config["text_config"], "num_hidden_layers": 3}})
    with pytest.raises(ModelError, match="'my-finetune' itself lacks .*layers.2") as caught:
        to_hub_layout(copied, tmp_path / "hub")
    assert caught.value.exit_code == 2 and os.listdir(tmp_path) == ["my-finetune"]


def test_an_architecture_that_transformers_lacks_is_refused_before_anything_is_written(copied, tmp_path, edit, monkeypatch):
    edit(copied / "config.json", lambda config: {**config, "model_type": "made-up", "architectures": ["pipeline"]})
    monkeypatch.setattr(hub_layout, "layouts", lambda: {"made-up": Layout(("made-up",))})
    monkeypatch.setattr(hub_layout.shards, "plan", lambda *arguments: pytest.fail("it began to write"))
    with pytest.raises(ModelError, match="has no class for"):
        to_hub_layout(copied, tmp_path / "hub")


def test_a_layout_that_transformers_cannot_read_is_not_claimed_to_be_checked(five, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_layout, "layouts", lambda: {"llava": Layout(("llava",), renames=TOWER, reads_back=False)})
    with pytest.raises(UsageError, match="cannot be checked") as caught:
        to_hub_layout(five("llava"), tmp_path / "hub")
    assert caught.value.fix == "--no-check"
    assert to_hub_layout(five("llava"), tmp_path / "hub", check=False).check == "not checked"


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_without_transformers_it_says_what_to_install(library, five, tmp_path, monkeypatch):
    folder = five("llava")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RuntimeMissing) as caught:
        to_hub_layout(folder, tmp_path / "hub")
    assert caught.value.exit_code == 3 and "pip install" in caught.value.fix and os.listdir(tmp_path) == []


def test_the_class_is_the_one_that_was_saved_or_the_auto_classes(five):
    config = saved.read(five("llava")).config
    assert reload.model_class(config, "x").__name__ == "LlavaForConditionalGeneration"
    for named in (None, [], ["nowhere"], "llava", ["PreTrainedModel"], ["LlavaConfig"], [7]):
        assert reload.model_class({**config, "architectures": named}, "x").__name__ == "LlavaForConditionalGeneration"
    assert reload.model_class({"model_type": "qwen2"}, "x").__name__ == "Qwen2ForCausalLM"


@pytest.mark.parametrize(("dtype", "found"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_weights_are_compared_in_a_type_that_holds_them_all(dtype, found, five):
    assert reload.stored_dtype(saved.read(five("llava", dtype))) == found


def test_mixed_types_are_compared_in_the_wider_one(copied):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    mixed = {name: value.bfloat16() if value.ndim > 1 else value for name, value in weights.items()}
    save_file(mixed, copied / "model.safetensors", metadata={"format": "pt"})
    assert reload.stored_dtype(saved.read(copied)) == "float32"
    assert "(float32)" in to_hub_layout(copied, copied.with_name("hub")).check
    halves = {name: value.bfloat16() if value.ndim > 1 else value.half() for name, value in weights.items()}
    save_file(halves, copied / "model.safetensors", metadata={"format": "pt"})
    assert reload.stored_dtype(saved.read(copied)) == "float32"
