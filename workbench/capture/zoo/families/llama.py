"""Llama 3.1 in mlx-lm: grouped queries, rotary embedding with the llama3 scaling, a head of its own. Text alone, short and longer."""

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        tie_word_embeddings=False,
    )


def cases(config, random):
    for name, length in (("seven tokens", 7), ("forty tokens", 40), ("a hundred and thirty tokens", 130)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


FAMILY = Family(
    "llama",
    "Llama 3.1: grouped queries, llama3 rotary scaling",
    config,
    cases,
    modality="text",
    build=reference.build_text,
    open_port=port.open_mlx_lm,
    run_port=port.run_mlx_lm,
)
