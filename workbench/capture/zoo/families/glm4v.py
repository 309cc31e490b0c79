"""GLM-4.1V: a vision tower of packed patches with positions interpolated over the image, a convolution that merges 2 x 2 patches, and GLM-4
with M-RoPE over half of each head.

The cases give grids larger and smaller than the table of positions, up to four images, and (a row of its own) a video as its processor writes it: one block
of image tokens a frame, followed by its second. Heads are as wide as published: the port does not read the sections of M-RoPE from
folders of transformers 5, and has the published ones by default.
"""

from workbench.capture.zoo.families.qwen2_vl import IMAGE, media, vision_case
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays

VIDEO, START, END, VIDEO_START, VIDEO_END = 6, 7, 8, 9, 10
WIDE, TALL, SMALL = (1, 4, 8), (1, 8, 2), (1, 2, 4)
CLIP, FRAME = (2, 4, 2), (1, 4, 2)
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": VIDEO_START,
    "video_end_token_id": VIDEO_END,
    "vision_start_token_id": START,
}
"""The last one is the port's: it has the published image start, 151339, by default, which a small vocabulary cannot have."""


def config():
    from transformers import Glm4vConfig

    return Glm4vConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_heads": 4,
            "out_hidden_size": 256,
            "image_size": 84,
            "patch_size": 14,
            "rms_norm_eps": 1e-5,
        },
        text_config={
            "vocab_size": 1000,
            "hidden_size": 256,
            "intermediate_size": 300,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 3,
            "eos_token_id": [2],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 12, 12],
                "partial_rotary_factor": 0.5,
            },
        },
        **TOKENS,
    )


def cases(config, random):
    yield vision_case(random, "wide image first", [media(WIDE), 9], [WIDE])
    yield vision_case(random, "tall image last", [9, media(TALL), 1], [TALL])
    yield vision_case(random, "two images", [3, media(TALL), media(WIDE), 6], [TALL, WIDE])
    four = [SMALL, TALL, SMALL, WIDE]
    yield vision_case(random, "four images", [3, *(media(grid) for grid in four), 6], four)
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


def videos(config, random):
    """Video frames hold the image token; what tells them from images is the video's start and end."""
    frames = [VIDEO_START, *media(FRAME), 30, *media(FRAME), 31, VIDEO_END]
    made = vision_case(random, "video", [4, frames, 6], videos=[CLIP])
    yield Case(made.name, made.arrays, only_reference={"mm_token_type_ids": 2 * (made.arrays["input_ids"] == IMAGE)})


FAMILIES = (
    Family("glm4v", "GLM-4.1V: packed patches, 2 x 2 convolution, GLM-4 with M-RoPE", config, cases),
    Family("glm4v_video", "GLM-4.1V on a video", config, videos),
)
