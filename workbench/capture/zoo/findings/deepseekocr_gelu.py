"""mlx-vlm 0.7.10 runs DeepSeek-OCR's CLIP tower with the exact GELU where the model was trained with x * sigmoid(1.702 x).

Published code: ``quick_gelu`` in every feed-forward layer (deepencoder/clip_sdpa.py). The two differ by up to 0.02 a neuron in 24 layers, on every
image.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def quick_gelu(model):
    from mlx import nn

    with ExitStack() as stack:
        for layer in model.vision_model.transformer.layers:
            stack.enter_context(patch.object(layer.mlp, "activation_fn", nn.GELU(approx="fast")))
        yield


FINDING = Finding(
    "deepseekocr-gelu",
    ("deepseekocr",),
    "port",
    "the CLIP tower uses the exact GELU; the patch uses the sigmoid approximation of the published code",
    "mlx_vlm/models/deepseekocr/vision.py: MLP.__init__",
    quick_gelu,
)
