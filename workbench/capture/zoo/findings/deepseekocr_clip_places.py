"""mlx-vlm 0.7.10 shrinks the place embeddings of DeepSeek-OCR's CLIP tower without antialiasing; the published code shrinks with it.

Views of 640 px have 10 by 10 places, the table 16 by 16. The port's SAM next to it does it right.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def antialiased(model):
    from mlx_vlm.models.deepseekocr import vision
    from mlx_vlm.models.kernels import bicubic_interpolate

    return patch.object(vision, "interpolate", lambda grid, size: bicubic_interpolate(grid, size=size, antialias=True))


FINDING = Finding(
    "deepseekocr-clip-places",
    ("deepseekocr",),
    "port",
    "place embeddings of CLIP are shrunk without antialiasing; the patch shrinks them with it, as the published code does",
    "mlx_vlm/models/deepseekocr/vision.py: VisionEmbeddings._get_abs_pos",
    antialiased,
)
