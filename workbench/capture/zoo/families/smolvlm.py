"""SmolVLM and SmolVLM2: a SigLIP-like tower, pixel shuffle with one matrix, and Llama. The processor cuts a large image into tiles and adds the
whole image, all squares of one size.

Two rows, since the number of patches a side matters: a power of two (32 in the models of 256 and 500 million, 8 here), and 27
(384 / 14, SmolVLM and SmolVLM2 of 2.2 billion), where nine patches make one token.
"""

from functools import partial

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5


def config(image, patch, shuffle):
    from transformers import LlamaConfig, SmolVLMConfig
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    return SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=image, patch_size=patch
        ),
        text_config=LlamaConfig(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 130000.0},
            pad_token_id=2,
        ),
        scale_factor=shuffle,
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )


def cases(config, random):
    import numpy

    vision = config.vision_config
    size = vision.image_size
    tile = [IMAGE] * (size // vision.patch_size // config.scale_factor) ** 2
    wide = [6, *tile, 7, *tile, 8, *tile]  # two tiles side by side, then the whole image, each after its own marker
    for name, parts, n, missing in (
        ("one tile, image first", [tile, 12], 1, 0),
        ("two tiles and the whole, image between", [5, wide, 7], 3, 0),
        ("two images, the last at the end, and a padding tile", [3, tile, 4, tile, 2], 2, 1),
    ):
        values = pixels(random, 1, n + missing, 3, size, size)
        mask = numpy.ones((1, n + missing, size, size), numpy.int64)
        values[:, n:], mask[:, n:] = 0, 0
        yield Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"pixel_values": values, "pixel_attention_mask": mask})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILIES = (
    Family("smolvlm", "SmolVLM and SmolVLM2, 256M and 500M: SigLIP, pixel shuffle, Llama", partial(config, 64, 8, 4), cases, note="no video"),
    Family("smolvlm_2b", "SmolVLM and SmolVLM2, 2.2B: 27 patches a side", partial(config, 55, 2, 3), cases, note="no video"),
)
