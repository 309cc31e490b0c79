"""LFM2-VL: a SigLIP 2 tower for images of any shape, 2 x 2 patches to one token, two linear layers, and LFM2 (short convolutions and attention).

The cases give images of several shapes padded to one length, whose positions grow and shrink against the learned 4 x 4, and an image in
tiles side by side and stacked, each with its marker, and its thumbnail.
"""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE, START, END, TILE = 5, 6, 7, 8
WIDE, TALL, SMALL, SQUARE = (4, 6), (8, 2), (2, 4), (4, 4)
PATCH = 16
LENGTH = 26
"""Patches an image is padded to."""


def config():
    from transformers import Lfm2Config, Lfm2VlConfig, Siglip2VisionConfig

    return Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(
            hidden_size=48,
            intermediate_size=100,
            num_hidden_layers=3,
            num_attention_heads=4,
            patch_size=PATCH,
            num_patches=16,
            vision_use_head=False,
        ),
        text_config=Lfm2Config(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=300,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention", "conv"],
            eos_token_id=2,
        ),
        image_token_id=IMAGE,
        projector_hidden_size=80,
    )


def media(*shapes):
    """An image's tokens: one for every 2 x 2 patches; several shapes are its tiles, each after a marker, the last its thumbnail."""
    tokens = [[IMAGE] * (rows * columns // 4) for rows, columns in shapes]
    if len(tokens) > 1:
        tokens = [[TILE + place, *each] for place, each in enumerate(tokens)]
    return [START, *(token for each in tokens for token in each), END]


def image_case(random, name, parts, shapes):
    import numpy

    values = numpy.zeros((len(shapes), LENGTH, 3 * PATCH * PATCH), numpy.float32)
    mask = numpy.zeros((len(shapes), LENGTH), numpy.int64)
    for place, (rows, columns) in enumerate(shapes):
        values[place, : rows * columns] = pixels(random, rows * columns, 3 * PATCH * PATCH)
        mask[place, : rows * columns] = 1
    images = {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": numpy.array(shapes)}
    return Case(name, text_arrays(prompt(random, parts, 20, 1000)) | images)


def cases(config, random):
    yield image_case(random, "wide image first", [media(WIDE), 9], [WIDE])
    yield image_case(random, "tall image last", [9, media(TALL), 1], [TALL])
    yield image_case(random, "images of several shapes", [3, media(SMALL), 4, media(WIDE), media(TALL), 6], [SMALL, WIDE, TALL])
    yield image_case(random, "tiles side by side", [3, media(SQUARE, SQUARE, SMALL), 6], [SQUARE, SQUARE, SMALL])
    yield image_case(random, "tiles stacked", [3, media(SQUARE, SQUARE, TALL), 6], [SQUARE, SQUARE, TALL])
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


FAMILY = Family(
    "lfm2_vl",
    "LFM2-VL: SigLIP 2 at any shape, two linear layers, LFM2",
    config,
    cases,
    note="transformers 5 saves no block_dim and the port then takes 1024: of its folders only models of that width can load",
)
