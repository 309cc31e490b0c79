"""Llama, Mistral, Qwen 2 and 3, Gemma 2: beyond the rotary keys only ``layer_types`` goes, which no published config.json of them has.

Source: config.json of meta-llama/Llama-3.1-8B, mistralai/Mistral-7B-v0.1, Qwen/Qwen2-7B, Qwen/Qwen3-8B and google/gemma-2-2b.
"""

from workbench.convert.layout import Layout


def config(config):
    config.pop("layer_types", None)


LAYOUT = Layout(("llama", "mistral", "qwen2", "qwen3", "gemma2"), config=config)
