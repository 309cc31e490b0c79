"""mlx-vlm 0.7.10 lets Idefics2 attend to the padding of images.

Images of one prompt are padded to the largest, with a mask. ``idefics2.py``, ``Model.get_input_embeddings`` counts a patch as real if any
pixel is (transformers did so until 4.45; since then: if all are), ``vision.py``, ``VisionModel.__call__`` gives the mask to the embeddings
but not to the encoder, and the perceiver never gets one. Images of different shapes in one prompt meet it, and a single image smaller than
1960 pixels, whose quarters are smaller than the whole. Images of one size are right. The patch rounds the mask down to whole patches and
hides the rest from the tower's and the perceiver's attention.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def padding_hidden(model):
    import mlx.core
    import numpy
    from mlx.core import array, concatenate, ones

    side, hidden = model.config.vision_config.patch_size, {}
    embed, attend = type(model).get_input_embeddings, mlx.core.fast.scaled_dot_product_attention

    def embedded(self, input_ids=None, pixel_values=None, **others):
        mask = others.get("pixel_attention_mask")
        if mask is not None:
            pixels = numpy.array(mask).astype(bool)
            high, wide = (each // side for each in pixels.shape[-2:])
            grid = pixels[..., : high * side, : wide * side].reshape(-1, high, side, wide, side).all(axis=(2, 4))
            hidden["real"] = array(grid.reshape(len(grid), -1))
            whole = numpy.zeros((len(grid), *pixels.shape[-2:]), bool)
            whole[:, : high * side, : wide * side] = grid.repeat(side, axis=1).repeat(side, axis=2)
            others["pixel_attention_mask"] = array(whole.reshape(pixels.shape))
        return embed(self, input_ids, pixel_values, **others)

    def attended(queries, keys, values, *, scale, mask=None, **others):
        real = hidden.get("real")
        if mask is None and real is not None and keys.shape[0] == real.shape[0] and keys.shape[2] >= real.shape[1]:
            latents = ones((real.shape[0], keys.shape[2] - real.shape[1]), dtype=real.dtype)
            mask = concatenate([real, latents], axis=1)[:, None, None]
        return attend(queries, keys, values, scale=scale, mask=mask, **others)

    with ExitStack() as stack:
        stack.enter_context(patch.object(type(model), "get_input_embeddings", embedded))
        stack.enter_context(patch.object(mlx.core.fast, "scaled_dot_product_attention", attended))
        yield


FINDING = Finding(
    "idefics2-padding",
    ("idefics2",),
    "port",
    "the vision tower and the perceiver attend to the padding of images that are smaller than the largest; the patch hides it",
    "mlx_vlm/models/idefics2/vision.py: VisionModel.__call__; idefics2.py: Idefics2PerceiverAttention.__call__, Model.get_input_embeddings",
    padding_hidden,
)
