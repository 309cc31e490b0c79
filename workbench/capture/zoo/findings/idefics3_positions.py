"""mlx-vlm 0.7.10 gives many patches of Idefics 3 and SmolVLM the position embedding of a neighbour.

``vision.py``, ``VisionEmbeddings.__call__`` sorts each patch's place in [0, 1) into buckets bounded by ``arange(1/n, 1, 1/n)``, in float32. On
a whole square places and bounds are the same numbers, and rounding decides which side a patch falls on: 12 of 26 rows and columns
(Idefics3-8B-Llama3) and 10 of 27 (SmolVLM2-2.2B) are one too low on the CPU. With a power of two (SmolVLM2-500M's 32) all are right. MLX's
Metal kernel rounds otherwise: its formula, redone in numpy, misplaces 12 of 26 and 4 of 27 (9 and 3 with fused multiply-add); not
measured there. In transformers 5.23 every patch has its own place. A user would see fine detail read worse, never an error. The patch
numbers the patches of a crop in order, which is what the positions of a whole square are; the processor makes no other crops.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def in_order(model):
    from mlx_vlm.models.idefics3 import vision

    whole = vision.VisionEmbeddings.__call__
    return patch.object(
        vision.VisionEmbeddings, "__call__", lambda self, pixels, patch_attention_mask=None: whole(self, pixels, None)
    )


FINDING = Finding(
    "idefics3-positions",
    ("idefics3", "smolvlm_2b"),
    "port",
    "on the CPU rounding gives patches their neighbours' positions (12 of 26, 10 of 27 rows and columns); the patch numbers them in order",
    "mlx_vlm/models/idefics3/vision.py: VisionEmbeddings.__call__",
    in_order,
)
