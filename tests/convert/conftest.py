"""Tiny folders as transformers 5 saves them: LLaVA and Qwen2-VL, random weights, one file or several."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest


def llava(dtype: str = "float32", **more):
    """CLIP and Llama, 0.2 million parameters."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    }
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=2, **more)
    return transformers.LlavaForConditionalGeneration(config).to(getattr(torch, dtype)).eval()


def qwen2_vl():
    """Tied embeddings, multimodal rotary positions, text settings in a part of their own."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch").manual_seed(3)
    text = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
    }
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    return transformers.Qwen2VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def five(tmp_path_factory):
    """``five("llava")``, ``five("llava", max_shard_size="200KB")``: a folder saved by transformers 5, made once; only to be read."""
    made: dict[str, Path] = {}

    def save(name: str, dtype: str = "float32", **how) -> Path:
        key = f"{name}-{dtype}-{'-'.join(map(str, how.values()))}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved") / "my-finetune"
            (llava(dtype) if name == "llava" else qwen2_vl()).save_pretrained(made[key], **how)
        return made[key]

    return save


@pytest.fixture
def copied(five, tmp_path):
    """A copy to be damaged."""
    import shutil

    return Path(shutil.copytree(five("llava"), tmp_path / "my-finetune"))


@pytest.fixture
def edit():
    """``edit(folder / "config.json", lambda config: ...)`` changes a JSON file in place."""

    def change(path: Path, how) -> None:
        value = json.loads(path.read_text())
        path.write_text(json.dumps(how(value) or value))

    return change


@pytest.fixture
def contents():
    """Hash of every file by name: what a folder holds."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Hashes of weight files stay out of the user's cache."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
