"""Qwen2-VL: a vision tower of packed patches with axial rotary positions, a merger of 2 x 2 patches, and Qwen2 with M-RoPE.

The cases take its own path: images of any shape beside each other in one row of patches, positions of time, height and width; videos are a
row of their own. ``vision_case`` and ``media`` serve the other families of packed patches too.
"""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE, VIDEO, START, END = 5, 6, 7, 8
WIDE, TALL = (1, 4, 6), (1, 8, 2)
CLIP, LONG = (2, 4, 2), (4, 2, 4)
"""Grids of (frames, rows, columns) of patches, before the merger."""


def config():
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        vision_config={"depth": 3, "embed_dim": 48, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14},
        text_config={
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        tie_word_embeddings=True,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )


def media(grid, token=IMAGE):
    """The tokens of one image or video: start, one for every 2 x 2 patches, end."""
    frames, rows, columns = grid
    return [START, *[token] * (frames * rows * columns // 4), END]


def vision_case(random, name, parts, images=(), videos=(), values=3 * 2 * 14 * 14, seconds=()):
    """A case of packed patches: ``values`` numbers a patch, grids, ``seconds`` a grid's frame lasts, and (for transformers alone) the kind
    of every token."""
    import numpy

    arrays = text_arrays(prompt(random, parts, 20, 1000))
    for grids, pixel_name, grid_name in (
        (images, "pixel_values", "image_grid_thw"),
        (videos, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids:
            arrays[pixel_name] = pixels(random, sum(frames * rows * columns for frames, rows, columns in grids), values)
            arrays[grid_name] = numpy.array(grids)
    if seconds:
        arrays["second_per_grid_ts"] = numpy.array(seconds, numpy.float32)
    kinds = (arrays["input_ids"] == IMAGE) + 2 * (arrays["input_ids"] == VIDEO)
    return Case(name, arrays, only_reference={"mm_token_type_ids": kinds.astype(numpy.int64)})


def cases(config, random):
    yield vision_case(random, "wide image first", [media(WIDE), 9], [WIDE])
    yield vision_case(random, "tall image last", [9, media(TALL), 1], [TALL])
    yield vision_case(random, "two images", [3, media(TALL), 4, media(WIDE), 6], [TALL, WIDE])
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


def videos(config, random):
    yield vision_case(random, "video", [4, media(CLIP, VIDEO), 6], videos=[CLIP])
    yield vision_case(random, "more frames than rows", [4, media(LONG, VIDEO), 6], videos=[LONG])
    yield vision_case(random, "image and video", [4, media(WIDE), 2, media(CLIP, VIDEO), 6], [WIDE], [CLIP])


FAMILIES = (
    Family("qwen2_vl", "Qwen2-VL: packed patches, 2 x 2 merger, Qwen2 with M-RoPE", config, cases),
    Family("qwen2_vl_video", "Qwen2-VL on videos", config, videos),
)
