"""Other families than LLaVA on torch: image tiles of varying number (Idefics3), flattened patches (Qwen2-VL)."""

from __future__ import annotations

import json

import pytest

from workbench.models.loading import open_vision_language
from workbench.types import Generation, ModelSpec

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'parity-workbench[torch]')")

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PART = "{% for part in message.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
TEMPLATE = "{% for message in messages %}User:" + PART + "\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"


def tokenizer_of(specials: list[str], **named: str):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", extra_special_tokens=named
    )
    return fast, len(vocabulary)


def save(folder, config, model_class, tokenizer, template, **files) -> None:
    torch.manual_seed(0)
    model = model_class(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def qwen2_vl(folder):
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokenizer, size = tokenizer_of(["<pad>", "</s>", "<|vision_start|>", "<|vision_end|>", *names.values()], **names)
    config = transformers.Qwen2VLConfig(
        text_config=TEXT
        | {"vocab_size": size, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14},
        image_token_id=4,
        video_token_id=5,
        vision_start_token_id=2,
        vision_end_token_id=3,
    )
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 784,
        "max_pixels": 12544,
    }
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    save(folder, config, transformers.Qwen2VLForConditionalGeneration, tokenizer, template, preprocessor_config=images | COLOURS)


def idefics3(folder):
    names = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    tokenizer, size = tokenizer_of(["<pad>", "</s>", *names.values(), "<end_of_utterance>", *tiles], **names)
    config = transformers.Idefics3Config(
        text_config=TEXT | {"model_type": "llama", "vocab_size": size},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
        scale_factor=2,
        image_token_id=2,
        pad_token_id=0,
    )
    images = {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor", "do_image_splitting": True}
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": 4}
    template = TEMPLATE.replace("IMAGE", "<image>")
    model_class = transformers.Idefics3ForConditionalGeneration
    save(folder, config, model_class, tokenizer, template, preprocessor_config=images | sizes | COLOURS, processor_config=processor)


@pytest.fixture(scope="module", params=[qwen2_vl, idefics3], ids=lambda make: make.__name__)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param.__name__)
    request.param(made)
    return made


def test_batches_equal_single_items(folder, mixed):
    single = open_vision_language(ModelSpec.parse(f"torch:{folder}"))
    batched = open_vision_language(ModelSpec.parse(f"torch:{folder}?batch_size=8"))
    generation = Generation(max_tokens=8)
    one, many = single.answer(mixed, generation), batched.answer(mixed, generation)
    assert [output.error for output in one] == [None] * len(mixed)
    assert [output.tokens for output in many] == [output.tokens for output in one]
    assert max(output.timing.batch for output in many) > 1
    assert len({output.tokens for output in one}) > 3


def test_pixels_are_the_same_with_and_without_torchvision(folder):
    facts = open_vision_language(ModelSpec.parse(f"torch:{folder}")).describe()
    assert facts["image_processor"].endswith("Pil")


def test_max_pixels_lowers_the_number_of_tokens(folder, ask, image):
    request = ask("?", image(112, 112))
    lengths = []
    for option in ("", "?max_pixels=3136"):
        model = open_vision_language(ModelSpec.parse(f"torch:{folder}{option}"))
        lengths.append(model.answer([request], Generation(max_tokens=2))[0].timing.n_in)
    # Idefics3 enlarges every image to its own size, so the number of its tiles stays.
    assert lengths[1] < lengths[0] or "Idefics3" in model.describe()["processor"]
    assert model.describe()["resized_by"] in ("image processor", "workbench")
