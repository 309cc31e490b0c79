"""InternVL with transformers' names: InternViT (learned positions, layer scales), pixel shuffle, two linear layers, and Qwen 3 (InternVL 3.5)
or Qwen 2 (InternVL 3, ``internvl_qwen2`` here). Tiles are squares in the batch axis, the whole image last; start and end tokens around
an image's tokens are text."""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
TILE = [IMAGE] * 9


def of(text_config):
    from transformers import InternVLConfig
    from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=[84, 84],
            patch_size=[14, 14],
            attention_bias=True,
        ),
        text_config=text_config,
        image_token_id=IMAGE,
        image_seq_length=len(TILE),
        tie_word_embeddings=False,
    )


SIZES = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 900000.0},
    "tie_word_embeddings": False,
}


def config():
    from transformers import Qwen3Config

    return of(Qwen3Config(**SIZES, head_dim=24))


def config_of_qwen2():
    from transformers import Qwen2Config

    return of(Qwen2Config(**SIZES))


def cases(config, random):
    for name, parts, n in (
        ("one tile, image first", [TILE, 9], 1),
        ("two tiles and the whole, image between", [5, [6, *TILE * 3, 7], 7], 3),
        ("two images, image last", [3, [6, *TILE, 7], 4, [6, *TILE * 3, 7], 1], 4),
    ):
        yield Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"pixel_values": pixels(random, n, 3, 84, 84)})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


TOWER = (
    (r"^(?:model\.)?vision_tower\.encoder\.layer\.", "vision_tower.encoder.layers."),
    (r"projector\.activation$", "projector.act"),
)
FAMILIES = (
    Family("internvl", "InternVL 3.5: InternViT, pixel shuffle, Qwen 3", config, cases, reference_names=TOWER, port_names=TOWER),
    Family(
        "internvl_qwen2",
        "InternVL 3: InternViT, pixel shuffle, Qwen 2",
        config_of_qwen2,
        cases,
        reference_names=TOWER,
        port_names=TOWER,
    ),
)
