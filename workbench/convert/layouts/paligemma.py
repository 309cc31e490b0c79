"""PaliGemma 1 and 2: the tower's ``vision_model`` comes back, and configurations have no ``layer_types``.

Source: config.json and weight names of google/paligemma-3b-mix-224 and google/paligemma2-3b-pt-224.
"""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    text = config["text_config"]
    text["hidden_act"] = text["hidden_activation"]
    text.pop("use_bidirectional_attention", None)
    text.pop("layer_types", None)


LAYOUT = Layout(("paligemma",), config=config, renames=((r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),))
