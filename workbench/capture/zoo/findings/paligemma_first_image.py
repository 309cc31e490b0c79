"""mlx-vlm 0.7.10 passes only the first of several images on to PaliGemma's language model; the others are zeros.

``vision.py``, ``Encoder.__call__`` keeps ``x[0]`` of a batch of images, and the model pads what is missing up to the prompt's length with
zeros. A user of a checkpoint that takes two images (google/paligemma-3b-ft-nlvr2-448) gets an answer about the first alone, and no
error. The patch lets the features of every image follow each other.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def every_image(model):
    def encode(self, x, output_hidden_states=None, mask=None):
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x.reshape(-1, x.shape[-1]), None

    with patch.object(type(model.vision_tower.vision_model.encoder), "__call__", encode):
        yield


FINDING = Finding(
    "paligemma-first-image",
    ("paligemma", "paligemma2"),
    "port",
    "of several images only the first reaches the language model; with the features of all, in turn, parity returns",
    "mlx_vlm/models/paligemma/vision.py: Encoder.__call__",
    every_image,
)
