"""Pixtral 12B: a tower with two-dimensional rotary positions on images of any shape, two linear layers, and Mistral. A break token stands
after every row of an image and an end token after the last. Published folders say ``llava`` (transformers' class), which mlx-vlm takes for
LLaVA and refuses; those made for it, as this one, say ``pixtral``. The cases have wide and tall images and several of different sizes."""

import json
import shutil

from workbench.capture.zoo.families import mistral3
from workbench.capture.zoo.family import Case, Family, prompt, text_arrays


def config():
    from transformers import LlavaConfig

    parts = mistral3.config()
    return LlavaConfig(
        vision_config=parts.vision_config,
        text_config=parts.text_config,
        image_token_index=mistral3.IMAGE,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


def cases(config, random):
    for name, size, before, after in (
        ("wide, image first", (28, 98), 0, 12),
        ("tall, image last", (140, 42), 12, 1),
        ("square, image between", (70, 70), 5, 7),
    ):
        arrays, (image,) = mistral3.shown(random, size, step=mistral3.PATCH)
        yield Case(name, text_arrays(prompt(random, [before, image, after], 10, 1000)) | arrays)
    arrays, (first, second, third) = mistral3.shown(random, (42, 84), (70, 28), (14, 14), step=mistral3.PATCH)
    yield Case("three images", text_arrays(prompt(random, [3, first, 4, second, third, 5], 10, 1000)) | arrays)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def to_hub(source, target):
    """Names as transformers 5 saves them. Source: mlx-community/pixtral-12b-4bit, mistral-community/pixtral-12b."""
    from workbench.convert.layout import rope

    shutil.copytree(source, target)
    written = json.loads((target / "config.json").read_text())
    rope(written)
    written["vision_config"].pop("rope_scaling", None)  # "axial" is what Pixtral does without being told
    (target / "config.json").write_text(json.dumps(written | {"model_type": "pixtral"}, indent=2))


FAMILY = Family("pixtral", "Pixtral: two-dimensional rotary tower, two linear layers, Mistral", config, cases, to_hub=to_hub)
