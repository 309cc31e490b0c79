"""The demo model's architecture and its export in the hub layout, which transformers and mlx-vlm both load.

transformers 5 saves a LLaVA under newer weight names and a newer config than published checkpoints have; mlx-vlm reads
only the published form.  ``export`` therefore writes that form (``vision_tower.vision_model...``, a flat
``rope_theta``), and transformers converts it back on loading.
"""

import json
from pathlib import Path

from workbench.demo import tokenizer

IMAGE_SIZE, PATCH_SIZE = 64, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
PIXEL_MEAN, PIXEL_STD = [0.75, 0.75, 0.75], [0.3, 0.3, 0.3]

VISION = {
    "hidden_size": 160,
    "intermediate_size": 480,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_channels": 3,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "projection_dim": 160,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    "hidden_size": 160,
    "intermediate_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": tokenizer.END_ID,
    "pad_token_id": tokenizer.PAD_ID,
}
ROPE_THETA = 10000.0


def vocabulary_size() -> int:
    """Number of tokens, rounded up to a multiple of 8."""
    return -(-len(tokenizer.pieces()) // 8) * 8


def create_model(seed: int = 0, attention: str = "sdpa"):
    """A freshly initialised ``LlavaForConditionalGeneration`` in float32.

    Linear weights start at fan-in scale (standard deviation ``hidden ** -0.5``), not at transformers' 0.02.
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT, vocab_size=vocabulary_size(), rope_parameters=rope),
        image_token_index=tokenizer.IMAGE_ID,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        projector_hidden_act="gelu",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=TEXT["tie_word_embeddings"],
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).float()
    depth = {"vision": VISION["num_hidden_layers"], "text": TEXT["num_hidden_layers"]}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        fan_in = parameter[0].numel()
        scale = fan_in**-0.5
        if "embed_tokens" in name or "position_embedding" in name:
            scale = 0.05
        elif name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")):
            scale /= (2 * depth["vision" if "vision" in name else "text"]) ** 0.5
        torch.nn.init.normal_(parameter, std=scale)
    model.tie_weights()
    model.option_head = torch.nn.Linear(TEXT["hidden_size"], 5)  # training only, never exported
    return model


def export(model, folder: Path) -> None:
    """Write ``model`` with its tokenizer and processor settings into ``folder`` in the hub layout (float32)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in model.state_dict().items():
        hub = hub_name(name)
        if hub is not None:
            weights[hub] = tensor.detach().float().contiguous().clone()
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save(folder)
    for file, value in _settings().items():
        (folder / file).write_text(json.dumps(value, indent=2) + "\n")


def hub_name(name: str) -> str | None:
    """Published name of a weight that transformers 5 calls ``name``; None for what is not stored."""
    if name.startswith("option_head."):
        return None
    if name == "lm_head.weight":
        return None if TEXT["tie_word_embeddings"] else "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def _settings() -> dict[str, dict]:
    text = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary_size(), **TEXT}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": tokenizer.IMAGE_ID,
        "image_seq_length": IMAGE_TOKENS,
        "ignore_index": -100,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": TEXT["tie_word_embeddings"],
        "torch_dtype": "float32",
        "eos_token_id": tokenizer.END_ID,
        "pad_token_id": tokenizer.PAD_ID,
        "text_config": text | {"rope_theta": ROPE_THETA, "attention_bias": False, "torch_dtype": "float32"},
        "vision_config": {"model_type": "clip_vision_model", **VISION},
    }
    image = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
        "do_convert_rgb": True,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": tokenizer.IMAGE,
        "patch_size": PATCH_SIZE,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    generation = {
        "do_sample": False,
        "eos_token_id": tokenizer.END_ID,
        "pad_token_id": tokenizer.PAD_ID,
        "max_new_tokens": 32,
    }
    return {
        "config.json": config,
        "generation_config.json": generation,
        "preprocessor_config.json": image | {"processor_class": "LlavaProcessor"},
        "processor_config.json": processor,
    }
