"""Qwen 3 in mlx-lm: grouped queries with a norm on every head's queries and keys, heads wider than hidden / heads. Text alone."""

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        use_sliding_window=False,
        tie_word_embeddings=False,
    )


def cases(config, random):
    for name, length in (("seven tokens", 7), ("forty tokens", 40), ("a hundred and thirty tokens", 130)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


FAMILY = Family(
    "qwen3",
    "Qwen 3: norms on queries and keys, wide heads",
    config,
    cases,
    modality="text",
    build=reference.build_text,
    open_port=port.open_mlx_lm,
    run_port=port.run_mlx_lm,
)
