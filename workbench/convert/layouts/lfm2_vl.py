"""LFM2-VL: the tower's ``vision_model`` comes back, and the text part gives its width as ``block_ff_dim`` and ``block_dim``.

Source: config.json and weight names of LiquidAI/LFM2-VL-1.6B.
"""

from workbench.convert.layout import Config, Layout


def published(config: Config) -> None:
    text = config["text_config"]
    text["block_ff_dim"] = text.pop("intermediate_size")
    text["block_dim"] = text["conv_dim"] = text["conv_dim_out"] = text["hidden_size"]
    text["num_heads"] = text["num_attention_heads"]
    text["block_norm_eps"] = text["norm_eps"]
    text["tie_embedding"] = text.pop("tie_word_embeddings", True)
    config["vision_feature_layer"] = -1


LAYOUT = Layout(
    ("lfm2_vl",),
    config=published,
    renames=((r"^model\.vision_tower\.(?!vision_model\.)", "model.vision_tower.vision_model."),),
    source="config.json and weight names of LiquidAI/LFM2-VL-1.6B",
)
