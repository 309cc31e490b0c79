"""What is refused before anything is written, and in which words."""

import json
import os
import shutil

import pytest

from workbench.convert import saved
from workbench.convert.hub_layout import to_hub_layout
from workbench.errors import ModelError

INDEX = "model.safetensors.index.json"


def refused(folder, match):
    target = folder.with_name("hub")
    with pytest.raises(ModelError, match=match) as caught:
        to_hub_layout(folder, target, check=False)
    assert not target.exists() and not [name for name in os.listdir(folder.parent) if name.startswith(".")]
    return caught.value


def with_index(folder, name):
    """The folder's one weight file named in an index."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        weight_map = dict.fromkeys(file.keys(), name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(
    "field",
    [
        {"quantization": {"bits": 4, "group_size": 64}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        {"vision_config": {"quantization": {"bits": 8}}},
    ],
    ids=str,
)
def test_quantised_folders_are_refused_by_the_methods_name(field, copied, edit):
    edit(copied / "config.json", lambda config: {**config, **field})
    error = refused(copied, "is quantised")
    assert any(word in str(error) for word in ("4-bit", "bitsandbytes", "gptq", "8-bit")) and "before it was quantised" in error.fix


def test_adapters_are_refused_with_how_to_merge(copied):
    (copied / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refused(copied, "holds an adapter").fix


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pickle" in refused(copied, "no safetensors weights").why


def test_a_folder_that_is_not_whole_is_refused(copied, five):
    (copied / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes()[:-10])
    refused(copied, "truncated")
    (copied / "model.safetensors").unlink()
    refused(copied, "holds no weights")
    (copied / "config.json").write_text("[" * 100_000)
    refused(copied, "config.json")
    (copied / "config.json").unlink()
    refused(copied, "no config.json|no model folder")
    shutil.rmtree(copied)
    shutil.copytree(five("llava", max_shard_size="200KB"), copied)
    (copied / "model-00002-of-00005.safetensors").unlink()
    refused(copied, "model-00002-of-00005.safetensors is missing")


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..",
        "weights.bin",
        "a\x1b[2J.safetensors",
    ],
)
def test_an_index_names_files_of_its_own_folder(name, copied):
    with_index(copied, name)
    (copied / "model.safetensors").rename(copied.parent / "model.safetensors")
    error = refused(copied, "names")
    assert "own folder" in error.why and "\x1b" not in str(error)


def test_an_index_that_is_none_is_refused(copied):
    for text in ("[]", "{}", '{"weight_map": {"a": 1}}', "nonsense", '{"weight_map": {}}'):
        (copied / INDEX).write_text(text)
        refused(copied, "cannot be read")


def test_two_sets_of_weights_are_refused(copied):
    with_index(copied, "model-00001-of-00001.safetensors")
    shutil.copy(copied / "model.safetensors", copied / "model-00001-of-00001.safetensors")
    refused(copied, "holds both")


def test_a_named_pipe_is_not_waited_for(copied):
    (copied / "model.safetensors").unlink()
    os.mkfifo(copied / "model.safetensors")
    refused(copied, "missing")


@pytest.mark.parametrize(
    ("kind", "match"), [("bert", "'bert' is not known"), (None, "names no model_type"), (["llava"], "not known")]
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(kind, match, copied, edit):
    edit(copied / "config.json", lambda config: {**config, "model_type": kind})
    assert "llava" in refused(copied, match).why


def test_a_configuration_that_no_transformers_5_wrote_is_refused(five, tmp_path, edit):
    folder = shutil.copytree(five("qwen2_vl"), tmp_path / "my-finetune")
    edit(folder / "config.json", lambda config: config.pop("vision_config") and config)
    assert "vision_config" in refused(folder, "is not what transformers 5 writes").why


def test_a_whole_folder_is_read(five):
    found = saved.read(five("llava", max_shard_size="200KB"))
    assert [path.name for path in found.shards] == [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    assert found.files == ["generation_config.json"] and found.left_out == [] and found.weight_bytes > 815_872
