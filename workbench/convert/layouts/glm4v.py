"""GLM-4.1V and GLM-4.5V: the vision part has no rotary settings, the text part says that its attention has biases.

Weights are saved as published. Source: config.json of zai-org/GLM-4.1V-9B-Thinking and zai-org/GLM-4.5V.
"""

from workbench.convert.layout import Config, Layout


def published(config: Config) -> None:
    for name in ("rope_theta", "rope_scaling"):
        config["vision_config"].pop(name, None)
    text = config["text_config"]
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": text["rope_scaling"]["mrope_section"]}
    text.setdefault("attention_bias", True)
    if config["model_type"] == "glm4v_moe":
        text["use_qk_norm"] = False


LAYOUT = Layout(("glm4v", "glm4v_moe"), config=published, source="config.json of zai-org/GLM-4.1V-9B-Thinking and zai-org/GLM-4.5V")
