"""mlx-vlm 0.7.10 runs Command A Vision as Aya Vision, which takes the tower's last layer before the closing norm; Command A Vision takes it after.

The package skips the projector's norm for ``cohere2_vision`` but not this: image features come out wrong by more than their own size, on
every image, without a word. (``logit_scale``, the other difference, is transformers'.)
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def normed(model):
    from mlx_vlm.models.aya_vision import vision

    whole = vision.SigLipVisionModel.__call__

    def run(self, *arguments, **keywords):
        last, first, states = whole(self, *arguments, **keywords)
        return last, first, (*states[:-1], last)

    return patch.object(vision.SigLipVisionModel, "__call__", run)


FINDING = Finding(
    "cohere2-vision-post-norm",
    ("cohere2_vision",),
    "port",
    "the image features are taken before the tower's closing norm; the patch takes them after it",
    "mlx_vlm/models/aya_vision/aya_vision.py: Model.get_input_embeddings",
    normed,
)
