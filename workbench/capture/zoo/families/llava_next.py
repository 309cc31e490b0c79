"""LLaVA-NeXT (1.6): a CLIP tower, two linear layers, and Mistral. A large image is cut into tiles on a grid that fits its shape ("AnyRes"),
the tiles' features are joined, the padding is cut off, and every row ends with a learned vector; the whole image comes first.
The cases have wide, tall and square grids, and padding on either side; one image a prompt, since mlx-vlm's chat refuses more."""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
SIDE, PATCHES = 56, 4
GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
"""As published, for tiles of 56 pixels: (height, width)."""


def config():
    from transformers import CLIPVisionConfig, LlavaNextConfig, MistralConfig

    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=14
        ),
        text_config=MistralConfig(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 900000.0},
            sliding_window=None,
        ),
        image_grid_pinpoints=GRIDS,
        image_token_index=IMAGE,
        image_seq_length=PATCHES**2,
        tie_word_embeddings=False,
    )


def tiled(random, *sizes):
    """(arrays, the image's tokens for each) of images with these sizes (height, width), as transformers' processor makes them."""
    import numpy
    from transformers import LlavaNextProcessor
    from transformers.image_processing_utils import select_best_resolution

    grids = [[each // SIDE for each in select_best_resolution(size, GRIDS)] for size in sizes]
    most = max(rows * columns for rows, columns in grids) + 1
    values = pixels(random, len(sizes), most, 3, SIDE, SIDE)
    tokens = []
    for image, size, (rows, columns) in zip(values, sizes, grids, strict=True):
        image[rows * columns + 1 :] = 0
        rest = LlavaNextProcessor._get_unpadded_features(None, *size, PATCHES, PATCHES, rows, columns)
        tokens.append([IMAGE] * (PATCHES**2 + sum(rest)))
    return {"pixel_values": values, "image_sizes": numpy.array(sizes)}, tokens


def cases(config, random):
    for name, size, before, after in (
        ("wide, image first", (50, 100), 0, 9),
        ("tall, image last", (120, 45), 9, 1),
        ("square grid, padded above and below", (80, 110), 4, 6),
        ("square grid, padded left and right", (112, 61), 4, 6),
    ):
        arrays, (image,) = tiled(random, size)
        yield Case(name, text_arrays(prompt(random, [before, image, after], 10, 1000)) | arrays)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "llava_next",
    "LLaVA-NeXT: CLIP, two linear layers, Mistral; tiles",
    config,
    cases,
    note="one image a prompt; mlx-vlm's chat refuses more",
)
