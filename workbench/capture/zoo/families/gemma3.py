"""Gemma 3: SigLIP, pooled to a few soft tokens an image, and a text model with sliding and full attention layers.

Words attend to what is before them; the tokens of one image attend to each other in both directions (``token_type_ids``). Pan and scan
makes several images of one. The hidden size is no square, as published, so that its root is not exact in bfloat16. The text part names
``mm_tokens_per_image`` because the port reads it there, where published checkpoints keep its default of 256.
"""

import numpy

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 990
TOKENS = 4
BLOCK = [988, *([IMAGE] * TOKENS), 989]


def config():
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    return Gemma3Config(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Gemma3TextConfig(
            vocab_size=1000,
            hidden_size=48,
            intermediate_size=112,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=24,
            sliding_window=1024,
            sliding_window_pattern=2,
            mm_tokens_per_image=TOKENS,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        ),
        mm_tokens_per_image=TOKENS,
        boi_token_index=988,
        eoi_token_index=989,
        image_token_index=IMAGE,
    )


def cases(config, random):
    for name, parts, images in (
        ("image first", [BLOCK, 12], 1),
        ("image last", [12, BLOCK, 1], 1),
        ("three crops, as pan and scan makes them", [3, BLOCK, 4, BLOCK, 1, BLOCK, 9], 3),
    ):
        yield Case(name, arrays(random, parts) | {"pixel_values": pixels(random, images, 3, 56, 56)})
    yield Case("text alone", arrays(random, [20]))


def arrays(random, parts):
    given = text_arrays(prompt(random, parts, 10, 900))
    return given | {"token_type_ids": (given["input_ids"] == IMAGE).astype(numpy.int64)}


PORT_NAMES = ((r"model\.embed_tokens$", "model.unscaled"),)
"""transformers' word embeddings are scaled by the root of the hidden size already, the port's not yet."""

FAMILY = Family("gemma3", "Gemma 3: SigLIP, pooling, Gemma 3 text", config, cases, port_names=PORT_NAMES)
