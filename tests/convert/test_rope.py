"""``rope``: what it writes is read back by transformers' own configuration classes as what was there before."""

import copy
import json

import pytest

from workbench.convert.layout import rope

transformers = pytest.importorskip("transformers")

PARAMETERS = {
    "default": {"rope_type": "default", "rope_theta": 50000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}


def saved(config, folder) -> dict:
    config.save_pretrained(folder / "v5")
    return json.loads((folder / "v5" / "config.json").read_text())


def read_back(kind, config: dict, folder):
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text(json.dumps(config))
    return kind.from_pretrained(folder / "hub")


def without_old_key(parameters):
    return {name: value for name, value in parameters.items() if name != "type"}


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_every_kind_of_scaling_reads_back_as_it_was(name, tmp_path):
    before = transformers.LlamaConfig(rope_parameters=PARAMETERS[name], max_position_embeddings=2048)
    config = saved(before, tmp_path)
    assert "rope_parameters" in config
    rope(config)
    assert "rope_parameters" not in config and config["rope_theta"] == PARAMETERS[name]["rope_theta"]
    assert ("rope_scaling" in config) is (name != "default")
    if name != "default":
        assert config["rope_scaling"]["type"] == config["rope_scaling"]["rope_type"] == name
    after = read_back(transformers.LlamaConfig, config, tmp_path)
    assert without_old_key(after.rope_parameters) == without_old_key(before.rope_parameters)


def test_a_part_of_the_head_that_turns_is_kept(tmp_path):
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    before = transformers.PhiConfig(rope_parameters=parameters)
    config = saved(before, tmp_path)
    rope(config)
    assert config["partial_rotary_factor"] == 0.25 and "rope_scaling" not in config
    after = read_back(transformers.PhiConfig, config, tmp_path)
    assert after.rope_parameters == before.rope_parameters and after.rope_parameters["partial_rotary_factor"] == 0.25


def test_multimodal_sections_are_kept_in_the_part_they_belong_to(tmp_path):
    parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    before = transformers.Qwen2VLConfig(text_config={"rope_parameters": parameters})
    config = saved(before, tmp_path)
    rope(config)
    assert config["text_config"]["rope_scaling"]["type"] == "mrope"
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [16, 24, 24] and config["text_config"]["rope_theta"] == 1e6
    after = read_back(transformers.Qwen2VLConfig, config, tmp_path).text_config.rope_parameters
    assert without_old_key(after) == without_old_key(before.text_config.rope_parameters)


def test_one_set_a_layer_type_is_left_to_the_rule():
    config = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    before = copy.deepcopy(config)
    rope(config)
    assert config == before


def test_a_second_time_changes_nothing():
    config = {"text_config": {"rope_parameters": dict(PARAMETERS["yarn"])}}
    rope(config)
    once = copy.deepcopy(config)
    rope(config)
    assert config == once
