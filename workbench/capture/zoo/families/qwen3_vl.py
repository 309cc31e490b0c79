"""Qwen3-VL: learned positions stretched over the image, features of several vision blocks added in the text model (deepstack), Qwen3
with interleaved M-RoPE.

The grids are larger, smaller and longer than the table of positions. A video comes as one block of tokens a frame, as its processor
writes it (a time stamp in text before each).
"""

from workbench.capture.zoo.families.qwen2_vl import END, IMAGE, START, VIDEO, media, vision_case
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays

WIDE, TALL, SMALL = (1, 4, 10), (1, 8, 2), (1, 2, 2)
CLIP = (2, 4, 6)
FRAME = (1, 4, 6)
VALUES = 3 * 2 * 16 * 16


def config():
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
        },
        text_config={
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 4, 4], "mrope_interleaved": True},
        },
        tie_word_embeddings=True,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )


def cases(config, random):
    def case(*arguments, **named):
        return vision_case(random, *arguments, **named, values=VALUES)

    yield case("wide image first", [media(WIDE), 9], [WIDE])
    yield case("tall image last", [9, media(TALL), 1], [TALL])
    yield case("two images", [3, media(SMALL), media(WIDE), 6], [SMALL, WIDE])
    yield case("text between images", [3, media(TALL), 4, media(WIDE), 6], [TALL, WIDE])
    yield Case("text alone", text_arrays(prompt(random, [20], 20, 1000)))


def videos(config, random):
    video = [media(FRAME, VIDEO), 3, media(FRAME, VIDEO)]
    yield vision_case(random, "video", [4, *video, 6], videos=[CLIP], values=VALUES)
    yield vision_case(random, "image and video", [4, media(TALL), 2, *video, 6], [TALL], [CLIP], values=VALUES)


FAMILIES = (
    Family("qwen3_vl", "Qwen3-VL: packed patches, deepstack, Qwen3 with interleaved M-RoPE", config, cases),
    Family("qwen3_vl_video", "Qwen3-VL on videos", config, videos),
)
