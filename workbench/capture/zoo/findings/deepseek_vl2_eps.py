"""mlx-vlm 0.7.10 leaves two of DeepSeek-VL2's norms at MLX's default epsilon of 1e-5; the published code has 1e-6 in both.

The norm of the latent keys and values (and of latent queries), and the last norm of the vision tower. Small: some 5e-6 of the values where
these have unit size, and more as they get smaller, which is for a real checkpoint to say.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def published_epsilon(model):
    norms = [model.vision.vision_tower.norm]
    for layer in model.layers:
        norms += [getattr(layer.self_attn, name) for name in ("q_a_layernorm", "kv_a_layernorm") if name in layer.self_attn]
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(patch.object(norm, "eps", 1e-6))
        yield


FINDING = Finding(
    "deepseek-vl2-eps",
    ("deepseek_vl_v2",),
    "port",
    "the latent norms and the tower's last norm have epsilon 1e-5; the patch gives them the published 1e-6",
    "mlx_vlm/models/deepseek_vl_v2/language.py: DeepseekV2Attention.__init__; vision.py: SigLipVisionModel.__init__",
    published_epsilon,
)
