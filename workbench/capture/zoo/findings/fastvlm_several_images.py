"""mlx-vlm 0.7.10 cuts the text between several images of a FastVLM prompt in the wrong places.

``fastvlm.py``, ``Model.prepare_inputs_for_multimodal`` takes the image tokens out of the text and then cuts it where they were, as if they
were still there: at the second image the cut is a token too late, at the third two. Words change sides, silently. One image is right, and
what Apple's own prompts have; mlx-vlm's prompts take several. The patch counts the tokens that were taken out.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def counted(model):
    import mlx.core

    kind, split = type(model), mlx.core.split
    original = kind.prepare_inputs_for_multimodal

    def cut(array, places, *others, **more):
        return split(array, [place - taken for taken, place in enumerate(places)], *others, **more)

    def prepare(self, *given, **named):
        with patch.object(mlx.core, "split", cut):
            return original(self, *given, **named)

    with patch.object(kind, "prepare_inputs_for_multimodal", prepare):
        yield


FINDING = Finding(
    "fastvlm-several-images",
    ("fastvlm",),
    "port",
    "text between several images is cut without counting the image tokens that were taken out; the patch counts them",
    "mlx_vlm/models/fastvlm/fastvlm.py: Model.prepare_inputs_for_multimodal",
    counted,
)
