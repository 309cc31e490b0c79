"""mlx-vlm 0.7.10 scrambles Phi-3.5-vision's crops wherever two or more lie side by side.

The features of all crops are reshaped to the canvas at once; without first moving the crop's column behind its rows, row r of the canvas
holds two rows of the same crop instead of one row of each. Images of one column of crops are right; any wide or larger one is shown to the
language model in strips: layout, tables and reading order go wrong.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def crops_in_place(model):
    """The features go into the port's reshape in the order in which it makes the right canvas of them."""
    from mlx import core
    from mlx_vlm.models.phi3_v.vision import ClipModel, VisionModel

    whole, tower = VisionModel.__call__, ClipModel.__call__
    grids = []

    def note_sizes(self, img_embeds, txt_embeds=None, img_sizes=None, *rest, **others):
        grids[:] = (img_sizes // 336).tolist()
        return whole(self, img_embeds, txt_embeds, img_sizes, *rest, **others)

    def reorder(self, *arguments, **others):
        pooled, last, states = tower(self, *arguments, **others)
        features = states[-2]
        each = features.shape[0] // len(grids)
        parts = [in_strips(features[place * each : (place + 1) * each], *grid) for place, grid in enumerate(grids)]
        return pooled, last, (*states[:-2], core.concatenate(parts), states[-1])

    with patch.object(VisionModel, "__call__", note_sizes), patch.object(ClipModel, "__call__", reorder):
        yield


def in_strips(features, rows, columns):
    """(overview and crops, 577, width): pairs of patch lines in the order of the whole canvas, cut to the shape of crops again."""
    from mlx import core

    crops = features[1 : 1 + rows * columns]
    pairs = crops[:, 1:].reshape(rows, columns, 12, 48, -1).transpose(0, 2, 1, 3, 4)
    crops = core.concatenate([crops[:, :1], pairs.reshape(rows * columns, 576, -1)], axis=1)
    return core.concatenate([features[:1], crops, features[1 + rows * columns :]])


FINDING = Finding(
    "phi3-v-crops",
    ("phi3_v",),
    "port",
    "crops side by side are not put side by side; the patch hands the port their patches in the order that its reshape needs",
    "mlx_vlm/models/phi3_v/vision.py: VisionModel.__call__",
    crops_in_place,
)
