"""DeepSeek-VL2 (small): SigLIP on an overview and a grid of tiles, 2 by 2 joined, two linear layers, and DeepSeek-V2 (latent attention, experts).

transformers has no class for it: SigLIP and DeepSeek-V2 are transformers', what joins them is written here after the published code
(deepseek-ai/DeepSeek-VL2, modeling_deepseek_vl_v2.py): the normed last layer, an odd grid padded at the end, tiles put in their places,
a learned vector ending every row and another between overview and tiles. Cases: tiles side by side, stacked, both, two images.
"""

import json
import shutil

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
SIDE = 3
"""Tokens along a tile: 5 patches, padded to 6, two by two (27 to 28 and 14 in published checkpoints)."""


def config():
    from transformers import DeepseekV2Config

    return DeepseekV2Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        moe_intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=2,
        n_routed_experts=8,
        num_experts_per_tok=3,
        kv_lora_rank=32,
        q_lora_rank=None,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=12,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def build(config):
    import torch
    from torch import nn
    from transformers import DeepseekV2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionConfig(
        hidden_size=48,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=70,
        patch_size=14,
        vision_use_head=False,
    )
    hidden = config.hidden_size

    class DeepseekVL2(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            self.language_model = DeepseekV2ForCausalLM._from_config(
                config, attn_implementation="eager", experts_implementation="eager"
            )
            self.vision_tower = SiglipVisionModel._from_config(tower, attn_implementation="eager")
            self.projector = nn.Sequential(nn.Linear(4 * tower.hidden_size, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            self.image_newline, self.view_seperator = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(hidden))

        def tiles(self, pixels):
            """(n, 3, 70, 70) -> (n, 3, 3, hidden)."""
            found = self.vision_tower(pixels).last_hidden_state.unflatten(1, (5, 5))
            even = nn.functional.pad(found, (0, 0, 0, 1, 0, 1))
            joined = even.unflatten(2, (SIDE, 2)).unflatten(1, (SIDE, 2)).permute(0, 1, 3, 5, 2, 4).flatten(3)
            return self.projector(joined.flatten(1, 2)).unflatten(1, (SIDE, SIDE))

        def rows(self, grid):
            return torch.cat([grid, self.image_newline.expand(grid.shape[0], 1, -1)], dim=1).flatten(0, 1)

        def image(self, tiles, columns, rows):
            canvas = torch.cat([torch.cat(list(tiles[1 + columns * row : 1 + columns * (row + 1)]), dim=1) for row in range(rows)])
            return torch.cat([self.rows(tiles[0]), self.view_seperator[None], self.rows(canvas)])

        def forward(self, input_ids, attention_mask=None, pixel_values=None, images_spatial_crop=None, images_seq_mask=None):
            embedded = self.language_model.get_input_embeddings()(input_ids)
            if pixel_values is not None:
                tiles, images = self.tiles(pixel_values[0]), []
                for columns, rows in images_spatial_crop[0].tolist():
                    images.append(self.image(tiles[: 1 + columns * rows], columns, rows))
                    tiles = tiles[1 + columns * rows :]
                embedded = embedded.masked_scatter(images_seq_mask[..., None], torch.cat(images))
            return self.language_model(inputs_embeds=embedded, attention_mask=attention_mask)

    return DeepseekVL2().float().eval()


def save(model, folder):
    """As published: ``language.``, SigLIP under timm's names with queries, keys and values in one, ``projector.layers``."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {}
    model.language_model.save_pretrained(folder)  # writes each expert by itself, as published
    for name, value in load_file(folder / "model.safetensors").items():
        weights[f"language.{name}"] = value
    for name, value in model.state_dict().items():
        if name.startswith("projector."):
            weights[name.replace("projector.", "projector.layers.")] = value
        elif name in ("image_newline", "view_seperator"):
            weights[name] = value
    tower = {
        name.removeprefix("vision_tower.").removeprefix("vision_model."): value
        for name, value in model.state_dict().items()
        if "vision_tower" in name
    }
    for name, value in tower.items():
        if name.startswith("embeddings.patch_embedding."):
            weights["vision.patch_embed.proj." + name.rpartition(".")[2]] = value
        elif name.startswith("embeddings.position_embedding."):
            weights["vision.pos_embed"] = value[None]
        elif name.startswith("post_layernorm."):
            weights["vision.norm." + name.rpartition(".")[2]] = value
        elif "q_proj" in name:
            parts = [tower[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            weights[inner(name).replace("q_proj", "qkv")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            weights[inner(name).replace("out_proj", "proj")] = value
    settings = {
        "model_type": "deepseek_vl_v2",
        "architectures": ["DeepseekVLV2ForCausalLM"],
        "tile_tag": "2D",
        "global_view_pos": "head",
    }
    settings["language_config"] = model.config.to_dict() | {
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "scoring_func": "softmax",
        "use_mla": True,
    }
    del settings["language_config"]["rope_parameters"]
    siglip = model.vision_tower.config
    settings["vision_config"] = {
        "model_type": "vision",
        "layers": siglip.num_hidden_layers,
        "width": siglip.hidden_size,
        "heads": siglip.num_attention_heads,
        "num_attention_heads": siglip.num_attention_heads,
        "intermediate_size": siglip.intermediate_size,
        "mlp_ratio": siglip.intermediate_size / siglip.hidden_size,
        "image_size": siglip.image_size,
        "patch_size": siglip.patch_size,
    }
    settings["projector_config"] = {
        "model_type": "mlp_projector",
        "input_dim": siglip.hidden_size,
        "n_embed": model.config.hidden_size,
    }
    weights |= pooling_head(siglip)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(settings, indent=2))


def inner(name):
    for old, new in (("encoder.layers.", "vision.blocks."), ("self_attn.", "attn."), ("layer_norm", "norm")):
        name = name.replace(old, new)
    return name


def pooling_head(siglip):
    """Weights of SigLIP's pooling head, which published checkpoints hold and nothing uses."""
    import torch

    width = siglip.hidden_size
    wide = int(width * (siglip.intermediate_size / siglip.hidden_size))
    shapes = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
    }
    shapes |= {"proj.weight": (width, width), "proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"mlp.fc1.weight": (wide, width), "mlp.fc1.bias": (wide,), "mlp.fc2.weight": (width, wide), "mlp.fc2.bias": (width,)}
    return {f"vision.attn_pool.{name}": torch.zeros(shape) for name, shape in shapes.items()}


def cases(config, random):
    import numpy

    for name, crops, parts in (
        ("two tiles, wide", [(2, 1)], (3, 8)),
        ("two tiles, tall", [(1, 2)], (7, 1)),
        ("six tiles", [(3, 2)], (1, 5)),
        ("two images", [(2, 1), (1, 1)], (2, 4, 6)),
    ):
        asked = [parts[0]]
        for (columns, rows), words in zip(crops, parts[1:], strict=True):
            asked += [[IMAGE] * (SIDE * (SIDE + 1) + 1 + SIDE * rows * (SIDE * columns + 1)), words]
        ids = prompt(random, asked, 10, 1000)
        yield Case(
            name,
            text_arrays(ids)
            | {
                "pixel_values": pixels(random, 1, sum(1 + columns * rows for columns, rows in crops), 3, 70, 70),
                "images_spatial_crop": numpy.array([crops]),
                "images_seq_mask": ids == IMAGE,
            },
        )
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "deepseek_vl_v2",
    "DeepSeek-VL2 small: SigLIP with tiles, DeepSeek-V2 with latent attention and experts",
    config,
    cases,
    kind="composite reference",
    reason="transformers has no class for it; SigLIP and DeepSeek-V2 are transformers', joined here after the published code",
    layouts=("hub",),
    build=build,
    save=save,
    to_hub=shutil.copytree,
    reference_names=(
        (r"projector$", "multi_modal_projector"),
        (r"vision_tower\.post_layernorm", "vision_tower.norm"),
        (r"layer_norm(\d)", r"norm\1"),
    ),
    port_names=((r"patch_embed", "patches_without_place"), (r"projector\.layers\.", "projector.")),
    note="the small model: the tiny one has plain attention, the base one another router; the port is not the same in every process",
)
