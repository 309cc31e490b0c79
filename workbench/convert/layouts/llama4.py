"""Llama 4: the vision part names its ``vision_feature_layer``.

Source: config.json and weight names of meta-llama/Llama-4-Scout-17B-16E-Instruct.
"""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    config["vision_config"]["vision_feature_layer"] = -1
    for name in ("layer_types", "no_rope_layer_interval"):
        config["text_config"].pop(name, None)


LAYOUT = Layout(("llama4",), config=config)
