"""Tiny random LLaVA folders in the layout of published checkpoints, made with numpy: 0.2 million parameters, 32-pixel images."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy
import pytest

from workbench.types import Media, Request

HIDDEN, LAYERS, PATCHES = 64, 2, 16
SPECIAL = ("<pad>", "</s>", "<image>")
TEMPLATE = (
    "{% for message in messages %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_channels": 3,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": HIDDEN,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
IMAGES = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "LlavaProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "do_center_crop": False,
    "crop_size": {"height": 32, "width": 32},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.3, 0.3, 0.3],
    "do_convert_rgb": True,
}


def build(folder: Path, seed: int = 0) -> Path:
    """Write the folder: weights at fan-in scale (the default 0.02 would hide differences), one token a byte."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers (pip install 'parity-workbench[torch]')")
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    size = -(-len(vocabulary) // 8) * 8
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = {
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": 2,
        "image_seq_length": PATCHES,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "text_config": text,
        "vision_config": VISION,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": 8,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "extra_special_tokens": {"image_token": "<image>"},
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    files = {
        "config.json": config,
        "generation_config.json": {
            "eos_token_id": 1,
            "pad_token_id": 0,
            "repetition_penalty": 1.3,
            "do_sample": True,
            "temperature": 0.7,
        },
        "preprocessor_config.json": IMAGES,
        "processor_config.json": processor,
        "tokenizer_config.json": settings,
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    save_file(weights(size, seed), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def weights(vocabulary: int, seed: int) -> dict[str, numpy.ndarray]:
    """Weights by their published names."""
    random = numpy.random.default_rng(seed)
    found: dict[str, numpy.ndarray] = {}

    def matrix(name: str, *shape: int, scale: float | None = None) -> None:
        deviation = scale if scale is not None else float(numpy.prod(shape[1:])) ** -0.5
        found[f"{name}.weight"] = (random.standard_normal(shape) * deviation).astype(numpy.float32)

    def vector(name: str, size: int, around: float) -> None:
        found[name] = (around + random.uniform(-0.1, 0.1, size)).astype(numpy.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        matrix(name, rows, columns)
        vector(f"{name}.bias", rows, 0)

    def norm(name: str) -> None:
        vector(f"{name}.weight", HIDDEN, 1)
        vector(f"{name}.bias", HIDDEN, 0)

    tower = "vision_tower.vision_model"
    found[f"{tower}.embeddings.class_embedding"] = random.standard_normal(HIDDEN).astype(numpy.float32)
    matrix(f"{tower}.embeddings.patch_embedding", HIDDEN, 3, 8, 8)
    matrix(f"{tower}.embeddings.position_embedding", PATCHES + 1, HIDDEN, scale=0.3)
    norm(f"{tower}.pre_layrnorm")
    norm(f"{tower}.post_layernorm")
    for layer in range(LAYERS):
        block = f"{tower}.encoder.layers.{layer}"
        norm(f"{block}.layer_norm1")
        norm(f"{block}.layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{block}.self_attn.{name}", HIDDEN, HIDDEN)
        linear(f"{block}.mlp.fc1", 128, HIDDEN)
        linear(f"{block}.mlp.fc2", HIDDEN, 128)
    linear("multi_modal_projector.linear_1", HIDDEN, HIDDEN)
    linear("multi_modal_projector.linear_2", HIDDEN, HIDDEN)
    model = "language_model.model"
    matrix(f"{model}.embed_tokens", vocabulary, HIDDEN, scale=1.0)
    vector(f"{model}.norm.weight", HIDDEN, 1)
    matrix("language_model.lm_head", vocabulary, HIDDEN)
    for layer in range(LAYERS):
        block = f"{model}.layers.{layer}"
        vector(f"{block}.input_layernorm.weight", HIDDEN, 1)
        vector(f"{block}.post_attention_layernorm.weight", HIDDEN, 1)
        for name, rows in (("q_proj", HIDDEN), ("k_proj", HIDDEN // 2), ("v_proj", HIDDEN // 2), ("o_proj", HIDDEN)):
            matrix(f"{block}.self_attn.{name}", rows, HIDDEN)
        matrix(f"{block}.mlp.gate_proj", 128, HIDDEN)
        matrix(f"{block}.mlp.up_proj", 128, HIDDEN)
        matrix(f"{block}.mlp.down_proj", HIDDEN, 128)
    return found


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Media:
    """A random PNG."""
    from PIL import Image

    pixels = numpy.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=numpy.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Media(data=stream.getvalue())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The folder, shared by all tests: do not write into it."""
    return build(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory) -> Path:
    """A random Whisper's folder, shared by all tests: do not write into it."""
    from tests.models import tiny_whisper

    return tiny_whisper.build(tmp_path_factory.mktemp("models") / "tiny-whisper", seed=1)


@pytest.fixture
def broken(tiny, tmp_path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


@pytest.fixture(scope="session")
def image():
    """``image(width, height, seed)`` makes a random picture."""
    return picture


@pytest.fixture(scope="session")
def ask():
    """``ask(text, *images)`` makes a request."""
    return lambda text, *images: Request({"text": text, "images": list(images)}, "test@1")


@pytest.fixture(scope="session")
def mixed(ask, image) -> list[Request]:
    """Text only, one image, two images; short and long prompts; a question that spells the image token."""
    return [
        ask("What is this?", image(seed=1)),
        ask("Describe in one long sentence what can be seen in the picture, please.", image(64, 20, seed=2)),
        ask("No picture here: 2 + 2 = ?"),
        ask("Which is larger?", image(seed=3), image(32, 32, seed=4)),
        ask("Is <image> an HTML tag?", image(seed=5)),
        ask("Hi"),
        ask("Hm", image(seed=6)),
    ]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Hashes of weight files stay out of the user's cache."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
