"""InternVL as its authors publish it (``InternVLChatModel``, remote code): the same model as ``internvl``, with other names, one matrix for
queries, keys and values in the tower, and the configuration of the text under ``llm_config``. transformers has no class of this name, so its
own InternVL computes the reference and is written out with the published names. With Qwen 2 (InternVL 2.5 and 3) and Qwen 3 (3.5)."""

import json

from workbench.capture.zoo.families import internvl
from workbench.capture.zoo.family import Case, Family

RENAMES = (
    (r"^vision_tower\.", "vision_model."),
    (r"\.embeddings\.cls_token$", ".embeddings.class_embedding"),
    (r"\.patch_embeddings\.projection\.", ".patch_embedding."),
    (r"\.position_embeddings$", ".position_embedding"),
    (r"\.encoder\.layer\.", ".encoder.layers."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_(\d)$", r".ls\1"),
    (r"^multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^multi_modal_projector\.linear_2\.", "mlp1.3."),
)
"""Backwards what transformers' convert_internvl_weights_to_hf.py does to OpenGVLab/InternVL3-1B."""


def to_hub(source, target):
    import re

    import torch
    from safetensors.torch import load_file, save_file

    from workbench.convert.layout import rope

    def published_name(name):
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        return name

    weights = {published_name(name): value for name, value in load_file(source / "model.safetensors").items()}
    for name in [name for name in weights if ".attention.q_proj." in name]:
        parts = [weights.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        weights[name.replace(".attention.q_proj.", ".attn.qkv.")] = torch.cat(parts)
    written = json.loads((source / "config.json").read_text())
    rope(written)
    vision, text = written["vision_config"], written["text_config"]
    text.setdefault("attention_bias", True)  # what Qwen2Config says nothing about
    target.mkdir()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    published = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "llm_config": text,
        "vision_config": {
            **{name: vision[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
            **{name: vision[name] for name in ("num_channels", "hidden_act", "layer_norm_eps", "norm_type")},
            "model_type": "intern_vit_6b",
            "image_size": vision["image_size"][0],
            "patch_size": vision["patch_size"][0],
            "qkv_bias": vision["attention_bias"],
            "qk_normalization": vision["use_qk_norm"],
            "drop_path_rate": 0.1,
        },
        "downsample_ratio": written["downsample_ratio"],
        "force_image_size": vision["image_size"][0],
        "ps_version": "v2",
        "select_layer": -1,
        "tie_word_embeddings": False,
        "use_thumbnail": True,
    }
    (target / "config.json").write_text(json.dumps(published, indent=2))


def cases(config, random):
    for case in internvl.cases(config, random):
        yield Case(case.name, case.arrays, only_port={"image_token_index": internvl.IMAGE})  # the port's processor gives it too


PORT = (
    (r"^vision_model\.(.*)\.norm1$", r"vision_tower.\1.layernorm_before"),
    (r"^vision_model\.(.*)\.norm2$", r"vision_tower.\1.layernorm_after"),
    (r"^mlp1\.0$", "mlp1.layer_norm"),
    (r"^mlp1\.1$", "mlp1.linear_1"),
    (r"^mlp1\.2$", "mlp1.act"),
    (r"^mlp1\.3$", "mlp1.linear_2"),
)


def family(name, title, config):
    return Family(
        name,
        title,
        config,
        cases,
        layouts=("hub",),
        to_hub=to_hub,
        reference_names=internvl.TOWER,
        port_names=PORT,
        note="the reference is transformers' InternVL with the same weights, since the published class is remote code",
    )


FAMILIES = (
    family("internvl_chat", "InternVL 2.5 and 3: InternViT, pixel shuffle, Qwen 2", internvl.config_of_qwen2),
    family("internvl_chat_qwen3", "InternVL 3.5: InternViT, pixel shuffle, Qwen 3", internvl.config),
)
