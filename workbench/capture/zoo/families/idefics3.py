"""Idefics3: a SigLIP tower on square crops, pixel shuffle, and Llama 3.1 with its rotary scaling.

The processor cuts an image into rows and columns of squares and adds the whole one, all of one size; several images have their crops
after one another, and an image that is missing in a batch is all zeros.
"""

import numpy

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
TOKENS = 9
SIDE = 48


def config():
    from transformers import Idefics3Config, LlamaConfig
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    return Idefics3Config(
        vision_config=Idefics3VisionConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=8
        ),
        text_config=LlamaConfig(
            vocab_size=1000,
            hidden_size=48,
            intermediate_size=112,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            max_position_embeddings=131_072,
            pad_token_id=2,
        ),
        image_token_id=IMAGE,
        scale_factor=2,
    )


def cases(config, random):
    def case(name, parts, crops, missing=0):
        return Case(name, text_arrays(prompt(random, parts, 10, 1000)) | images(random, crops, missing))

    crop = [6, *([IMAGE] * TOKENS)]
    yield case("one square", [3, crop, 9], 1)
    yield case("wide: two columns and the whole", [crop * 2, 1, crop, 12], 3)
    yield case("tall: three rows and the whole, last", [8, crop, 1, crop, 1, crop, 2, crop, 1], 4)
    yield case("two images, one of them cut", [3, crop, 5, crop * 2, 1, crop, 7], 4)
    yield case("a missing image", [crop, 9], 1, missing=1)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def images(random, crops, missing):
    values = numpy.zeros((1, crops + missing, 3, SIDE, SIDE), numpy.float32)
    values[0, :crops] = pixels(random, crops, 3, SIDE, SIDE)
    mask = numpy.zeros((1, crops + missing, SIDE, SIDE), numpy.int64)
    mask[0, :crops] = 1
    return {"pixel_values": values, "pixel_attention_mask": mask}


FAMILY = Family("idefics3", "Idefics3: SigLIP on square crops, pixel shuffle, Llama 3.1", config, cases)
