"""mlx-vlm 0.7.10 gives the patches of Idefics2 wrong positions: mostly a row and a column too low, and the first ones negative.

``vision.py``, ``VisionEmbeddings.__call__`` subtracts 1 from ``numpy.digitize(..., right=True)``, which counts the boundaries below a
coordinate and so already is the position, and spaces n boundaries over [1/n, 1) where n - 1 belong. Negative positions wrap
around to the other end of the table. Every image is affected, silently: at the full 70 rows each is one or two too low. The patch computes the positions by whole numbers: patch i of
m real ones lies at ``i * n // m`` of n.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def right_positions(model):
    import numpy
    from mlx import core

    def embed(self, x, mask=None):
        patches = self.patch_embedding(x).flatten(1, 2)
        positions = numpy.zeros(patches.shape[:2], dtype=int)
        for place, real in enumerate(numpy.array(mask)):
            rows, columns = (numpy.arange(each) * self.num_patches // each for each in (real[:, 0].sum(), real[0].sum()))
            positions[place][real.reshape(-1)] = (rows[:, None] * self.num_patches + columns).reshape(-1)
        return patches + self.position_embedding(core.array(positions))

    with patch.object(type(model.vision_model.embeddings), "__call__", embed):
        yield


FINDING = Finding(
    "idefics2-positions",
    ("idefics2",),
    "port",
    "patches get positions a row or column too low, the first ones negative; the patch counts them by whole numbers",
    "mlx_vlm/models/idefics2/vision.py: VisionEmbeddings.__call__",
    right_positions,
)
