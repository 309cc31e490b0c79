"""mlx-vlm 0.7.10 adds 1e-6 in the norms of Kimi-VL's vision tower, where MoonViT has torch's default, 1e-5.

Small: some millionths of each norm's output, more where activations are small.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def of_torch(model):
    tower = model.vision_tower
    norms = [tower.final_layernorm, *(norm for block in tower.blocks for norm in (block.norm0, block.norm1))]
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(patch.object(norm, "eps", 1e-5))
        yield


FINDING = Finding(
    "kimi-vl-norm-epsilon",
    ("kimi_vl",),
    "port",
    "the vision tower's norms have 1e-6; the patch gives them 1e-5",
    "mlx_vlm/models/kimi_vl/vision.py: Qwen2VLVisionBlock and VisionModel",
    of_torch,
)
