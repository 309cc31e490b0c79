"""Qwen3-VL: the vision part is called ``qwen3_vl``, and the text part says whether its embeddings are tied.

Weights are saved as published. Source: config.json of Qwen/Qwen3-VL-4B-Instruct.
"""

from workbench.convert.layout import Config, Layout


def published(config: Config) -> None:
    vision, text = config["vision_config"], config["text_config"]
    vision["model_type"] = "qwen3_vl"
    for name in ("rope_theta", "rope_scaling"):
        vision.pop(name, None)
    text["rope_scaling"].pop("type")
    text["tie_word_embeddings"] = config.get("tie_word_embeddings", False)


LAYOUT = Layout(("qwen3_vl",), config=published, source="config.json of Qwen/Qwen3-VL-4B-Instruct")
