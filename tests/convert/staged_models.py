"""Tiny random checkpoints as transformers saves them, and transformers' own answers: the witness of the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

WIDTH, IMAGE_TOKEN, VOCABULARY = 32, 3, 48


def loud(model: Any) -> Any:
    """Weights at fan-in scale, norms near 1: the default init (0.02) would hide what differs."""
    import torch

    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                by_name = 3.0 if "embed_positions" in name else 1.0 if "embed" in name else None
                weight.normal_(0, by_name or 1.5 * weight[0].numel() ** -0.5)
            else:
                weight.uniform_(-0.2, 0.2).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()


def llava(
    folder: Path,
    tower: str = "clip_vision_model",
    decoder: str = "llama",
    text: dict[str, Any] | None = None,
    dtype: str = "float32",
    **more: Any,
) -> Path:
    """A LLaVA with two layers in each part, pictures of 16 x 16, grouped queries."""
    transformers = pytest.importorskip("transformers")
    import torch

    vision = {
        "model_type": tower,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    settings = {
        "model_type": decoder,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
        **({"sliding_window": None} if decoder == "mistral" else {}),
        **(text or {}),
    }
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=settings,
        image_token_index=IMAGE_TOKEN,
        **{"vision_feature_layer": -1, "tie_word_embeddings": bool(settings.get("tie_word_embeddings")), **more},
    )
    loud(transformers.LlavaForConditionalGeneration(config)).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def whisper(folder: Path, mels: int = 80, vocabulary: int = 60, **more: Any) -> Path:
    """A Whisper whose window is 40 frames; two layers, more of them in the encoder."""
    transformers = pytest.importorskip("transformers")
    settings = {
        "vocab_size": vocabulary,
        "num_mel_bins": mels,
        "d_model": WIDTH,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 40,
        "max_source_positions": 20,
        "max_target_positions": 24,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 2,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    loud(transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**(settings | more)))).save_pretrained(folder)
    return folder


def own(folder: Path, class_name: str = "LlavaForConditionalGeneration") -> Any:
    """transformers' model in float32, loaded apart from the stages."""
    import torch
    import transformers

    return getattr(transformers, class_name).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def request(images: int, features: int, length: int = 7, seed: int = 0) -> dict[str, Any]:
    """A prompt with ``images`` pictures among ``length`` words, as a processor gives it."""
    random = numpy.random.default_rng(seed)
    words = random.integers(4, VOCABULARY, length).tolist()
    ids = words[:2] + sum(([IMAGE_TOKEN] * features + [words[at + 2]] for at in range(images)), []) + words[images + 2 :]
    arrays = {"input_ids": numpy.array([ids]), "attention_mask": numpy.ones((1, len(ids)), dtype=numpy.int64)}
    if images:
        arrays["pixel_values"] = random.standard_normal((images, 3, 16, 16)).astype(numpy.float32)
    return arrays


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def logits(model: Any, arrays: dict[str, Any], tokens: list[int]) -> Any:
    """transformers' logits at every position of prompt and tokens, read at once."""
    import torch

    ids = numpy.concatenate([arrays["input_ids"], numpy.array([tokens], dtype=numpy.int64)], axis=1)
    with torch.no_grad():
        return model(**tensors({**arrays, "input_ids": ids, "attention_mask": numpy.ones_like(ids)})).logits[0].numpy()


def greedy(stages: Any, arrays: dict[str, Any], count: int) -> tuple[list[int], Any]:
    """(tokens, logits at every position of prompt and tokens but the last) of the stages, one after the other."""
    tokens: list[int] = []
    rows: list[Any] = []
    while len(tokens) < count:
        feeds = stages.feeds(arrays, tokens)
        first = [stages["prefill"].run(feed)[0]["logits"][0] for feed in feeds.get("prefill", [])] if not tokens else []
        steps = feeds["step"] if not tokens else feeds["step"][-1:]
        rows += [*first, *(stages["step"].run(feed)[0]["logits"][0] for feed in steps)]
        tokens.append(int(rows[-1][-1].argmax()))
    return tokens, numpy.concatenate(rows)


def relative(found: Any, expected: Any) -> float:
    """Relative L2 distance."""
    found, expected = numpy.asarray(found, dtype=numpy.float64), numpy.asarray(expected, dtype=numpy.float64)
    assert found.shape == expected.shape
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))
