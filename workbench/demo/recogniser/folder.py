"""The demo recogniser's shape, and its folder in the layout of the published Whisper checkpoints.

transformers (``WhisperForConditionalGeneration``, ``WhisperProcessor``, ``pipeline``) reads the folder unchanged.  The
weights are rounded to half precision once, here; everything measured is measured on the rounded values.

    folder.write(state, Path("build/demo-stt/stt"))      # state: float32 tensors under the published names
"""

import json
import os
import shutil
from pathlib import Path

from workbench.demo.recogniser import tokens

WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS, MELS = 96, 3, 6, 3, 80
AUDIO_POSITIONS, TEXT_POSITIONS = 1500, 448
WEIGHTS = "model.safetensors"
ALIGNMENT_HEADS = [[2, 2]]
"""[layer, head] of the cross-attention that word times are read from: of the bundled weights' nine heads, the one whose word ends lie
closest to an even pace through the utterance (0.25 s off on average; the upper two layers together 0.28 s)."""


def config() -> dict:
    """``config.json`` as published Whisper checkpoints have it."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": tokens.VOCABULARY,
        "num_mel_bins": MELS,
        "d_model": WIDTH,
        "encoder_layers": ENCODER_LAYERS,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 4 * WIDTH,
        "decoder_layers": DECODER_LAYERS,
        "decoder_attention_heads": HEADS,
        "decoder_ffn_dim": 4 * WIDTH,
        "num_hidden_layers": ENCODER_LAYERS,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": TEXT_POSITIONS,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "scale_embedding": False,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": tokens.END_ID,
        "eos_token_id": tokens.END_ID,
        "pad_token_id": tokens.END_ID,
        "decoder_start_token_id": tokens.START_ID,
        "max_length": TEXT_POSITIONS,
        "torch_dtype": "float16",
    }


def generation_config(alignment_heads: list[list[int]] | None = None) -> dict:
    """``generation_config.json``; ``alignment_heads`` are [layer, head] pairs, by default those of the bundled weights."""
    return {
        "alignment_heads": alignment_heads or ALIGNMENT_HEADS,
        "begin_suppress_tokens": [*tokens.encode(" "), tokens.END_ID],
        "bos_token_id": tokens.END_ID,
        "decoder_start_token_id": tokens.START_ID,
        "eos_token_id": tokens.END_ID,
        "pad_token_id": tokens.END_ID,
        # Without it transformers, given neither language nor task, leaves the task out of the prompt.
        "forced_decoder_ids": [[1, None], [2, tokens.TRANSCRIBE_ID]],
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": tokens.ENGLISH_ID + place for place, code in enumerate(tokens.languages())},
        "task_to_id": {"transcribe": tokens.TRANSCRIBE_ID, "translate": tokens.TRANSLATE_ID},
        "max_initial_timestamp_index": 50,
        "max_length": TEXT_POSITIONS,
        "no_timestamps_token_id": tokens.NO_TIMESTAMPS_ID,
        "prev_sot_token_id": tokens.PREVIOUS_ID,
        "return_timestamps": False,
        "suppress_tokens": tokens.suppressed(),
    }


def preprocessor_config() -> dict:
    """``preprocessor_config.json``: 16 kHz, 80 mels, 30 s, Whisper's constants."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": MELS,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def random_state(seed: int) -> dict:
    """An untrained state dictionary of the right shape, for tests of the machinery."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**config()))
    return {name: value.float() for name, value in model.state_dict().items() if name != "proj_out.weight"}


def write(state: dict, folder: Path, alignment_heads: list[list[int]] | None = None) -> None:
    """Write the whole folder at once: built beside it, then swapped file by file, so that a reader never sees half."""
    import torch
    from safetensors.torch import save_file

    building = folder.with_name(folder.name + ".new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    tokens.save(building)
    heads = generation_config(alignment_heads)
    parts = {"config.json": config(), "generation_config.json": heads, "preprocessor_config.json": preprocessor_config()}
    for name, value in parts.items():
        (building / name).write_text(json.dumps(value, indent=2) + "\n")
    rounded = {name: value.to(torch.float16).contiguous() for name, value in state.items()}
    save_file(rounded, str(building / WEIGHTS), metadata={"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    for file in building.iterdir():
        os.replace(file, folder / file.name)
    building.rmdir()
    (folder / WEIGHTS).chmod(0o644)
