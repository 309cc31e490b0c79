"""DeepSeek-OCR: SAM, its features through a CLIP tower, both joined by one linear layer, and DeepSeek-V2's experts with plain attention.

transformers has DeepSeek-OCR 2 only: SAM and the text model are taken from there, CLIP is transformers' too, and what joins them is written
here after the published code (deepseek-ai/DeepSeek-OCR, deepencoder and deepseek_ocr.py). An image is a large view in the resolution of
both towers and, if it is large, a grid of smaller views, for which all place embeddings are resized (160 to 256 px here as 640 to 1024).
The port has widths of 256, 512 and 1024 in its code; towers are cut to few layers and thin MLPs on both sides. One image a prompt.
"""

import json
import shutil
from unittest.mock import patch

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays
from workbench.capture.zoo.port import as_mlx, open_mlx_vlm

IMAGE = 5
WIDTH, MLP, LAYERS = 1024, 64, 2
LARGE, SMALL = 256, 160
SAM = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": LARGE, "global_attn_indexes": [1]}


def config():
    from transformers.models.deepseek_ocr2 import DeepseekOcr2TextConfig

    return DeepseekOcr2TextConfig(
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
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        mlp_layer_types=["dense", "sparse", "sparse"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def build(config):
    import torch
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModel
    from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as second
    from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2SamVisionConfig

    clip = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=16, image_size=224, patch_size=56
    )
    sam = DeepseekOcr2SamVisionConfig(**SAM, downsample_channels=[512, WIDTH])

    class DeepseekOcr(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            config._experts_implementation = "eager"
            self.language_model = second.DeepseekOcr2TextModel._from_config(config, attn_implementation="eager")
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.sam_model = second.DeepseekOcr2SamVisionEncoder._from_config(sam, attn_implementation="eager")
            self.vision_model = CLIPVisionModel._from_config(clip, attn_implementation="eager")
            self.projector = nn.Linear(2 * WIDTH, config.hidden_size)
            self.image_newline, self.view_seperator = (nn.Parameter(torch.zeros(config.hidden_size)) for _ in range(2))

        def views(self, pixels):
            """(n, 3, side, side) -> (n, rows, columns, hidden)."""
            found = self.sam_model(pixels).last_hidden_state
            side, patches = found.shape[-1], found.flatten(2).transpose(1, 2)
            tower = self.vision_model
            first, places = tower.embeddings.class_embedding, tower.embeddings.position_embedding.weight
            grid = places[1:].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
            if side != 4:
                grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
            begun = torch.cat([first.expand(len(patches), 1, -1), patches], dim=1) + torch.cat([places[:1], grid[0].flatten(1).T])
            seen = tower.encoder(inputs_embeds=tower.pre_layrnorm(begun)).last_hidden_state[:, 1:]
            return self.projector(torch.cat([seen, patches], dim=-1)).unflatten(1, (side, side))

        def rows(self, grid):
            return torch.cat([grid, self.image_newline.expand(grid.shape[0], 1, -1)], dim=1).flatten(0, 1)

        def forward(
            self, input_ids, attention_mask=None, images_ori=None, images_crop=None, images_spatial_crop=None, images_seq_mask=None
        ):
            embedded = self.language_model.embed_tokens(input_ids)
            if images_ori is not None:
                parts = []
                columns, rows = images_spatial_crop[0].tolist()
                if columns * rows > 1:
                    tiles = list(self.views(images_crop))
                    parts = [
                        self.rows(torch.cat([torch.cat(tiles[row * columns : (row + 1) * columns], dim=1) for row in range(rows)]))
                    ]
                image = torch.cat([*parts, self.rows(self.views(images_ori)[0]), self.view_seperator[None]])
                embedded = embedded.masked_scatter(images_seq_mask[..., None], image)
            return self.lm_head(self.language_model(inputs_embeds=embedded, attention_mask=attention_mask).last_hidden_state)

    return DeepseekOcr().float().eval()


def run_reference(model, arrays):
    import torch

    dtype = model.lm_head.weight.dtype
    given = {name: torch.as_tensor(value) for name, value in arrays.items()}
    with torch.inference_mode():
        return model(**{name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()})[0]


def save(model, folder):
    """As published: everything within ``model.``, both towers under their own authors' names, each expert by itself."""
    import re

    import torch
    from safetensors.torch import save_file

    old = model.state_dict()
    weights = {}
    for name, value in old.items():
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
            for number, expert in enumerate(value):
                for part, weight in zip(parts, expert.chunk(len(parts)), strict=True):
                    weights[f"{published(name.rpartition('.')[0])}.{number}.{part}.weight"] = weight
        elif name.startswith("vision_model.") and "q_proj" in name:
            joined = torch.cat([old[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            weights[published(name).replace("q_proj", "qkv_proj")] = joined
        elif not (name.startswith("vision_model.") and re.search(r"[kv]_proj|post_layernorm", name)):
            weights[published(name)] = value
    settings = {
        "model_type": "deepseekocr",
        "architectures": ["DeepseekOCRForCausalLM"],
        "tile_tag": "2D",
        "global_view_pos": "head",
    }
    settings["language_config"] = model.config.to_dict() | {
        "model_type": "deepseek_v2",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "first_k_dense_replace": 1,
        "use_mla": False,
        **{"qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "kv_lora_rank": None, "q_lora_rank": None},
    }
    del settings["language_config"]["rope_parameters"]
    settings["vision_config"] = {
        **{"model_type": "vision", "model_name": "deeplip_b_l", "image_size": LARGE, "mlp_ratio": 3.7362},
        **{"layers": LAYERS, "intermediate_size": MLP, "patch_size": 56},
    }
    settings["projector_config"] = {"projector_type": "linear", "input_dim": 2 * WIDTH, "n_embed": model.config.hidden_size}
    folder.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(settings, indent=2))


def published(name):
    import re

    for pattern, replacement in (
        (r"^language_model\.", ""),
        (r"^projector\.", "projector.layers."),
        (r"^vision_model\.encoder\.", "vision_model.transformer."),
        (r"^sam_model\.layers\.(\d+)\.layer_norm", r"sam_model.blocks.\1.norm"),
        (r"^sam_model\.layers\.", "sam_model.blocks."),
        (r"^sam_model\.patch_embed\.projection\.", "sam_model.patch_embed.proj."),
        (r"^sam_model\.neck\.conv1\.", "sam_model.neck.0."),
        (r"^sam_model\.neck\.layer_norm1\.", "sam_model.neck.1."),
        (r"^sam_model\.neck\.conv2\.", "sam_model.neck.2."),
        (r"^sam_model\.neck\.layer_norm2\.", "sam_model.neck.3."),
        (r"^sam_model\.proj\.conv1\.", "sam_model.net_2."),
        (r"^sam_model\.proj\.conv2\.", "sam_model.net_3."),
    ):
        name = re.sub(pattern, replacement, name)
    return name if name.startswith("lm_head") else f"model.{name}"


def open_port(folder):
    from mlx_vlm.models.deepseekocr import config, deepseekocr

    def small():
        return config.SAMViTConfig(
            image_size=LARGE,
            width=SAM["hidden_size"],
            layers=SAM["num_hidden_layers"],
            heads=SAM["num_attention_heads"],
            global_attn_indexes=SAM["global_attn_indexes"],
        )

    with patch.object(deepseekocr, "SAMViTConfig", small):
        return open_mlx_vlm(folder)


def run_port(model, arrays):
    """The pixels are a pair in the port: the smaller views, then the large one."""
    from workbench.models.vlm_mlx import prompt_logits

    given = as_mlx(arrays)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    pixels = [given.pop("images_crop"), given.pop("images_ori")] if "images_ori" in given else None
    return prompt_logits(model, ids, pixels, mask, given)[0]


def cases(config, random):
    import numpy

    for name, columns, rows, parts in (
        ("one view", 1, 1, (3, 8)),
        ("two smaller views, wide", 2, 1, (1, 6)),
        ("two smaller views, tall", 1, 2, (5, 3)),
        ("four smaller views", 2, 2, (2, 1)),
    ):
        several = columns * rows > 1
        tokens = 4 * 5 + 1 + (3 * rows * (3 * columns + 1) if several else 0)
        ids = prompt(random, [parts[0], [IMAGE] * tokens, parts[1]], 10, 1000)
        crops = pixels(random, columns * rows, 3, SMALL, SMALL) if several else numpy.zeros((1, 3, LARGE, LARGE), numpy.float32)
        yield Case(
            name,
            text_arrays(ids)
            | {
                "images_ori": pixels(random, 1, 3, LARGE, LARGE),
                "images_crop": crops,
                "images_spatial_crop": numpy.array([[columns, rows]]),
                "images_seq_mask": ids == IMAGE,
            },
        )
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "deepseekocr",
    "DeepSeek-OCR: SAM and CLIP in a row, DeepSeek-V2's experts with plain attention",
    config,
    cases,
    kind="composite reference",
    reason="transformers has DeepSeek-OCR 2 only; SAM and the text model are its, CLIP is transformers', joined here after the published code",
    layouts=("hub",),
    build=build,
    save=save,
    to_hub=shutil.copytree,
    run_reference=run_reference,
    open_port=open_port,
    run_port=run_port,
    reference_names=((r"^sam_model\.layers", "vision_tower.sam.layers"), (r"^projector$", "multi_modal_projector")),
    port_names=(
        (r"^sam_model\.blocks\.(\d+)\.norm", r"vision_tower.sam.layers.\1.layer_norm"),
        (r"^sam_model\.blocks", "vision_tower.sam.layers"),
    ),
    note="the towers are cut to 3 and 2 layers; one image a prompt",
)
