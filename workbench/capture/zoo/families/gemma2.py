"""Gemma 2 in mlx-lm: soft caps on attention and logits, four norms a block, scaled embeddings, every second layer with a sliding window.

The window is 16 tokens here, 4096 in published checkpoints; prompts beyond it are a row of their own.
"""

from dataclasses import replace

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import Gemma2Config

    return Gemma2Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        query_pre_attn_scalar=20,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=16,
    )


def cases(config, random):
    for name, length in (("seven tokens", 7), ("the whole window", 16)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


def beyond(config, random):
    for name, length in (("twice the window", 32), ("beyond the window", 40)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


WITHIN = Family(
    "gemma2",
    "Gemma 2: soft caps, sliding and full attention in turn",
    config,
    cases,
    modality="text",
    build=reference.build_text,
    open_port=port.open_mlx_lm,
    run_port=port.run_mlx_lm,
    port_names=(
        (r"embed_tokens", "unscaled_embeddings"),
    ),  # transformers multiplies by sqrt(hidden) in the module, mlx-lm after it
)
BEYOND = replace(WITHIN, name="gemma2_window", title="Gemma 2 beyond its window", cases=beyond)
FAMILIES = (WITHIN, BEYOND)
