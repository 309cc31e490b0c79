"""Molmo 2: a SigLIP-like tower on flattened patches, attention pooling over 2x2 patches of two layers, and a Qwen-3-like text model.

An image is a small overview and overlapping crops, which share one list of patches; the pooling indices say which patches make a token,
-1 where a window reaches over the edge (5 by 5 patches here, 27 by 27 in published ones). All image tokens attend to each other. The tower
has 25 layers because published configs name 27, count the two feature layers from the end, and ship 25. Cases: wide, tall, two images.
"""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

PATCH, COLUMN, START, SMALL_START, END = 1000, 1001, 1002, 1003, 1004
SIDE, MARGIN = 5, 1


def config():
    from transformers import Molmo2Config

    return Molmo2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 80,
            "num_hidden_layers": 25,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "image_size": [70, 70],
            "patch_size": 14,
        },
        adapter_config={
            "vision_feature_layer": [24, 18],
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "intermediate_size": 96,
            "text_hidden_size": 64,
        },
        text_config={
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "vocab_size": 1000,
            "additional_vocab_size": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        image_start_token_id=START,
        low_res_image_start_token_id=SMALL_START,
        image_end_token_id=END,
        image_patch_id=PATCH,
        frame_start_token_id=1006,
        frame_end_token_id=1007,
        architectures=["Molmo2ForConditionalGeneration"],
    )


def windows(grid):
    """2 by 2 windows of a grid of patch numbers, padded at the end with -1: (rows, columns, the windows of shape (n, 4))."""
    import numpy

    grid = numpy.pad(grid, [(0, side % 2) for side in grid.shape], constant_values=-1)
    rows, columns = (side // 2 for side in grid.shape)
    return rows, columns, grid.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(-1, 4)


def image(rows, columns):
    """One image of rows x columns crops: its tokens, its pooling windows, its grid, the number of its crops."""
    import numpy

    step = SIDE - 2 * MARGIN
    whole = numpy.empty((rows * step + 2 * MARGIN, columns * step + 2 * MARGIN), int)
    numbers = SIDE * SIDE + numpy.arange(SIDE * SIDE * rows * columns).reshape(rows, columns, SIDE, SIDE)
    for row, column in numpy.ndindex(rows, columns):
        top, left = (MARGIN if place else 0 for place in (row, column))  # where two crops overlap, each gives its own half
        whole[row * step + top :, column * step + left :][: SIDE - top, : SIDE - left] = numbers[row, column, top:, left:]
    small_rows, small_columns, small = windows(numpy.arange(SIDE * SIDE).reshape(SIDE, SIDE))
    large_rows, large_columns, large = windows(whole)
    tokens = [
        SMALL_START,
        *[PATCH] * (small_rows * small_columns),
        END,
        START,
        *([PATCH] * large_columns + [COLUMN]) * large_rows,
        END,
    ]
    return tokens, numpy.concatenate([small, large]), [small_rows, small_columns, large_rows, large_columns], 1 + rows * columns


def cases(config, random):
    import numpy

    for name, tilings, parts in (
        ("one wide image", [(1, 2)], [0, 12]),
        ("one tall image, between", [(3, 1)], [6, 9]),
        ("four crops, image last", [(2, 2)], [11, 1]),
        ("two images", [(1, 2), (2, 1)], [3, 4, 6]),
    ):
        images = [image(*each) for each in tilings]
        asked = [parts[0]]
        for (tokens, *_), words in zip(images, parts[1:], strict=True):
            asked += [tokens, words]
        ids = prompt(random, asked, 10, 1000)
        before = numpy.cumsum([0, *(crops * SIDE * SIDE for *_, crops in images)])
        pooling = [each[1] for each in images]
        shared = {
            "pixel_values": pixels(random, sum(crops for *_, crops in images), SIDE * SIDE, 14 * 14 * 3),
            "image_grids": numpy.array([grid for *_, grid, _ in images]),
            "image_num_crops": numpy.array([crops for *_, crops in images]),
        }
        yield Case(
            name,
            text_arrays(ids) | shared,
            only_reference={
                # transformers' processor counts patches through the prompt's images, mlx-vlm's within each image
                "image_token_pooling": numpy.concatenate(
                    [numpy.where(w >= 0, w + b, w) for w, b in zip(pooling, before, strict=False)]
                ),
                "mm_token_type_ids": (ids >= 1000).astype(numpy.int64),
            },
            only_port={"image_token_pooling": numpy.concatenate(pooling)},
        )
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "molmo2",
    "Molmo 2: SigLIP-like tower, attention pooling, Qwen-3-like text",
    config,
    cases,
    reference_names=((r"multi_modal_projector\.image_projector", "multi_modal_projector.output"),),
    port_names=(
        (r"image_vit\.transformer\.", "layers."),
        (r"vision_tower\.image_pooling_2d", "multi_modal_projector.image_pooling_2d"),
        (r"vision_tower\.image_projector", "multi_modal_projector.output"),
        (r"attention_norm", "layer_norm1"),
        (r"ffn_norm", "layer_norm2"),
        (r"attn_norm", "input_layernorm"),
        (r"ff_norm", "post_attention_layernorm"),
    ),
    note="no video; not the olmo variant (norms after)",
)
