"""mlx-vlm 0.7.10 runs Idefics2's vision tower with the sigmoid approximation of GELU; its configuration says ``gelu_pytorch_tanh``.

``vision.py`` takes ``FastGELUMLP`` (``nn.GELU(approx="fast")``, which is x sigmoid(1.702 x)) whatever ``hidden_act`` is. The two
differ by up to 0.02 a neuron, on every image. The patch computes the tanh approximation.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def tanh(model):
    from mlx import nn

    def forward(self, x):
        return self.fc2(nn.gelu_approx(self.fc1(x)))

    with patch.object(type(model.vision_model.encoder.layers[0].mlp), "__call__", forward):
        yield


FINDING = Finding(
    "idefics2-gelu",
    ("idefics2",),
    "port",
    "the vision tower's activation is x sigmoid(1.702 x); the patch takes the tanh approximation of GELU",
    "mlx_vlm/models/idefics2/vision.py: EncoderLayer.mlp (FastGELUMLP)",
    tanh,
)
