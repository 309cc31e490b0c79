"""Aya Vision: a SigLIP tower, pixel shuffle into a gated layer, and Cohere 2 (parallel blocks; three layers with a sliding window and
rotary positions, then one with neither). Tiles are squares; markers that are text stand between them, the whole image comes last.
The window is so small here that the prompts are longer, as two images of twelve tiles are in the published models. Command A Vision
(``cohere2_vision``) is the same without the projector's norm; mlx-vlm runs it as Aya Vision. Aya Vision 32B has Cohere 1: rotary positions
and no window in every layer."""

from workbench.capture.zoo import port
from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
TILE = [IMAGE] * 9


def parts():
    from transformers import Cohere2Config, SiglipVisionConfig

    return {
        "vision_config": SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=84,
            patch_size=14,
            vision_use_head=False,
        ),
        "text_config": Cohere2Config(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            logit_scale=0.25,
            sliding_window=24,
            rope_parameters={"rope_type": "default", "rope_theta": 60000.0},
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        "downsample_factor": 2,
        "alignment_intermediate_size": 96,
        "tie_word_embeddings": True,
    }


def config():
    from transformers import AyaVisionConfig

    return AyaVisionConfig(**parts(), image_token_index=IMAGE, adapter_layer_norm_eps=1e-6)


def config_of_32b():
    """Heads of 128 as published: its config does not say so, and the port takes it for granted."""
    from transformers import AyaVisionConfig, CohereConfig

    text = CohereConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        logit_scale=0.0625,
        rope_parameters={"rope_type": "default", "rope_theta": 4_000_000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return AyaVisionConfig(**parts() | {"text_config": text}, image_token_index=IMAGE, adapter_layer_norm_eps=1e-6)


def config_of_command():
    from transformers import Cohere2VisionConfig

    return Cohere2VisionConfig(**parts(), image_token_id=IMAGE)


def cases(config, random):
    wide = [6, *TILE, 7, *TILE, 8, *TILE]
    for name, parts, n in (
        ("one tile, image first", [TILE, 6], 1),
        ("one tile, longer than the window", [9, TILE, 22], 1),
        ("two tiles and the whole, image between", [5, wide, 7], 3),
        ("two images, image last", [3, TILE, 4, wide, 1], 4),
    ):
        yield Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"pixel_values": pixels(random, n, 3, 84, 84)})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))
    yield Case("text alone, longer than the window", text_arrays(prompt(random, [40], 10, 1000)))


def open_port(folder):
    """The port takes the published 255036 for Command A Vision's image token, without reading ``image_token_id``."""
    model = port.open_mlx_vlm(folder)
    model.config.image_token_index = IMAGE
    return model


FAMILIES = (
    Family("aya_vision", "Aya Vision 8B: SigLIP, pixel shuffle, Cohere 2", config, cases),
    Family("aya_vision_32b", "Aya Vision 32B: SigLIP, pixel shuffle, Cohere 1", config_of_32b, cases),
    Family(
        "cohere2_vision",
        "Command A Vision: SigLIP 2, pixel shuffle, Cohere 2",
        config_of_command,
        cases,
        open_port=open_port,
        note="the port is told the image token, which it takes for granted",
    ),
)
