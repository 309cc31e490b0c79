"""mlx-lm 0.32.2 has no sliding window for Gemma 2: every layer attends to everything, though layers 0, 2, 4 ... were trained with 4096 tokens.

Prompts beyond 4096 tokens (the model takes 8192) get other answers than with transformers; shorter ones are right.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def windowed(model):
    from mlx import core
    from mlx_lm.models import gemma2

    from workbench.capture.zoo.families.gemma2 import config  # the port's arguments do not keep the window

    window = config().sliding_window
    sliding = {id(layer.self_attn) for layer in model.layers[::2]}
    whole = gemma2.Attention.__call__

    def attend(self, x, mask=None, cache=None):
        if id(self) in sliding and mask is not None:
            place = core.arange(x.shape[1])
            near = place[:, None] - place[None] < window
            mask = core.logical_and(mask, near)
        return whole(self, x, mask, cache)

    return patch.object(gemma2.Attention, "__call__", attend)


FINDING = Finding(
    "gemma2-window",
    ("gemma2_window",),
    "port",
    "the sliding window of every second layer is ignored; the patch cuts their masks to it",
    "mlx_lm/models/gemma2.py: GemmaModel.__call__",
    windowed,
)
