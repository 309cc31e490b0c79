"""Kimi-VL: MoonViT for images of any shape, 2 x 2 patches to one token, two linear layers, and DeepSeek-V3 with experts.

transformers has no class for it. The reference is its Kimi-K2.5, which has the same parts and the same published weight names: its tower on
single frames is MoonViT (tanh GELU and 1e-5 in the norms, as in the remote code of moonshotai/Kimi-VL-A3B-Instruct and in vLLM's copy of it),
its projector is Kimi-VL's under other names, its text model is DeepSeek-V3. The cases give grids around the learned 6 x 6, alone and together.
"""

from workbench.capture.zoo import reference
from workbench.capture.zoo.families.glm4v_moe import build
from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE, START, END = 5, 7, 8
WIDE, TALL, TABLE = (4, 10), (8, 2), (6, 6)
TEXT = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.446,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "rms_norm_eps": 1e-5,
}
VISION = {"patch_size": 14, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 4}
THETA = 800_000.0


def config():
    from transformers import DeepseekV3Config, Kimi_K25Config, Kimi_K25VisionConfig

    return Kimi_K25Config(
        text_config=DeepseekV3Config(**TEXT, num_mtp_layers=0, rope_parameters={"rope_type": "default", "rope_theta": THETA}),
        vision_config=Kimi_K25VisionConfig(**VISION, pos_emb_height=TABLE[0], pos_emb_width=TABLE[1]),
        projection_hidden_size=VISION["hidden_size"],
        image_token_id=IMAGE,
        video_token_id=6,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )


RENAMES = (
    (r"^lm_head", "language_model.lm_head"),
    (r"^model\.language_model", "language_model.model"),
    (r"^model\.vision_tower\.layers\.(\d+)\.norm1", r"vision_tower.encoder.blocks.\1.norm0"),
    (r"^model\.vision_tower\.layers\.(\d+)\.norm2", r"vision_tower.encoder.blocks.\1.norm1"),
    (r"^model\.vision_tower\.layers\.(\d+)\.mlp\.fc1", r"vision_tower.encoder.blocks.\1.mlp.fc0"),
    (r"^model\.vision_tower\.layers\.(\d+)\.mlp\.fc2", r"vision_tower.encoder.blocks.\1.mlp.fc1"),
    (r"^model\.vision_tower\.layers\.(\d+)\.attn\.proj", r"vision_tower.encoder.blocks.\1.wo"),
    (r"^model\.vision_tower\.layers\.(\d+)\.attn", r"vision_tower.encoder.blocks.\1"),
    (r"^model\.vision_tower\.final_layernorm", "vision_tower.encoder.final_layernorm"),
    (r"^model\.vision_tower\.patch_embed\.pos_emb\.position_embeddings", "vision_tower.patch_embed.pos_emb.weight"),
    (r"^model\.vision_tower", "vision_tower"),
    (r"^model\.mm_projector\.in_proj", "multi_modal_projector.linear_1"),
    (r"^model\.mm_projector\.out_proj", "multi_modal_projector.linear_2"),
    (r"^model\.mm_projector", "multi_modal_projector"),
)
"""From the reference's own names to Kimi-VL's published ones."""


def save(model, folder):
    """Under the reference's own names: transformers 5.23 undoes its renaming of Kimi-K2.5's tower in the text model too, and spoils it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: values.contiguous() for name, values in model.state_dict().items()}, folder / "model.safetensors")


def to_hub(saved, folder):
    """Kimi-VL's configuration and weights. The port takes the tower's ``depth``, ``embed_dim`` and ``num_heads`` to be the published ones,
    which no config.json names; a small tower must."""
    import json
    import re

    from safetensors.torch import load_file, save_file

    weights = {}
    for before, values in published(load_file(saved / "model.safetensors")):
        name = before
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = values.contiguous()
    text = {
        "model_type": "deepseek_v3",
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_layer_freq": 1,
        "rope_theta": THETA,
        **TEXT,
    }
    height, width = TABLE
    vision = {
        "model_type": "moonvit",
        "init_pos_emb_height": height,
        "init_pos_emb_width": width,
        "merge_kernel_size": [2, 2],
        **VISION,
    }
    vision |= {"depth": VISION["num_hidden_layers"], "embed_dim": VISION["hidden_size"], "num_heads": VISION["num_attention_heads"]}
    made = {"model_type": "kimi_vl", "media_placeholder_token_id": IMAGE, "text_config": text, "vision_config": vision}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(made, indent=2), encoding="utf-8")


def published(weights):
    """(name, values) with experts one by one, and the tower's queries, keys and values as one matrix, each head's rotated pairs adjacent."""
    import torch

    heads = VISION["num_attention_heads"]
    for name, values in weights.items():
        if name.endswith("experts.gate_up_proj"):
            for place, each in enumerate(values):
                for part, half in zip(("gate_proj", "up_proj"), each.chunk(2), strict=True):
                    yield name.replace("gate_up_proj", f"{place}.{part}.weight"), half
        elif name.endswith("experts.down_proj"):
            yield from ((name.replace("down_proj", f"{place}.down_proj.weight"), each) for place, each in enumerate(values))
        elif "vision_tower" in name and ".q_proj." in name:
            keys, content = (weights[name.replace("q_proj", each)] for each in ("k_proj", "v_proj"))
            pairs = [each.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2) for each in (values, keys)]
            yield name.replace("q_proj", "wqkv"), torch.cat([*pairs, content])
        elif not ("vision_tower" in name and (".k_proj." in name or ".v_proj." in name)):
            yield name, values


def run(model, arrays):
    """With the embeddings given: left to itself the reference looks up token 0 for every image token before it puts the features there."""
    import torch

    with torch.inference_mode():
        embedded = model.get_input_embeddings()(torch.as_tensor(arrays["input_ids"])).numpy()
    return reference.run(model, {**arrays, "inputs_embeds": embedded})


def image_case(random, name, parts, shapes):
    import numpy

    patches = pixels(random, sum(rows * columns for rows, columns in shapes), 3, 14, 14)
    return Case(
        name,
        text_arrays(prompt(random, parts, 20, 1000)) | {"pixel_values": patches},
        only_reference={"image_grid_thw": numpy.array([[1, *shape] for shape in shapes])},
        only_port={"image_grid_hws": numpy.array(shapes)},
    )


def media(shape):
    return [START, *[IMAGE] * (shape[0] * shape[1] // 4), END]


def cases(config, random):
    yield image_case(random, "wide image first", [media(WIDE), 9], [WIDE])
    yield image_case(random, "tall image last", [9, media(TALL), 1], [TALL])
    yield image_case(random, "as large as the table", [3, media(TABLE), 6], [TABLE])
    yield image_case(
        random, "four images", [3, media(TALL), media(WIDE), 4, media(TABLE), media(TALL), 6], [TALL, WIDE, TABLE, TALL]
    )
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


FAMILY = Family(
    "kimi_vl",
    "Kimi-VL: MoonViT, two linear layers, DeepSeek-V3 with experts",
    config,
    cases,
    kind="composite reference",
    reason="transformers has no Kimi-VL; its Kimi-K2.5 has the same parts and is run on single frames",
    layouts=("hub",),
    build=build,
    save=save,
    to_hub=to_hub,
    run_reference=run,
    reference_names=(
        (r"mm_projector\.in_proj", "mm_projector.linear_1"),
        (r"mm_projector\.out_proj", "mm_projector.linear_2"),
        ("final_layernorm", "norm"),
    ),
    port_names=(
        (r"(vision_tower\.blocks\.\d+)\.norm1", r"\1.norm2"),
        (r"(vision_tower\.blocks\.\d+)\.norm0", r"\1.norm1"),
        ("multi_modal_projector", "mm_projector"),
    ),
)
