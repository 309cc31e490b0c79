"""mlx-vlm 0.7.10 lets the tokens of an image in Gemma 3 see only what is before them; they were trained to see each other.

``gemma3.py`` returns an ``attention_mask_4d`` that nothing reads (``generate_step`` hands it to ``LanguageModel.__call__`` in
``language.py``, whose keyword is ``mask``), and it holds no images anyway. So every prompt is causal. A user sees somewhat worse reading of
images, and no error. The patch lets the tokens of one image see each other, in all layers.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def images_whole(model):
    from mlx import core

    kind, image = type(model.language_model.model), model.config.image_token_index
    original = kind.__call__

    def attend(self, inputs, inputs_embeds=None, mask=None, cache=None):
        here = inputs[0] == image
        if not here.any():
            return original(self, inputs, inputs_embeds=inputs_embeds, mask=mask, cache=cache)
        number = core.cumsum(here & ~core.concatenate([core.array([False]), here[:-1]]))
        same = (number[:, None] == number) & here[:, None] & here
        return original(
            self, inputs, inputs_embeds=inputs_embeds, mask=core.tril(core.ones(same.shape)).astype(core.bool_) | same, cache=cache
        )

    with patch.object(kind, "__call__", attend):
        yield


FINDING = Finding(
    "gemma3-image-attention",
    ("gemma3",),
    "port",
    "the tokens of one image see only what is before them; the patch lets them see each other",
    "mlx_vlm/models/gemma3/language.py: LanguageModel.__call__",
    images_whole,
)
