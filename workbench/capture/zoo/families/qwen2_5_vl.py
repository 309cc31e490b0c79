"""Qwen2.5-VL: as Qwen2-VL, but the vision tower attends within windows in most blocks, and time in a video counts in seconds.

A window is 4 x 4 patches here. The grids fill windows exactly, partly, and with a remainder; videos, a row of their own, have fewer and more frames than rows.
"""

from workbench.capture.zoo.families.qwen2_vl import END, IMAGE, START, VIDEO, media, vision_case
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays

WIDE, TALL, WHOLE = (1, 6, 10), (1, 10, 2), (1, 4, 8)
CLIP, LONG = (2, 6, 4), (4, 2, 4)


def config():
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
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


def cases(config, random):
    yield vision_case(random, "wide image first", [media(WIDE), 9], [WIDE])
    yield vision_case(random, "tall image last", [9, media(TALL), 1], [TALL])
    yield vision_case(random, "whole windows", [3, media(WHOLE), 6], [WHOLE])
    yield vision_case(random, "two images", [3, media(WIDE), media(TALL), 6], [WIDE, TALL])
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


def videos(config, random):
    yield vision_case(random, "video", [4, media(CLIP, VIDEO), 6], videos=[CLIP], seconds=[1.0])
    yield vision_case(random, "more frames than rows", [4, media(LONG, VIDEO), 6], videos=[LONG], seconds=[1.0])
    yield vision_case(random, "image and video", [4, media(WHOLE), 2, media(CLIP, VIDEO), 6], [WHOLE], [CLIP], seconds=[1.0])


FAMILIES = (
    Family("qwen2_5_vl", "Qwen2.5-VL: packed patches, attention in windows, Qwen2 with M-RoPE", config, cases),
    Family("qwen2_5_vl_video", "Qwen2.5-VL on videos", config, videos),
)
