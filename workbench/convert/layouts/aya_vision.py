"""Aya Vision and Command A Vision: the SigLIP tower's ``vision_model`` comes back; the layers' kinds become a pattern. Source: config.json and
weight names of CohereLabs/aya-vision-8b; for Command A Vision the names that transformers 4.55 had, with which it was published."""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    text = config["text_config"]
    if text["model_type"] == "cohere2":  # the 32B has Cohere 1, all of whose layers are alike
        kinds = text.pop("layer_types")
        text["sliding_window_pattern"] = kinds.index("full_attention") + 1


LAYOUT = Layout(
    ("aya_vision", "cohere2_vision"),
    config=config,
    renames=((r"^(model\.)?vision_tower\.(?!vision_model\.)", r"\1vision_tower.vision_model."),),
)
