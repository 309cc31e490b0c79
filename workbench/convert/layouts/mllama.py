"""Llama 3.2 Vision: nothing but what every architecture needs.

Source: config.json and weight names of meta-llama/Llama-3.2-11B-Vision-Instruct, which has ``attention_heads`` in its vision part (the
port reads ``num_attention_heads``, whose default is that model's 16) and no ``max_aspect_ratio_id`` (the port's default is its 8).
"""

from workbench.convert.layout import Layout

LAYOUT = Layout(("mllama",))
"""A ``max_aspect_ratio_id`` in the configuration would be refused by transformers 5, where it is derived."""
