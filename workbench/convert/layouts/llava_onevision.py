"""LLaVA-OneVision: the SigLIP tower's ``vision_model`` comes back. Source: config.json and weight names of
llava-hf/llava-onevision-qwen2-0.5b-ov-hf."""

from workbench.convert.layout import Layout

LAYOUT = Layout(("llava_onevision",), renames=((r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),))
