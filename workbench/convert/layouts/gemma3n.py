"""Gemma 3n: rotary bases by layer type become ``rope_theta``, ``rope_local_base_freq`` and ``rope_scaling``.

Source: config.json and weight names of google/gemma-3n-E4B-it.
"""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    text = config["text_config"]
    parameters = text.pop("rope_parameters")
    whole = dict(parameters["full_attention"])
    text["rope_theta"] = whole.pop("rope_theta")
    text["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    text["rope_scaling"] = whole if whole["rope_type"] != "default" else None


LAYOUT = Layout(("gemma3n",), config=config)
