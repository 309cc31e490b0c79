"""Idefics2 and Idefics3: the parts carry the whole's ``model_type``; Idefics2 leaves out what is Mistral's default.

Source: config.json of HuggingFaceM4/idefics2-8b and Idefics3-8B-Llama3; the weights' names are transformers' own. Idefics2's text part
names its vocabulary, epsilon, padding and context alone, so the rotary base is the default of transformers' Mistral, 10000.
"""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    for part in ("vision_config", "perceiver_config"):
        if part in config:
            config[part]["model_type"] = config["model_type"]
    text = config["text_config"]
    if text["model_type"] == "mistral" and text.get("rope_theta") == 10_000.0:
        del text["rope_theta"]


LAYOUT = Layout(("idefics2", "idefics3"), config=config)
