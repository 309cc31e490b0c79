"""mlx-vlm 0.7.10 uses the exact GELU in Kimi-VL's vision tower, which was trained with the tanh approximation.

Some ten-thousandths of every block's output, in every image.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def tanh(model):
    from mlx import nn
    from mlx_vlm.models.kimi_vl.vision import MLP

    return patch.object(MLP, "__call__", lambda self, x: self.fc1(nn.gelu_approx(self.fc0(x))))


FINDING = Finding(
    "kimi-vl-gelu",
    ("kimi_vl",),
    "port",
    "the vision blocks use the exact GELU; the patch uses the tanh approximation",
    "mlx_vlm/models/kimi_vl/vision.py: MLP",
    tanh,
)
