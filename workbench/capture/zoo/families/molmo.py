"""Molmo 7B-D: a CLIP tower on flattened patches, attention pooling over 2x2 patches of two layers, and Qwen 2 with its weights fused.

transformers has Molmo 2 only: the pooling and the projector are taken from there, CLIP's layers and Qwen 2 are transformers', and what joins
them is written here after the published code (allenai/molmo, olmo/model.py): features counted from the last layer, learned vectors for
padded and partly padded patches, the pooling's query the mean of its window, image features added to the tokens' embeddings. The published
config.json names none of the port's keys, which has 7B-D's sizes in its code; a tiny model must name them, all but the epsilon that the
published one has at its root. Cases: crops of an image, a crop that is all padding, the order of patches changed as overlaps change it.
"""

import json
import shutil

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

LAYERS, WIDTH, HEADS, FEATURES = 10, 48, 4, (-2, -9)
SIDE = 4
TOKENS = (SIDE // 2) ** 2
NEW = 16
IMAGE = 1001


def config():
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=1000 + NEW,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        use_sliding_window=False,
        tie_word_embeddings=False,
    )


def build(config):
    import torch
    from torch import nn
    from transformers import CLIPVisionConfig, Qwen2Model
    from transformers.models.clip.modeling_clip import CLIPEncoder
    from transformers.models.molmo2.configuration_molmo2 import Molmo2AdapterConfig
    from transformers.models.molmo2.modeling_molmo2 import Molmo2ImageProjectorMLP, Molmo2VisionAttention

    clip = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=100,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=14 * SIDE,
        patch_size=14,
    )
    adapter = Molmo2AdapterConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        intermediate_size=config.intermediate_size,
        text_hidden_size=config.hidden_size,
    )
    for each in (clip, adapter):
        each._attn_implementation = "eager"

    class Molmo(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            self.language_model = Qwen2Model._from_config(config, attn_implementation="eager")
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size - NEW, bias=False)
            self.class_embedding, self.places = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.randn(1 + SIDE * SIDE, WIDTH))
            self.patches, self.pre_norm = nn.Linear(14 * 14 * 3, WIDTH, bias=False), nn.LayerNorm(WIDTH)
            self.vision_tower = CLIPEncoder(clip)
            self.image_pooling_2d = Molmo2VisionAttention(adapter, hidden_size=len(FEATURES) * WIDTH)
            self.multi_modal_projector = Molmo2ImageProjectorMLP(adapter)
            self.pad_embed = nn.Parameter(torch.randn(2, len(FEATURES) * WIDTH))

        def crops(self, pixels, covered):
            """(n, 16, 588) and the share of each patch that is image -> (n, 4, hidden)."""
            begun = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), self.patches(pixels)], dim=1) + self.places
            states, found = self.pre_norm(begun), []
            for layer in self.vision_tower.layers:
                states = layer(states, attention_mask=None)
                found.append(states[0] if isinstance(states, tuple) else states)
                states = found[-1]
            features = torch.cat([found[layer] for layer in FEATURES], dim=-1)[:, 1:]
            features = features * ~(pixels == -1).all(dim=(1, 2))[:, None, None]
            nothing, part = (covered == 0)[..., None], ((covered != 0) & (covered < 1))[..., None]
            features = features + self.pad_embed[0] * nothing + self.pad_embed[1] * part
            window = (
                features.unflatten(1, (SIDE // 2, 2, SIDE // 2, 2)).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, features.shape[-1])
            )
            pooled, _ = self.image_pooling_2d(window.mean(1, keepdim=True), window)
            return self.multi_modal_projector(pooled.reshape(len(pixels), TOKENS, -1))

        def forward(self, input_ids, attention_mask=None, pixel_values=None, image_masks=None, image_input_idx=None):
            embedded = self.language_model.embed_tokens(input_ids)
            if pixel_values is not None:
                found, places = self.crops(pixel_values[0], image_masks[0]).flatten(0, 1), image_input_idx.flatten()
                embedded = embedded.index_put(
                    (torch.zeros_like(places[places >= 0]), places[places >= 0]), found[places >= 0], accumulate=True
                )
            return self.lm_head(self.language_model(inputs_embeds=embedded, attention_mask=attention_mask).last_hidden_state)

    return Molmo().float().eval()


def run_reference(model, arrays):
    import torch

    dtype = model.lm_head.weight.dtype
    given = {name: torch.as_tensor(value) for name, value in arrays.items()}
    with torch.inference_mode():
        return model(**{name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()})[0]


def save(model, folder):
    """As published: ``model.transformer`` with queries, keys and values in one and the gate after the values, ``model.vision_backbone``."""
    import torch
    from safetensors.torch import save_file

    old = model.state_dict()
    text, vision = "model.transformer.", "model.vision_backbone."
    vit = vision + "image_vit."
    table = old["language_model.embed_tokens.weight"]
    weights = {
        f"{text}wte.embedding": table[:-NEW],
        f"{text}wte.new_embedding": table[-NEW:],
        f"{text}ln_f.weight": old["language_model.norm.weight"],
        f"{text}ff_out.weight": old["lm_head.weight"],
        f"{vit}class_embedding": old["class_embedding"],
        f"{vit}positional_embedding": old["places"],
        f"{vit}patch_embedding.weight": old["patches.weight"],
        f"{vit}pre_ln.weight": old["pre_norm.weight"],
        f"{vit}pre_ln.bias": old["pre_norm.bias"],
        f"{vision}pad_embed": old["pad_embed"],
    }
    for number in range(model.config.num_hidden_layers):
        layer, block = f"language_model.layers.{number}.", f"{text}blocks.{number}."
        for kind in ("weight", "bias"):
            weights[f"{block}att_proj.{kind}"] = torch.cat([old[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"])
        weights[f"{block}attn_out.weight"] = old[f"{layer}self_attn.o_proj.weight"]
        weights[f"{block}ff_proj.weight"] = torch.cat([old[f"{layer}mlp.{part}_proj.weight"] for part in ("up", "gate")])
        weights[f"{block}ff_out.weight"] = old[f"{layer}mlp.down_proj.weight"]
        weights[f"{block}attn_norm.weight"] = old[f"{layer}input_layernorm.weight"]
        weights[f"{block}ff_norm.weight"] = old[f"{layer}post_attention_layernorm.weight"]
    parts = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv"}
    parts |= {"self_attn.out_proj": "attention.wo", "mlp.fc1": "feed_forward.w1", "mlp.fc2": "feed_forward.w2"}
    parts |= {"layer_norm1": "attention_norm", "layer_norm2": "ffn_norm"}
    named = {
        f"vision_tower.layers.{n}.{part}": f"{vit}transformer.resblocks.{n}.{its}"
        for n in range(LAYERS)
        for part, its in parts.items()
    }
    named |= {f"image_pooling_2d.{part}_proj": f"{vision}image_pooling_2d.w{part}" for part in "qkvo"}
    named |= {
        f"multi_modal_projector.{part}_proj": f"{vision}image_projector.{its}"
        for part, its in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    }
    for name, value in old.items():
        module, _, kind = name.rpartition(".")
        if module in named:
            weights[f"{named[module]}.{kind}"] = value
    folder.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(settings(model.config), indent=2))


def settings(config):
    size = {"model_type": "molmo", "d_model": config.hidden_size}
    return {
        "model_type": "molmo",
        "architectures": ["MolmoForCausalLM"],
        "layer_norm_eps": config.rms_norm_eps,
        "rope_theta": 1000000.0,
        "qkv_bias": True,
        "text_config": size
        | {
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "n_layers": config.num_hidden_layers,
            "mlp_hidden_size": 2 * config.intermediate_size,
            "vocab_size": config.vocab_size - NEW,
            "embedding_size": config.vocab_size - NEW,
            "additional_vocab_size": NEW,
        },
        "vision_config": size
        | {
            "hidden_size": config.intermediate_size,
            "image_default_input_size": [14 * SIDE, 14 * SIDE],
            "image_emb_dim": WIDTH,
            "image_num_heads": HEADS,
            "image_num_key_value_heads": HEADS,
            "image_head_dim": WIDTH // HEADS,
            "image_num_layers": LAYERS,
            "image_mlp_dim": 100,
            "image_num_pos": 1 + SIDE * SIDE,
            "vit_layers": list(FEATURES),
        },
    }


def cases(config, random):
    import numpy

    for name, crops, parts in (
        ("one crop", 1, (1, 9)),
        ("three crops, image last", 3, (8, 1)),
        ("four crops, one all padding", 4, (5, 5)),
    ):
        ids = prompt(random, [parts[0], [IMAGE] * (crops * TOKENS), parts[1]], 10, 1000)
        images = pixels(random, 1, crops, SIDE * SIDE, 14 * 14 * 3)
        covered = random.choice(numpy.array([0.0, 0.3, 1.0, 1.0], numpy.float32), (1, crops, SIDE * SIDE))
        places = parts[0] + random.permutation(crops * TOKENS).reshape(1, crops, TOKENS)
        places[0, -1, -1] = -100  # a window of an overlap, which is no token
        if "padding" in name:
            images[0, -1], covered[0, -1], places[0, -1] = -1, 0, -100
        yield Case(name, text_arrays(ids) | {"pixel_values": images, "image_masks": covered, "image_input_idx": places})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "molmo",
    "Molmo 7B-D: CLIP, attention pooling, Qwen 2 with fused weights",
    config,
    cases,
    kind="composite reference",
    reason="transformers has Molmo 2 only; its pooling, CLIP's layers and Qwen 2 are joined here after the published code",
    layouts=("hub",),
    build=build,
    save=save,
    to_hub=shutil.copytree,
    run_reference=run_reference,
    reference_names=((r"^image_pooling_2d", "multi_modal_projector.image_pooling_2d"), (r"^pre_norm", "vision_tower.pre_norm")),
    port_names=(
        (r"image_vit\.transformer\.resblocks\.", "layers."),
        (r"image_vit\.pre_ln", "pre_norm"),
        (r"vision_tower\.image_pooling_2d", "multi_modal_projector.image_pooling_2d"),
        (r"vision_tower\.image_projector\.w1", "multi_modal_projector.gate_proj"),
        (r"vision_tower\.image_projector\.w2", "multi_modal_projector.down_proj"),
        (r"vision_tower\.image_projector\.w3", "multi_modal_projector.up_proj"),
        (r"vision_tower\.image_projector", "multi_modal_projector"),
        (r"attn_out", "self_attn"),
        (r"(blocks\.\d+)\.ff_out", r"\1.mlp"),
        (r"attention_norm", "layer_norm1"),
        (r"ffn_norm", "layer_norm2"),
        (r"attn_norm", "input_layernorm"),
        (r"ff_norm", "post_attention_layernorm"),
    ),
    note="not MolmoE, 7B-O or 72B, whose sizes the port does not read from the published config.json",
)
