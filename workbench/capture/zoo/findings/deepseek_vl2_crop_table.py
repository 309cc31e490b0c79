"""mlx-vlm 0.7.10 reads beyond the end of DeepSeek-VL2's table of crops, and what it finds there decides whether the image is seen.

``get_input_embeddings`` runs over as many rows of ``images_spatial_crop`` as there are tiles, though the table has one row an image, and stops
at a row of zeros. MLX checks no bounds: mostly the memory behind the table is zero, and now and then it is not, the number of tiles comes
out wrong or negative, and the model answers without an image. In some 3 of 100 processes here one input or another was so treated.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def ended(model):
    from mlx import core

    kind = type(model)
    whole = kind.get_input_embeddings

    def with_end(self, input_ids=None, pixel_values=None, images_spatial_crop=None, *rest, **others):
        if pixel_values is not None:
            missing = max(0, pixel_values.shape[1] - images_spatial_crop.shape[1])
            images_spatial_crop = core.pad(images_spatial_crop, [(0, 0), (0, missing), (0, 0)])
        return whole(self, input_ids, pixel_values, images_spatial_crop, *rest, **others)

    return patch.object(kind, "get_input_embeddings", with_end)


FINDING = Finding(
    "deepseek-vl2-crop-table",
    ("deepseek_vl_v2",),
    "port",
    "the table of crops is read beyond its end; the patch puts rows of zeros there",
    "mlx_vlm/models/deepseek_vl_v2/deepseek_vl_v2.py: Model.get_input_embeddings",
    ended,
)
