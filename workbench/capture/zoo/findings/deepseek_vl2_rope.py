"""mlx-vlm 0.7.10 rotates DeepSeek-VL2's queries and keys by halves, where DeepSeek-V2's latent attention has pairs of neighbours.

``rope_traditional`` is no key of published configs and its default is False; with rotary scaling the port's own rotation has it right, but
DeepSeek-VL2's configs ask for no scaling. Every layer of the small and base models attends by wrong relative positions: the longer the
prompt, the more its words lose their order. (The tiny model has plain attention, which is by halves.)
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def in_pairs(model):
    with ExitStack() as stack:
        for layer in model.layers:
            stack.enter_context(patch.object(layer.self_attn.rope, "traditional", True))
        yield


FINDING = Finding(
    "deepseek-vl2-rope",
    ("deepseek_vl_v2",),
    "port",
    "latent attention is rotated by halves; the patch rotates pairs of neighbours",
    "mlx_vlm/models/deepseek_vl_v2/language.py: DeepseekV2Attention.__init__",
    in_pairs,
)
