"""mlx-vlm 0.7.10 computes InternViT's activation by the tanh approximation; the models were trained with, and name, the exact GELU.

Shared by both of the port's InternVL packages. Logits move by some 1e-4 of the largest: no error message, now and then another token.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def exact(model):
    from mlx import nn
    from mlx_vlm.models.internvl_chat import vision

    return patch.object(vision.MLP, "__call__", lambda self, x: self.fc2(nn.gelu(self.fc1(x))))


FINDING = Finding(
    "internvl-vision-gelu",
    ("internvl", "internvl_chat", "internvl_chat_qwen3"),
    "port",
    "the tower's GELU is the tanh approximation, whatever hidden_act says; the patch computes the exact one",
    "mlx_vlm/models/internvl_chat/vision.py: MLP",
    exact,
)
