"""mlx-vlm 0.7.10 takes Molmo 2's image features from layers 22 and 16 of the vision tower, where the model was trained on 24 and 18.

The released config.json declares 27 layers and ``vit_layers: [-3, -9]``; the weights have the 25 that are needed. The port sets the number of
layers to 25 first and counts -3 and -9 from there. Every answer about an image comes from features two layers too early.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding

LEFT_OUT = 27 - 25


def counted_from_all(model):
    tower = model.vision_tower
    return patch.object(tower, "vit_layers", [layer + LEFT_OUT for layer in tower.vit_layers])


FINDING = Finding(
    "molmo2-feature-layers",
    ("molmo2",),
    "port",
    "feature layers are counted from the end of 25 layers; the patch counts from the end of the 27 that config.json declares",
    "mlx_vlm/models/molmo2/config.py: VitConfig.from_dict; vision.py: VisionModel.__init__",
    counted_from_all,
    layouts=("hub",),
)
