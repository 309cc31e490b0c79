"""mlx-vlm 0.7.10 does not lay out the tiles of LLaVA-NeXT: it replaces single image tokens by whole tiles.

The processor, transformers' as mlx-vlm's own, writes one token for every feature (the whole image, then the joined and unpadded rows of all tiles, a newline after each).
``_merge_input_ids_with_image_features`` puts a whole tile, then blocks made of the newline vector alone, in the place of the first few
of those tokens and drops the others. The model sees tiles without their arrangement, padding and all, then hundreds of newlines;
generation runs without a word, at other positions and on other features than in transformers.
"""

from types import SimpleNamespace
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def laid_out(model):
    from mlx import core
    from mlx_vlm.models.base import InputEmbeddingsFeatures
    from mlx_vlm.models.llava_next import llava_next
    from mlx_vlm.models.llava_onevision import llava_onevision

    from workbench.capture.zoo.families.llava_next import GRIDS  # the port's configuration does not keep them

    def embed(self, input_ids, pixel_values=None, image_sizes=None, **kwargs):
        embedded = self.language_model.model.embed_tokens(input_ids)
        if pixel_values is None:
            return InputEmbeddingsFeatures(inputs_embeds=embedded)
        side = self.config.vision_config.image_size
        sizes = image_sizes.tolist()
        counts = [llava_onevision.image_size_to_num_patches(size, GRIDS, side) for size in sizes]
        tiles = core.concatenate([image[:count] for image, count in zip(pixel_values, counts, strict=True)])
        *_, states = self.vision_tower(tiles.transpose(0, 2, 3, 1), output_hidden_states=True)
        features = self.multi_modal_projector(states[self.vision_feature_layer][:, 1:])
        ends = core.cumsum(core.array(counts)).tolist()
        packing = SimpleNamespace(  # the same packing as LLaVA-OneVision's, which the port has, without its shrinking
            config=SimpleNamespace(image_grid_pinpoints=GRIDS, vision_config=self.config.vision_config),
            patches_per_side=side // self.config.vision_config.patch_size,
            max_num_patches=10**6,
            image_newline=self.image_newline,
        )
        packed = core.concatenate(llava_onevision.Model.pack_image_features(packing, core.split(features, ends[:-1]), sizes))
        shown = input_ids == self.config.image_token_index
        places = core.maximum(core.cumsum(shown[0].astype(core.int32)) - 1, 0)
        return InputEmbeddingsFeatures(inputs_embeds=core.where(shown[..., None], packed[places], embedded))

    return patch.object(llava_next.Model, "get_input_embeddings", embed)


FINDING = Finding(
    "llava-next-tiles",
    ("llava_next",),
    "port",
    "whole tiles are put in the place of single image tokens, unarranged; the patch lays them out as published",
    "mlx_vlm/models/llava_next/llava_next.py: Model.get_input_embeddings",
    laid_out,
)
