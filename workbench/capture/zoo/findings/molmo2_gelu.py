"""mlx-vlm 0.7.10 runs Molmo 2's vision tower with x * sigmoid(1.702 x) where its config asks for the tanh approximation of GELU.

``_gelu_from_name("gelu_pytorch_tanh")`` returns ``nn.GELU(approx="fast")``; MLX's name for the tanh form is "precise". The two differ by up
to 0.02 a neuron, in all 25 layers: image features, and so answers about images, shift a little.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def tanh_gelu(model):
    from mlx import nn

    with ExitStack() as stack:
        for block in model.vision_tower.image_vit.transformer:
            stack.enter_context(patch.object(block.feed_forward, "act", nn.GELU(approx="precise")))
        yield


FINDING = Finding(
    "molmo2-gelu",
    ("molmo2",),
    "port",
    "the vision tower uses the sigmoid approximation of GELU; the patch uses the tanh one that config.json names",
    "mlx_vlm/models/molmo2/vision.py: _gelu_from_name",
    tanh_gelu,
)
