"""Other families than LLaVA on torch: tiles of varying number (Idefics3), flattened patches (Qwen2-VL), attention in both directions
(PaliGemma), cross-attention (Llama 3.2 Vision)."""

from __future__ import annotations

import json

import pytest

from workbench.errors import ItemError
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
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 64,
    "vision_use_head": False,
}
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


def paligemma(folder):
    tokenizer, size = tokenizer_of(["<pad>", "</s>", "<image>", "<bos>"], image_token="<image>")
    tokenizer.bos_token = "<bos>"
    config = transformers.PaliGemmaConfig(
        text_config=TEXT | {"model_type": "gemma", "vocab_size": size, "head_dim": 16, "num_key_value_heads": 1},
        vision_config=SIGLIP,
        image_token_index=2,
        projection_dim=64,
        hidden_size=64,
        pad_token_id=0,
    )
    images = {"image_processor_type": "SiglipImageProcessor", "processor_class": "PaliGemmaProcessor", "image_seq_length": 4}
    sizes = {"size": {"height": 28, "width": 28}}
    processor = {"processor_class": "PaliGemmaProcessor"}
    template = TEMPLATE.replace("IMAGE", "<image>")
    model_class = transformers.PaliGemmaForConditionalGeneration
    save(folder, config, model_class, tokenizer, template, preprocessor_config=images | sizes | COLOURS, processor_config=processor)


def mllama(folder):
    tokenizer, size = tokenizer_of(["<pad>", "</s>", "<image>", "<bos>"], image_token="<image>")
    tokenizer.bos_token = "<bos>"
    rope = {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    config = transformers.MllamaConfig(
        text_config=TEXT | rope | {"vocab_size": size, "num_hidden_layers": 3, "cross_attention_layers": [1], "bos_token_id": 3},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "max_num_tiles": 4,
            "vision_output_dim": 128,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        image_token_index=2,
    )
    images = {"image_processor_type": "MllamaImageProcessor", "processor_class": "MllamaProcessor", "max_image_tiles": 4}
    sizes = {"size": {"height": 28, "width": 28}, "do_pad": True}
    processor = {"processor_class": "MllamaProcessor"}
    template = TEMPLATE.replace("IMAGE", "<image>")
    model_class = transformers.MllamaForConditionalGeneration
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


@pytest.mark.parametrize("make", [qwen2_vl, idefics3, paligemma, mllama])
def test_followed_tokens_get_the_logits_of_generation(make, tmp_path, ask, image):
    make(tmp_path)
    model = open_vision_language(ModelSpec.parse(f"torch:{tmp_path}"))
    for seed in (1, 2):  # the first chooses between one pass and the generation loop, the second relies on it
        request = ask("What is this?", image(60, 44, seed))
        inputs = model._collate([model.prepare(request)])
        settings = transformers.GenerationConfig(
            max_new_tokens=7, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
        )
        made = model.model.generate(**inputs, generation_config=settings)
        tokens = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        found = torch.from_numpy(model.follow(request, tokens))
        torch.testing.assert_close(found, torch.cat(made.logits).detach(), atol=1e-4, rtol=1e-4)
    assert list(model._following.one_pass.values()) == [make in (qwen2_vl, idefics3)]


@pytest.mark.parametrize("tokens", [[5, 100_000], [5, -1], [5, None], [5, 2.5], [5, True], [5] * 4000])
def test_tokens_that_a_model_cannot_be_fed_are_refused(tiny, ask, tokens):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}"))
    with pytest.raises(ItemError, match="followed"):
        model.follow(ask("Hm"), tokens)


def test_a_stop_token_inside_a_followed_answer_ends_nothing(tmp_path, ask, image):
    mllama(tmp_path)
    model = open_vision_language(ModelSpec.parse(f"torch:{tmp_path}"))
    tokens = [7, model.stop_ids[0], 9, 10]
    assert model.follow(ask("?", image(60, 44)), tokens).shape[0] == len(tokens)


def test_mlx_follows_a_model_that_attends_in_both_directions(tmp_path, ask, image):
    core = pytest.importorskip("mlx.core", reason="needs mlx (pip install 'parity-workbench[mlx]')")
    ar = pytest.importorskip("mlx_vlm.generate.ar", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")
    from safetensors.numpy import load_file, save_file

    paligemma(tmp_path)
    path = tmp_path / "model.safetensors"
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})  # the names of published checkpoints
    model = open_vision_language(ModelSpec.parse(f"mlx:{tmp_path}"))
    for seed in (1, 2):
        request = ask("What is this?", image(60, 44, seed))
        ids, pixels, mask, others = model._arrays(model.prepare(request))
        made = list(ar.generate_step(ids, model.model, pixels, mask, max_tokens=6, temperature=0.0, top_p=1.0, top_k=0, **others))
        found = core.array(model.follow(request, [int(token) for token, _ in made]))
        expected = core.stack([logprobs for _, logprobs in made])
        assert core.allclose(found - core.logsumexp(found, axis=-1, keepdims=True), expected, atol=1e-4).item()
