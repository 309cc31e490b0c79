"""mlx-vlm 0.7.10 cannot take several images of one message in LLaVA-OneVision as transformers' processor prepares them: whole, one tile each.

``get_image_features`` counts tiles by each image's size and never looks at ``batch_num_images``, so it reads one tile as many and stops with a
shape error. mlx-vlm's own processor cuts such images into tiles instead, which is not how the model was trained for several images.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def whole(model):
    from mlx import core

    kind = type(model)
    features = kind.get_image_features

    def each(self, pixels, sizes):
        if pixels.ndim != 5 or pixels.shape[1] != 1:  # a tiled image has two tiles at least
            return features(self, pixels, sizes)
        return core.concatenate([features(self, image, sizes[place : place + 1]) for place, image in enumerate(pixels)])

    return patch.object(kind, "get_image_features", each)


FINDING = Finding(
    "llava-onevision-whole-images",
    ("llava_onevision",),
    "port",
    "several images of one message come whole, and the port counts tiles for them; the patch takes them as one tile each",
    "mlx_vlm/models/llava_onevision/llava_onevision.py: Model.get_image_features",
    whole,
)
