"""Whisper's multilingual token set of 51,865 tokens as a fast Hugging Face tokenizer.

The byte-pair table is OpenAI's ``multilingual.tiktoken`` (MIT licence), which mlx-whisper ships; it lists tokens by
rank, while ``tokenizer.json`` lists merges.  A token's merge is the last step of the byte-pair algorithm run on the
token itself with lower ranks only.  Ids after the table: openai/whisper, ``whisper/tokenizer.py``, ``get_encoding``.

    >>> tokens.build().encode(" Turn on the light.").ids
"""

import base64
import functools
import json
from pathlib import Path

from workbench.errors import RuntimeMissing

END, START, ENGLISH = "<|endoftext|>", "<|startoftranscript|>", "<|en|>"
END_ID, START_ID, ENGLISH_ID = 50257, 50258, 50259
TRANSLATE_ID, TRANSCRIBE_ID, PREVIOUS_ID, NO_SPEECH_ID, NO_TIMESTAMPS_ID = 50358, 50359, 50361, 50362, 50363
TIME_ID = 50364  # <|0.00|>; one more for each 0.02 s
VOCABULARY = 51865
PROMPT = (START_ID, ENGLISH_ID, TRANSCRIBE_ID, NO_TIMESTAMPS_ID)
TIMED_PROMPT = PROMPT[:3]


def _assets() -> Path:
    try:
        import mlx_whisper
    except ModuleNotFoundError as error:
        raise RuntimeMissing(
            "the demo recogniser's tokens cannot be made",
            why="mlx-whisper, which ships Whisper's table, is not installed",
            fix="pip install 'parity-workbench[mlx]'",
        ) from error
    return Path(mlx_whisper.__file__).parent / "assets"


@functools.lru_cache(maxsize=1)
def reference():
    """mlx-whisper's own tokenizer of the same set: the witness, and the source of languages and suppressed tokens."""
    from mlx_whisper.tokenizer import get_tokenizer

    return get_tokenizer(multilingual=True, num_languages=99, language="en", task="transcribe")


def languages() -> tuple[str, ...]:
    """The 99 language codes in id order, from ``<|en|>`` on."""
    from mlx_whisper.tokenizer import LANGUAGES

    return tuple(LANGUAGES)[:99]


def specials() -> list[str]:
    """The named tokens after the byte-pair table, in id order, without the 1,501 times."""
    rest = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    return [END, START, *(f"<|{name}|>" for name in (*languages(), *rest))]


def times() -> list[str]:
    """``<|0.00|>`` to ``<|30.00|>`` in steps of 0.02 s."""
    return [f"<|{step * 0.02:.2f}|>" for step in range(1501)]


def suppressed() -> list[int]:
    """Tokens Whisper never generates: signs of annotations, and the special tokens that only a prompt may hold."""
    whisper = reference()
    hidden = (whisper.sot, whisper.translate, whisper.transcribe, whisper.sot_lm, whisper.sot_prev, whisper.no_speech)
    return sorted({*whisper.non_speech_tokens, *hidden})


def _ranks() -> dict[bytes, int]:
    lines = (_assets() / "multilingual.tiktoken").read_text().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def _letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair whose joining makes ``token``, or None for a token that the algorithm cannot reach."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(first + second, ranks[token]) for first, second in zip(parts, parts[1:], strict=False)]
        best = min(joined)
        if best >= ranks[token]:
            return None
        place = joined.index(best)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


@functools.lru_cache(maxsize=1)
def build():
    """The tokenizer as a ``tokenizers.Tokenizer``; the same ids as mlx-whisper's on any text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    ranks, letters = _ranks(), _letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    pairs = [_last_merge(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    merges = [(spell(pair[0]), spell(pair[1])) for pair in pairs if pair]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials()])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in times()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} <|notimestamps|> $A:0 {END}:0",
        pair=f"{START} <|notimestamps|> $A:0 $B:1 {END}:1",
        special_tokens=[(START, START_ID), ("<|notimestamps|>", NO_TIMESTAMPS_ID), (END, END_ID)],
    )
    return tokenizer


def encode(text: str) -> list[int]:
    """Ids of ``text`` without any special token."""
    return build().encode(text, add_special_tokens=False).ids


def save(folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"), pretty=False)
    named = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 448,
        "additional_special_tokens": specials(),
        **named,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    side = {**named, "additional_special_tokens": specials()}
    (folder / "special_tokens_map.json").write_text(json.dumps(side, indent=2) + "\n")
