"""mlx-vlm 0.7.10 lets the patches of all images from the third on see each other in GLM-4.1V's vision tower.

The attention is cut at the first and the second boundary alone, however many images (or frames of a video) there are. With four images or
more the third and all later ones are mixed; three are right.
"""

from itertools import pairwise
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def each_alone(model):
    from mlx import core
    from mlx_vlm.models.glm4v.vision import Glm4vVisionAttention

    together = Glm4vVisionAttention.__call__

    def attend(self, x, cu_seqlens, rotary_pos_emb=None):
        parts = pairwise(cu_seqlens.tolist())
        return core.concatenate(
            [together(self, x[begin:end], core.array([0, end - begin]), rotary_pos_emb[begin:end]) for begin, end in parts]
        )

    return patch.object(Glm4vVisionAttention, "__call__", attend)


FINDING = Finding(
    "glm4v-third-image",
    ("glm4v",),
    "port",
    "vision attention is cut at two boundaries alone; the patch attends within each image",
    "mlx_vlm/models/glm4v/vision.py: Glm4vVisionAttention.__call__",
    each_alone,
)
