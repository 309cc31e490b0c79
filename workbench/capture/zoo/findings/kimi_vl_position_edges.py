"""mlx-vlm 0.7.10 leaves out what lies beyond the edge when it stretches Kimi-VL's vision positions over an image.

``bicubic_interpolate`` drops the taps outside the table and scales the others up; torch's bicubic, which the model was trained with, repeats
the edge there. The patches near an image's border have other positions in every image that is not 64 x 64 patches.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding
from workbench.capture.zoo.findings.glm4v_bilinear_positions import sampled


def edge_repeated(model):
    from mlx import core
    from mlx_vlm.models.kimi_vl import vision

    def stretch(table, size):
        """``table`` (1, channels, rows, columns) to ``size``."""
        rows, columns = ((core.arange(each) + 0.5) / each * 2 - 1 for each in size)
        places = core.stack(core.meshgrid(columns, rows), axis=-1).reshape(1, -1, 1, 2)
        return sampled(table.transpose(0, 2, 3, 1), places).reshape(1, *size, -1).transpose(0, 3, 1, 2)

    return patch.object(vision, "bicubic_interpolate", stretch)


FINDING = Finding(
    "kimi-vl-position-edges",
    ("kimi_vl",),
    "port",
    "vision positions are interpolated without what lies beyond the edge; the patch repeats the edge",
    "mlx_vlm/models/kernels.py: bicubic_interpolate, called by kimi_vl/vision.py: Learnable2DInterpPosEmb",
    edge_repeated,
)
