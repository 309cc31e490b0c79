"""LLaVA 1.5: the CLIP tower's ``vision_model`` comes back. Source: config.json and weight names of llava-hf/llava-1.5-7b-hf.

Pixtral's folders say ``llava`` too; its tower has had no such part in any layout.
"""

from workbench.convert.layout import Layout

LAYOUT = Layout(
    ("llava",),
    renames=((r"^vision_tower\.(?!vision_model\.|patch_conv\.|ln_pre\.|transformer\.)", "vision_tower.vision_model."),),
)
