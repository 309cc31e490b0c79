"""mlx-vlm 0.7.10 rounds the root of Gemma 3's hidden size to bfloat16 even where the model computes in float32.

``language.py``, ``Gemma3Model.__call__``. transformers rounds it to the precision of the weights. In bfloat16, which checkpoints are
published in, both are the same; in float32 (or float16) the inputs are up to 0.25 % off: 62 for 61.97 in the 12B model, 50.5 for 50.6
in the 4B, 73.5 for 73.32 in the 27B. The patch multiplies by the root itself.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def unrounded(model):
    from mlx import core

    kind, root = type(model.language_model.model), model.config.text_config.hidden_size**0.5
    rounded = core.array(root, core.bfloat16).astype(core.float32).item()
    original = kind.__call__

    def scale(self, inputs, inputs_embeds=None, mask=None, cache=None):
        embedded = self.embed_tokens(inputs) if inputs_embeds is None else inputs_embeds
        return original(self, inputs, inputs_embeds=embedded * (root / rounded), mask=mask, cache=cache)

    with patch.object(kind, "__call__", scale):
        yield


FINDING = Finding(
    "gemma3-rounded-scale",
    ("gemma3",),
    "port",
    "the root of the hidden size is rounded to bfloat16 in any precision (float32 and float16 differ); the patch does not round",
    "mlx_vlm/models/gemma3/language.py: Gemma3Model.__call__",
    unrounded,
)
