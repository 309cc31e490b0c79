"""Mistral 7B in mlx-lm (which loads it as Llama): grouped queries and a sliding window in every layer.

The window is 16 tokens here and 4096 in v0.1; longer prompts are a row of their own. The rotary base is that of v0.2 and v0.3, which have no
window (v0.1: 10000): what the window's row finds is met by users of v0.1, what the v5 rows find by those of the later ones.
"""

from dataclasses import replace

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import MistralConfig

    return MistralConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        sliding_window=16,
        tie_word_embeddings=False,
    )


def cases(config, random):
    for name, length in (("seven tokens", 7), ("the whole window", 16)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


def beyond(config, random):
    for name, length in (("twice the window", 32), ("beyond the window", 40)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


WITHIN = Family(
    "mistral",
    "Mistral 7B: Llama with a sliding window",
    config,
    cases,
    modality="text",
    build=reference.build_text,
    open_port=port.open_mlx_lm,
    run_port=port.run_mlx_lm,
)
BEYOND = replace(WITHIN, name="mistral_window", title="Mistral 7B beyond its window", cases=beyond)
FAMILIES = (WITHIN, BEYOND)
