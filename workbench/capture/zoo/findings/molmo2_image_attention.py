"""mlx-vlm 0.7.10 lets Molmo 2's image tokens see only what is before them; the model was trained with image tokens that all see each other.

transformers (as allenai's code) builds the mask of the prompt from ``mm_token_type_ids``: causal, or both tokens part of an image, its start,
end and column tokens included. The port has the causal mask alone, so every image token after the first few layers is another one.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def both_ways(model):
    from mlx import core
    from mlx_vlm.models.molmo2.language import LanguageModel

    plain = LanguageModel.__call__
    names = ("image_start_token_id", "low_res_image_start_token_id", "image_end_token_id", "image_patch_id", "image_col_id")
    special = [getattr(model.config, name) for name in names]

    def with_mask(self, inputs, inputs_embeds=None, mask=None, cache=None, **others):
        place = core.arange(inputs.shape[1])
        image = sum((inputs[0] == token).astype(core.int32) for token in special) > 0
        mask = (place[:, None] >= place[None]) | (image[:, None] & image[None])
        return plain(self, inputs, inputs_embeds, mask, cache, **others)

    return patch.object(LanguageModel, "__call__", with_mask)


FINDING = Finding(
    "molmo2-image-attention",
    ("molmo2",),
    "port",
    "image tokens attend causally; the patch lets all image tokens of the prompt attend to each other",
    "mlx_vlm/models/molmo2/language.py: Molmo2Transformer.__call__",
    both_ways,
)
