"""Tiny random speech folders in the published layouts: a Whisper, a wav2vec2 with a CTC head, a HuBERT, and a Moonshine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy

from workbench import locate

END = 50257
LETTERS = "|abcdefghijklmnopqrstuvwxyz'"
CTC_VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {each: 4 + place for place, each in enumerate(LETTERS)}
CONVOLUTIONS = {"conv_dim": [16, 16], "conv_stride": [20, 16], "conv_kernel": [40, 32], "num_feat_extract_layers": 2}
"""320 samples a frame, as in published wav2vec2, in two layers."""
SOUND = {"feature_size": 1, "sampling_rate": 16000, "padding_value": 0.0, "do_normalize": True, "return_attention_mask": False}


def whisper(folder: Path, seed: int = 0, dtype: str = "float32", alignment: list | None = None, **changes) -> Path:
    """Width 32, 2 + 2 layers, the standard 51,865 tokens, two alignment heads; weights at fan-in scale, embeddings louder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    settings = {
        "vocab_size": 51865,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "pad_token_id": END,
        "bos_token_id": END,
        "eos_token_id": END,
        "decoder_start_token_id": 50258,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    model = _random(lambda: WhisperForConditionalGeneration(WhisperConfig(**settings | changes)), seed, "encoder.embed_positions")
    _save(model, folder, dtype)
    demo = locate.demo_model("stt")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"):
        shutil.copy(demo / name, folder)
    generation = json.loads((demo / "generation_config.json").read_text()) | {"alignment_heads": alignment or [[1, 0], [1, 1]]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def ctc(folder: Path, kind: str = "wav2vec2", seed: int = 0) -> Path:
    """``kind``: wav2vec2 or hubert, with layer norms (``do_stable_layer_norm``); one character a token."""
    import transformers

    config_class, model_class = {
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2ForCTC),
        "hubert": (transformers.HubertConfig, transformers.HubertForCTC),
    }[kind]
    config = config_class(
        vocab_size=len(CTC_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        conv_bias=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        ctc_loss_reduction="mean",
        **CONVOLUTIONS,
    )
    _save(_random(lambda: model_class(config), seed), folder, "float32")
    write(folder, "vocab.json", CTC_VOCABULARY)
    words = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "word_delimiter_token": "|"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": False, **words})
    write(folder, "preprocessor_config.json", {"feature_extractor_type": "Wav2Vec2FeatureExtractor", **SOUND})
    return folder


def moonshine(folder: Path, seed: int = 0) -> Path:
    """An encoder-decoder of both libraries; one byte a token."""
    import tokenizers
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    config = MoonshineConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        max_position_embeddings=128,
    )
    _save(_random(lambda: MoonshineForConditionalGeneration(config), seed), folder, "float32")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    write(
        folder, "preprocessor_config.json", {"feature_extractor_type": "Wav2Vec2FeatureExtractor", **SOUND, "do_normalize": False}
    )
    return folder


def write(folder: Path, name: str, value: dict) -> None:
    (folder / name).write_text(json.dumps(value))


def wave(seconds: float = 2.0, seed: int = 0):
    """Samples at 16 kHz: tones that change every 100 ms, and a little noise."""
    random = numpy.random.default_rng(seed)
    times = numpy.arange(int(seconds * 16_000)) / 16_000
    pitch = numpy.repeat(random.uniform(100, 3000, int(seconds * 10) + 1), 1600)[: len(times)]
    return (0.2 * numpy.sin(2 * numpy.pi * pitch * times) + 0.02 * random.standard_normal(len(times))).astype(numpy.float32)


def _random(make: Callable, seed: int, kept: str = "nothing"):
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and kept not in name and "parametrizations" not in name:
                    weight.normal_(0, 1.0 if "embed" in name else weight[0].numel() ** -0.5)
    return model


def _save(model, folder: Path, dtype: str) -> None:
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
