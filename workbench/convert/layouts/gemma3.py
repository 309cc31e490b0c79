"""Gemma 3: rotary bases by layer type become ``rope_theta``, ``rope_local_base_freq`` and ``rope_scaling``; the tower's ``vision_model``
comes back, and ``layer_types`` become ``sliding_window_pattern``.

Source: config.json and weight names of google/gemma-3-4b-it and gemma-3-27b-it. They have no outermost ``hidden_size``.
"""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    text = config["text_config"]
    parameters = text.pop("rope_parameters")
    whole = dict(parameters["full_attention"])
    text["rope_theta"] = whole.pop("rope_theta")
    text["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    text["rope_scaling"] = whole if whole["rope_type"] != "default" else None
    kinds = text.pop("layer_types")
    text["sliding_window_pattern"] = kinds.index("full_attention") + 1 if "full_attention" in kinds else 6


LAYOUT = Layout(("gemma3",), config=config, renames=((r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),))
