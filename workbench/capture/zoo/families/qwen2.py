"""Qwen 2 in mlx-lm: Llama with biases on queries, keys and values, and tied embeddings. Text alone, short and longer.

The rotary base is that of Qwen2.5-Math-1.5B (most others: 1000000, which is also the port's default).
"""

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        use_sliding_window=False,
        tie_word_embeddings=True,
    )


def cases(config, random):
    for name, length in (("seven tokens", 7), ("forty tokens", 40), ("a hundred and thirty tokens", 130)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


FAMILY = Family(
    "qwen2",
    "Qwen 2: grouped queries with biases, tied embeddings",
    config,
    cases,
    modality="text",
    build=reference.build_text,
    open_port=port.open_mlx_lm,
    run_port=port.run_mlx_lm,
)
