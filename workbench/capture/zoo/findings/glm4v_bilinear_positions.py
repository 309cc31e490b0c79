"""mlx-vlm 0.7.10 stretches the vision positions of GLM-4.1V and GLM-4.5V over an image bilinearly, with nothing beyond the edge.

The model takes them bicubically, with the edge repeated. Every image that is not 336 x 336 is seen with other positions, most of all the
patches at the border of large images, whose positions shrink towards a half (at the corners a quarter). The Metal kernel has the same
formula as the one for the CPU, which is measured here.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def bicubic(model):
    from mlx_vlm.models.glm4v import vision as dense
    from mlx_vlm.models.glm4v_moe import vision as experts

    with ExitStack() as stack:
        for module in (dense, experts):
            stack.enter_context(patch.object(module, "grid_sample", sampled))
        yield


def sampled(table, places):
    """``table`` (1, rows, columns, channels) at ``places`` (1, n, 1, (x, y)) in [-1, 1], by cubic convolution with a = -0.75, as torch."""
    from mlx import core

    def taps(place, size):
        at = ((place + 1) * size - 1) / 2
        around = core.floor(at)[..., None] + core.arange(-1, 3)
        near = core.abs(at[..., None] - around)
        inner = 1.25 * near**3 - 2.25 * near**2 + 1
        outer = -0.75 * (near**3 - 5 * near**2 + 8 * near - 4)
        return core.clip(around, 0, size - 1).astype(core.int32), core.where(near <= 1, inner, outer)

    _, rows, columns, _ = table.shape
    down, down_weight = taps(places[..., 1], rows)
    across, across_weight = taps(places[..., 0], columns)
    values = table[0][down[..., :, None], across[..., None, :]]
    weights = down_weight[..., :, None] * across_weight[..., None, :]
    return (values * weights[..., None]).sum(axis=(-3, -2))


FINDING = Finding(
    "glm4v-bilinear-positions",
    ("glm4v", "glm4v_moe", "glm4v_video", "glm4v_moe_video"),
    "port",
    "vision positions are interpolated bilinearly with zeros outside; the patch does so bicubically with the edge repeated",
    "mlx_vlm/models/glm4v/vision.py and glm4v_moe/vision.py: Glm4vVisionEmbeddings.__call__; mlx_vlm/models/kernels.py: grid_sample",
    bicubic,
)
