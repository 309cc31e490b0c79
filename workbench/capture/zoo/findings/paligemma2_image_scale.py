"""mlx-vlm 0.7.10 scales PaliGemma 2's image features by the wrong size, so the images are 1.06 to 1.5 times too loud against the words.

The language model multiplies all its inputs by the root of its own hidden size. ``paligemma.py``,
``Model._prepare_inputs_for_multimodal`` divides the image features beforehand by the root of the configuration's outermost
``hidden_size``, which is 2048 in every PaliGemma; Gemma 2 has 2304, 3584 or 4608. PaliGemma 1 (2048) is right. Answers stay
plausible, but differ. The patch divides by the language model's size.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding

FINDING = Finding(
    "paligemma2-image-scale",
    ("paligemma2",),
    "port",
    "image features are divided by the root of the outer hidden_size, not of the language model's; with that, parity returns",
    "mlx_vlm/models/paligemma/paligemma.py: Model._prepare_inputs_for_multimodal",
    lambda model: patch.object(model.config, "hidden_size", model.config.text_config.hidden_size),
)
