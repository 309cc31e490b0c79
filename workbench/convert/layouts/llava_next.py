"""LLaVA-NeXT: the CLIP tower's ``vision_model`` comes back. Source: config.json and weight names of llava-hf/llava-v1.6-mistral-7b-hf."""

from workbench.convert.layout import Layout

LAYOUT = Layout(("llava_next",), renames=((r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),))
