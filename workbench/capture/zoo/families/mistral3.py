"""Mistral Small 3.1: the Pixtral tower on images of any shape, 2 by 2 patches merged into one, two linear layers, and Mistral. A break
token stands after every row of an image and an end token after the last. The cases have wide and tall images and several of different
sizes, which the processor pads to one size. Ministral 3 (``ministral3`` here) has the same model type and another text model: YaRN, and
queries that grow with the logarithm of the position; its limits are so small here that the prompts cross them."""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE, BREAK, END = 5, 6, 7
PATCH, MERGE = 14, 2


def config():
    from transformers import Mistral3Config, MistralConfig, PixtralVisionConfig

    return Mistral3Config(
        vision_config=PixtralVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=154,
            patch_size=PATCH,
            hidden_act="silu",
            rope_parameters={"rope_type": "axial", "rope_theta": 10000.0},
        ),
        text_config=MistralConfig(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e9},
            sliding_window=None,
        ),
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        multimodal_projector_bias=False,
        tie_word_embeddings=False,
    )


def shown(random, *sizes, step=PATCH * MERGE):
    """(arrays, the tokens of each image) for images of these sizes (height, width) in pixels, as transformers' processor makes them."""
    import numpy

    values = pixels(random, len(sizes), 3, *(max(each) for each in zip(*sizes, strict=True)))
    tokens = []
    for image, (height, width) in zip(values, sizes, strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
        rows, columns = height // step, width // step
        tokens.append(([IMAGE] * columns + [BREAK]) * (rows - 1) + [IMAGE] * columns + [END])
    return {"pixel_values": values, "image_sizes": numpy.array(sizes)}, tokens


def cases(config, random):
    for name, size, before, after in (
        ("wide, image first", (28, 112), 0, 12),
        ("tall, image last", (140, 56), 12, 1),
        ("square, image between", (84, 84), 5, 7),
    ):
        arrays, (image,) = shown(random, size)
        yield Case(name, text_arrays(prompt(random, [before, image, after], 10, 1000)) | arrays)
    arrays, (first, second, third) = shown(random, (56, 112), (84, 28), (28, 28))
    yield Case("three images", text_arrays(prompt(random, [3, first, 4, second, third, 5], 10, 1000)) | arrays)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def config_of_ministral():
    from transformers import Ministral3Config, Mistral3Config

    parts = config()
    return Mistral3Config(
        vision_config=parts.vision_config,
        text_config=Ministral3Config(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            rms_norm_eps=1e-5,
            max_position_embeddings=512,
            rope_parameters={
                "type": "yarn",
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
            tie_word_embeddings=True,
        ),
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        multimodal_projector_bias=False,
        tie_word_embeddings=True,
    )


def long_cases(config, random):
    yield from cases(config, random)
    arrays, (image,) = shown(random, (84, 112))
    yield Case("long", text_arrays(prompt(random, [40, image, 60], 10, 1000)) | arrays)


FAMILIES = (
    Family("mistral3", "Mistral Small 3.1: Pixtral tower, patch merger, Mistral", config, cases),
    Family("ministral3", "Ministral 3: Pixtral tower, patch merger, Ministral with YaRN", config_of_ministral, long_cases),
)
