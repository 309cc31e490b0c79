"""Qwen2-VL and Qwen2.5-VL: the text model's settings lie flat at the root, and the vision part names no type.

Weights are saved as published. Source: config.json of Qwen/Qwen2-VL-2B-Instruct and Qwen/Qwen2.5-VL-3B-Instruct.
"""

from workbench.convert.layout import Config, Layout


def flat(config: Config) -> None:
    text = config.pop("text_config")
    del text["model_type"]
    text.pop("layer_types", None)
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
    for name, value in text.items():
        config.setdefault(name, value)
    vision = config["vision_config"]
    for name in ("model_type", "rope_theta", "rope_scaling"):
        vision.pop(name, None)
    vision["in_chans"] = vision.pop("in_channels")
    vision["spatial_patch_size"] = vision["patch_size"]


LAYOUT = Layout(
    ("qwen2_vl", "qwen2_5_vl"), config=flat, source="config.json of Qwen/Qwen2-VL-2B-Instruct and Qwen/Qwen2.5-VL-3B-Instruct"
)
