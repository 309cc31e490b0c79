"""Mistral Small 3.1 and Ministral 3: names as transformers 5 saves them; Ministral 3 was published with transformers 5's rope fields.
Source: config.json and weight names of mistralai/Mistral-Small-3.1-24B-Instruct-2503 and mistralai/Ministral-3-3B-Instruct-2512."""

from workbench.convert.layout import Config, Layout


def config(config: Config) -> None:
    config["vision_config"].pop("rope_scaling", None)  # "axial" is what Pixtral does without being told
    text = config["text_config"]
    if text["model_type"] == "ministral3":
        text["rope_parameters"] = {"rope_theta": text.pop("rope_theta"), **text.pop("rope_scaling")}


LAYOUT = Layout(("mistral3",), config=config)
