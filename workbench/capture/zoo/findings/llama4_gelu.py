"""mlx-vlm 0.7.10 runs Llama 4's vision tower and adapter with the sigmoid approximation of GELU, where the model has the exact one.

``vision.py``, ``Llama4VisionMLP`` takes ``nn.GELU(approx="fast")``, which is x sigmoid(1.702 x); the configuration says ``gelu`` and
transformers computes it with erf. Every image's features are 1 to 2 % off. The patch computes the exact GELU.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def exact(model):
    from mlx import nn

    blocks = [*(layer.mlp for layer in model.vision_model.model.layers), model.vision_model.vision_adapter.mlp]
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(patch.object(block, "activation_fn", nn.gelu))
        yield


FINDING = Finding(
    "llama4-gelu",
    ("llama4", "llama4_maverick"),
    "port",
    "the vision tower's and the adapter's activation is x sigmoid(1.702 x), not GELU",
    "mlx_vlm/models/llama4/vision.py: Llama4VisionMLP.__init__",
    exact,
)
