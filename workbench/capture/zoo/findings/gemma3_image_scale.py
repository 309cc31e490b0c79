"""mlx-vlm 0.7.10 scales Gemma 3's image features by a size that published configurations do not have.

The language model multiplies all its inputs by the root of its own hidden size. ``gemma3.py``, ``Model.get_input_embeddings`` divides the
image features beforehand by the root of the outermost ``hidden_size``; Gemma 3 has none there, so it is the class's default, 2048.
Against the words the images are 1.12 (4B, 2560), 1.37 (12B, 3840) or 1.62 times (27B, 5376) too loud; answers stay plausible, but
differ. The patch divides by the language model's size. (A tiny model shows it much larger than a published one.)
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding

FINDING = Finding(
    "gemma3-image-scale",
    ("gemma3",),
    "port",
    "image features are divided by the root of 2048, a default; the patch divides by that of the language model's hidden size",
    "mlx_vlm/models/gemma3/gemma3.py: Model.get_input_embeddings, ModelConfig.hidden_size",
    lambda model: patch.object(model.config, "hidden_size", model.config.text_config.hidden_size),
)
