"""PaliGemma 1 (SigLIP and Gemma) and 2 (SigLIP and Gemma 2): images first, then a prompt that is read in both directions.

The processor always puts the image first and squares it. One image a prompt: mlx-vlm's chat refuses more for this family.
The prompt is a prefix: every token sees every other, on both sides, so there is no causality to probe.
"""

import numpy

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 990
PATCHES = 16
PORT_NAMES = ((r"model\.embed_tokens$", "model.unscaled"),)
"""transformers' word embeddings are scaled by the root of the hidden size already, the port's not yet."""

TEXT = {
    "vocab_size": 1000,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
}


def config(text, hidden_size):
    from transformers import PaliGemmaConfig, SiglipVisionConfig

    return PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=text,
        image_token_index=IMAGE,
        vocab_size=1000,
        projection_dim=48,
        hidden_size=hidden_size,
        pad_token_id=0,
    )


def first():
    """Head size 12 is hidden size over heads, as published (256 is 2048 over 8)."""
    from transformers import GemmaConfig

    return config(GemmaConfig(**TEXT, head_dim=12, num_key_value_heads=1), hidden_size=48)


def second():
    """The head size is no quotient of the hidden size (256, and 2304 over 8, as published), and the whole's ``hidden_size`` is not
    the language model's: transformers' converter of PaliGemma 2 leaves it at 2048, where Gemma 2 has 2304, 3584 or 4608."""
    from transformers import Gemma2Config

    return config(
        Gemma2Config(
            **TEXT,
            head_dim=16,
            num_key_value_heads=2,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            sliding_window=4096,
        ),
        hidden_size=40,
    )


def cases(config, random):
    for name, words in (("one image", 12), ("one image, a long prompt", 40)):
        yield Case(name, arrays(random, [[IMAGE] * PATCHES, words]) | {"pixel_values": pixels(random, 1, 3, 56, 56)})
    yield Case("text alone", arrays(random, [20]))


def arrays(random, parts):
    """Token types of a prompt without an answer are all 0: the prefix."""
    given = text_arrays(prompt(random, parts, 10, 900))
    return given | {"token_type_ids": numpy.zeros_like(given["input_ids"])}


OTHERS = {"port_names": PORT_NAMES, "probe": None, "note": "one image a prompt; mlx-vlm's chat refuses more"}
FAMILIES = (
    Family("paligemma", "PaliGemma: SigLIP, one linear layer, Gemma", first, cases, **OTHERS),
    Family("paligemma2", "PaliGemma 2: SigLIP, one linear layer, Gemma 2", second, cases, **OTHERS),
)
