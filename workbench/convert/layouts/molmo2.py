"""Molmo 2: allenai's keys for the vision parts and the text's norms; 27 vision layers declared, 25 present, features counted from the end.

transformers saves the weights under the published names already, but cuts the token table in halves instead of at ``vocab_size``.
Source: allenai's ``convert_molmo2_to_hf.py`` and transformers' ``configuration_molmo2.py``, which both name the keys of the released config.json.
"""

from workbench.convert.layout import Layout

DECLARED = 2
"""How many more vision layers the released config.json names than its weights have."""


def config(config):
    vision, adapter, text = config.pop("vision_config"), config["adapter_config"], config["text_config"]
    for new, old in {
        "image_size": "image_default_input_size",
        "patch_size": "image_patch_size",
        "num_position_embeddings": "image_num_pos",
    }.items():
        vision[old] = vision.pop(new)
    for part in (vision, adapter, text):
        part["model_type"] = "molmo2"
        part["float32_attention"] = True
    for part in (vision, adapter):
        part.pop("attention_bias")
    vision["num_hidden_layers"] += DECLARED
    adapter["vit_layers"] = [layer - vision["num_hidden_layers"] for layer in adapter.pop("vision_feature_layer")]
    adapter["pooling_attention_mask"] = True
    text["layer_norm_eps"] = text.pop("rms_norm_eps")
    text["qkv_bias"] = text.pop("attention_bias")
    text["use_qk_norm"] = True
    config["vit_config"] = vision
    config["image_col_id"], config["image_low_res_id"] = config["image_patch_id"] + 1, config["image_patch_id"] + 4


def weights(weights, config):
    from torch import cat

    names = [f"model.transformer.wte.{part}" for part in ("embedding", "new_embedding")]
    whole = cat([weights[name] for name in names])
    size = config["text_config"]["vocab_size"]
    return {**weights, **dict(zip(names, (whole[:size], whole[size:]), strict=True))}


LAYOUT = Layout(("molmo2",), config=config, weights=weights, source="allenai/Molmo2-8B")
