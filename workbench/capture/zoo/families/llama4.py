"""Llama 4: square tiles with two-dimensional rotary positions, pixel shuffle, and a mixture of experts whose every fourth layer has
no positions. Scout has experts in every layer, normalised queries and keys and Llama 3's rotary scaling; Maverick has none of these.

The processor makes tiles of an image, row by row, and the whole one, with separators between them.
"""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
TILE = [IMAGE] * 4
NEXT, ROW, WHOLE = 6, 7, 8
SCALING = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}


def config(experts_every, normalised, scaling):
    from transformers import Llama4Config
    from transformers.models.llama4.configuration_llama4 import Llama4TextConfig, Llama4VisionConfig

    return Llama4Config(
        vision_config=Llama4VisionConfig(
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            pixel_shuffle_ratio=0.5,
            projector_input_dim=96,
            projector_output_dim=96,
            vision_output_dim=96,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        ),
        text_config=Llama4TextConfig(
            vocab_size=1000,
            hidden_size=48,
            intermediate_size=56,
            intermediate_size_mlp=112,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_local_experts=4,
            interleave_moe_layer_step=experts_every,
            use_qk_norm=normalised,
            rope_parameters={"rope_theta": 500_000.0, **scaling},
            pad_token_id=0,
        ),
        image_token_index=IMAGE,
    )


def cases(config, random):
    def case(name, parts, tiles):
        return Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"pixel_values": pixels(random, tiles, 3, 56, 56)})

    yield case("one tile, image first", [TILE, 12], 1)
    yield case("wide: two tiles and the whole", [3, TILE, [NEXT], TILE, [ROW, WHOLE], TILE, 9], 3)
    yield case("tall: three tiles and the whole, last", [4, *[TILE, [ROW]] * 3, [WHOLE], TILE, 1], 4)
    yield case("two images", [3, TILE, 5, TILE, [NEXT], TILE, [ROW, WHOLE], TILE, 4], 4)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILIES = (
    Family("llama4", "Llama 4 Scout: tiles, experts in every layer", lambda: config(1, True, SCALING), cases),
    Family(
        "llama4_maverick",
        "Llama 4 Maverick: tiles, experts in every other layer",
        lambda: config(2, False, {"rope_type": "default"}),
        cases,
    ),
)
