"""Phi-3.5-vision: CLIP on a small overview and a grid of 336 px crops ("hd transform"), two linear layers, and Phi-3 with long rotary factors.

transformers has no class for it: CLIP and Phi-3 are transformers', what joins them is written here after the published remote code
(``image_embedding_phi3_v.py``): features of the last layer but one, 2 by 2 joined, crops put in their places, a learned vector ending
every row, another between crops and overview. The port has CLIP-L's width and 336 px in its code; the tower is cut to 2 layers and a thin
MLP, on both sides. Cases: two crops one above the other, two side by side, text alone.
"""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import patch

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays
from workbench.capture.zoo.port import open_mlx_vlm

LAYERS, MLP, WIDTH, SIDE = 2, 64, 1024, 12


def config():
    from transformers import Phi3Config

    factors = [[1.0 + 0.1 * place, 1.5 + place] for place in range(8)]
    return Phi3Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [short for short, _ in factors],
            "long_factor": [long for _, long in factors],
            "original_max_position_embeddings": 4096,
        },
        sliding_window=262144,
        pad_token_id=None,
    )


def build(config):
    import torch
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3ForCausalLM

    tower = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=16, image_size=336, patch_size=14
    )

    class Phi3Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            self.language_model = Phi3ForCausalLM._from_config(config, attn_implementation="eager")
            self.vision_tower = CLIPVisionModel._from_config(tower, attn_implementation="eager")
            self.img_projection = nn.Sequential(
                nn.Linear(4 * WIDTH, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
            )
            self.sub_GN, self.glb_GN = nn.Parameter(torch.zeros(1, 1, 1, 4 * WIDTH)), nn.Parameter(torch.zeros(1, 1, 4 * WIDTH))

        def rows(self, grid):
            """(rows, columns, 4 * width) -> one sequence, with the learned vector after every row."""
            end = self.sub_GN[0].expand(grid.shape[0], 1, -1)
            return torch.cat([grid, end], dim=1).flatten(0, 1)

        def image(self, crops, rows, columns):
            """Crops of one image, the overview first -> its tokens' embeddings."""
            found = self.vision_tower(crops, output_hidden_states=True).hidden_states[-2][:, 1:]
            joined = found.unflatten(1, (SIDE, 2, SIDE, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3)
            canvas = joined.new_zeros(rows * SIDE, columns * SIDE, 4 * WIDTH)
            for number, crop in enumerate(joined[1 : 1 + rows * columns]):
                down, right = (SIDE * place for place in divmod(number, columns))
                canvas[down : down + SIDE, right : right + SIDE] = crop
            return self.img_projection(torch.cat([self.rows(canvas), self.glb_GN[0], self.rows(joined[0])]))

        def forward(self, input_ids, attention_mask=None, pixel_values=None, image_sizes=None):
            embedded = self.language_model.get_input_embeddings()(input_ids.clamp_min(0))
            if pixel_values is not None:
                sizes = (image_sizes // 336).tolist()
                images = [self.image(crops, *size) for crops, size in zip(pixel_values, sizes, strict=True)]
                embedded = embedded.masked_scatter((input_ids < 0)[..., None], torch.cat(images))
            return self.language_model(inputs_embeds=embedded, attention_mask=attention_mask)

    return Phi3Vision().float().eval()


def save(model, folder):
    """As published: Phi-3's keys, and all of the vision parts within ``model.vision_embed_tokens``."""
    from safetensors.torch import save_file

    weights = {published(name): value.contiguous() for name, value in model.state_dict().items()}
    settings = model.config.to_dict()
    rotary = settings.pop("rope_parameters")
    settings |= {
        "model_type": "phi3_v",
        "architectures": ["Phi3VForCausalLM"],
        "rope_theta": rotary["rope_theta"],
        "rope_scaling": {"type": "su", "short_factor": rotary["short_factor"], "long_factor": rotary["long_factor"]},
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {"image_dim_out": WIDTH, "name": "clip_vision_model", "num_img_tokens": SIDE * SIDE},
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2))


def published(name):
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    if name.startswith("vision_tower."):
        name = f"img_processor.vision_model.{name.removeprefix('vision_tower.').removeprefix('vision_model.')}"
    return f"model.vision_embed_tokens.{name}"


def open_port(folder):
    from mlx_vlm.models.phi3_v.vision import VisionModel

    small = SimpleNamespace(
        **vars(VisionModel.CLIP_VIT_LARGE_PATCH14_336_CONFIG) | {"num_hidden_layers": LAYERS, "intermediate_size": MLP}
    )
    with patch.object(VisionModel, "CLIP_VIT_LARGE_PATCH14_336_CONFIG", small):
        return open_mlx_vlm(folder)


def cases(config, random):
    import numpy

    for name, rows, columns, parts in (
        ("two crops, tall", 2, 1, (5, 6)),
        ("two crops, wide", 1, 2, (1, 4)),
    ):
        tokens = [-1] * ((rows * columns + 1) * SIDE * SIDE + 1 + (rows + 1) * SIDE)
        yield Case(
            name,
            text_arrays(prompt(random, [parts[0], tokens, parts[1]], 10, 1000))
            | {
                "pixel_values": pixels(random, 1, 1 + rows * columns, 3, 336, 336),
                "image_sizes": numpy.array([[336 * rows, 336 * columns]]),
            },
        )
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "phi3_v",
    "Phi-3.5-vision: CLIP with crops, two linear layers, Phi-3",
    config,
    cases,
    kind="composite reference",
    reason="transformers has no class for it; CLIP and Phi-3 are transformers', joined here after the published remote code",
    layouts=("hub",),
    build=build,
    save=save,
    to_hub=shutil.copytree,
    open_port=open_port,
    reference_names=(
        (r"embed_tokens", "clamped_token_table"),
    ),  # image places hold negative ids, which both sides embed before replacing
    note="the vision tower is CLIP-L's first 2 layers with a thin MLP; no prompt beyond 4096 tokens",
)
