"""Idefics2: a SigLIP tower at any aspect ratio, a gated projection with a perceiver resampler, and Mistral.

Its processor keeps the aspect ratio and pads several images to the largest, with a mask of pixels; with splitting, as in the published
settings, a single image is five: its quarters and the whole. The cases are one image that is wide, tall or no whole number of patches,
one that is split, and two of different sizes of which the smaller is padded.
"""

import numpy

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
LATENTS = 4


def config():
    from transformers import Idefics2Config, MistralConfig
    from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig

    return Idefics2Config(
        vision_config=Idefics2VisionConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=8
        ),
        perceiver_config=Idefics2PerceiverConfig(
            hidden_size=48,
            rms_norm_eps=1e-5,
            resampler_n_latents=LATENTS,
            resampler_depth=2,
            resampler_n_heads=4,
            resampler_head_dim=24,
            num_key_value_heads=2,
        ),
        text_config=MistralConfig(
            vocab_size=1000,
            hidden_size=48,
            intermediate_size=112,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            sliding_window=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            pad_token_id=0,
        ),
        image_token_id=IMAGE,
    )


def cases(config, random):
    def case(name, parts, *sizes):
        return Case(name, text_arrays(prompt(random, parts, 10, 1000)) | images(random, *sizes))

    image = [IMAGE] * LATENTS
    yield case("square", [3, image, 9], (56, 56))
    yield case("wide", [image, 12], (32, 56))
    yield case("tall, image last", [12, image, 1], (56, 40))
    yield case("no whole number of patches", [5, image, 7], (45, 56))
    yield case("quarters and the whole", [4, image * 5, 5], *[(24, 32)] * 4, (48, 56))
    yield case("two of one size", [4, image, 6, image, 5], (40, 56), (40, 56))
    yield case("two sizes", [4, image, 6, image, 5], (56, 32), (43, 56))
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def images(random, *sizes):
    """As the processor makes them: padded with zeros below and to the right, and a mask of the pixels that are real."""
    height, width = (max(each) for each in zip(*sizes, strict=True))
    values = numpy.zeros((1, len(sizes), 3, height, width), numpy.float32)
    mask = numpy.zeros((1, len(sizes), height, width), numpy.int64)
    for place, (high, wide) in enumerate(sizes):
        values[0, place, :, :high, :wide] = pixels(random, 3, high, wide)
        mask[0, place, :high, :wide] = 1
    return {"pixel_values": values, "pixel_attention_mask": mask}


FAMILY = Family("idefics2", "Idefics2: SigLIP at any aspect ratio, a perceiver resampler, Mistral", config, cases)
