"""LLaVA 1.5: a CLIP tower, two linear layers, and Llama. Its images are squares; mlx-vlm's LLaVA takes one image."""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 5
PATCHES = 16


def config():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
        ),
        text_config=LlamaConfig(
            vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
        ),
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
    )


def cases(config, random):
    image = [IMAGE] * PATCHES
    for name, parts in (("image first", [image, 12]), ("image last", [12, image, 1]), ("image between", [5, image, 7])):
        yield Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"pixel_values": pixels(random, 1, 3, 56, 56)})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family("llava", "LLaVA 1.5: CLIP, two linear layers, Llama", config, cases)
