"""mlx-vlm 0.7.10 adds 1e-6 in the vision blocks' norms of GLM-4.1V and GLM-4.5V, where their config.json says 1e-5.

Small: some millionths of each norm's output, more where activations are small. It is what remains when the larger faults are patched.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def of_the_config(model):
    with ExitStack() as stack:
        for block in model.vision_tower.blocks:
            for norm in (block.norm1, block.norm2):
                stack.enter_context(patch.object(norm, "eps", model.config.vision_config.rms_norm_eps))
        yield


FINDING = Finding(
    "glm4v-norm-epsilon",
    ("glm4v", "glm4v_moe", "glm4v_video", "glm4v_moe_video"),
    "port",
    "the vision blocks' norms have 1e-6 built in; the patch gives them rms_norm_eps",
    "mlx_vlm/models/glm4v/vision.py and glm4v_moe/vision.py: Glm4vVisionBlock.__init__",
    of_the_config,
)
