"""OpenAI's token set as transformers' tokenizer.json, for a Whisper whose folder has no tokenizer: mlx-whisper's hold none.

    write_tokenizer(folder, 51865)     # ["tokenizer.json", "tokenizer_config.json"]

The ranks are those of the files that mlx-whisper ships; the special tokens follow them, in the order of openai/whisper
``whisper/tokenizer.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""GPT-2's."""


def write_tokenizer(folder: Path, vocabulary: int) -> list[str]:
    """Write the two files; returns their names. ``vocabulary`` (rows of the embedding) says which of OpenAI's sets it is."""
    from mlx_whisper.tokenizer import get_encoding
    from tokenizers import AddedToken
    from transformers.convert_slow_tokenizer import TikTokenConverter

    from workbench.models.whisper_tokens import MULTILINGUAL_FROM

    multilingual = vocabulary >= MULTILINGUAL_FROM
    encoding = get_encoding("multilingual" if multilingual else "gpt2", vocabulary - 51765 - int(multilingual))
    special = sorted(encoding.special_tokens_set, key=encoding.encode_single_token)
    ranks = (
        Path(get_encoding.__wrapped__.__code__.co_filename).parent
        / "assets"
        / f"{'multilingual' if multilingual else 'gpt2'}.tiktoken"
    )
    made = TikTokenConverter(vocab_file=str(ranks), pattern=SPLIT).converted()
    times = {name for name in special if name[2:-2].replace(".", "").isdigit()}
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special if name not in times])
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in special if name in times])
    made.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "WhisperTokenizer", "bos_token": end, "eos_token": end, "pad_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return ["tokenizer.json", "tokenizer_config.json"]
