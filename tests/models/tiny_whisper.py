"""A tiny random Whisper folder in the published layout (1.7 million weights, most of them the 51,865 embeddings), and a decoder without
weights whose logits a test writes down. The tokenizer is the demo model's: the standard token set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy

from workbench import locate
from workbench.models.whisper_tokens import WhisperTokens

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 32, 2, 2, 51865, 448
END, FIRST_TIMESTAMP = 50257, 50364


def demo_folder() -> Path:
    return locate.demo_model("stt")


def build(folder: Path, seed: int = 0, end_at: int = 16) -> Path:
    """Positions speak louder than in a trained model, so that the tokens vary; around position ``end_at`` the end token is likely."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=80,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=1500,
        max_target_positions=POSITIONS,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=50258,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "encoder.embed_positions" not in name:
                    loud = 6.0 if "q_proj" in name or "k_proj" in name else 1.5
                    weight.normal_(
                        0, 0.2 if "embed_tokens" in name else 2.0 if "embed" in name else loud * weight[0].numel() ** -0.5
                    )
            decoder = model.model.decoder
            decoder.layer_norm.weight.fill_(4.0)
            decoder.embed_positions.weight[end_at] += 20 * decoder.embed_tokens.weight[END]
    model.save_pretrained(folder)
    for path in demo_folder().iterdir():
        if path.name not in ("model.safetensors", "config.json", "generation_config.json"):
            shutil.copy(path, folder)
    generation = json.loads((demo_folder() / "generation_config.json").read_text())
    generation["alignment_heads"] = [[1, 0], [1, 1]]
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


LETTERS = "abcdefg "
SMALL_END = len(LETTERS)
SMALL_SPECIAL = (
    "endoftext",
    "startoftranscript",
    "en",
    "de",
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)
SMALL_FIRST_TIMESTAMP = SMALL_END + len(SMALL_SPECIAL)
SMALL_VOCABULARY = SMALL_FIRST_TIMESTAMP + 51
"""Times up to one second."""


def small_tokens() -> WhisperTokens:
    """One token a letter; ``a`` to ``g`` and the space are all the text there is."""
    special = {f"<|{name}|>": SMALL_END + place for place, name in enumerate(SMALL_SPECIAL)}

    def pieces(text: str) -> list[int]:
        return [LETTERS.index(each) for each in text if each in LETTERS] or [0]

    return WhisperTokens.of(
        special,
        SMALL_VOCABULARY,
        pieces=pieces,
        text=lambda ids: "".join(LETTERS[each] if each < SMALL_END else f"<{each}>" for each in ids),
        source="small",
        multilingual=True,
    )


class Scripted:
    """A ``SpeechRuntime`` whose logits are ``logits(window, tokens)``: float32 (vocabulary,) after ``tokens`` of the window whose log-mel
    begins with the number ``window``. Caches are the tokens themselves; ``batches`` notes how many rows each call had."""

    mels, frames, text_positions, vocabulary = 80, 100, 64, SMALL_VOCABULARY
    model = None

    def __init__(self, logits):
        self.logits = logits
        self.batches: list[int] = []

    def encode(self, mel):
        self.batches.append(len(mel))
        return numpy.asarray(mel)[:, 0, 0].copy()

    def select(self, encoded, rows):
        return encoded[list(rows)]

    def start(self, encoded, tokens):
        encoded = numpy.repeat(encoded, len(tokens)) if len(encoded) == 1 else encoded
        cache = [(window, [int(each) for each in row]) for window, row in zip(encoded, tokens, strict=True)]
        return self._all(cache), cache

    def step(self, tokens, cache):
        cache = [(window, [*row, int(token[0])]) for (window, row), token in zip(cache, tokens, strict=True)]
        return numpy.stack([self.logits(window, row) for window, row in cache]).astype(numpy.float32), cache

    def reorder(self, cache, rows):
        return [cache[row] for row in rows]

    def teacher_forced(self, encoded, tokens):
        return self.start(encoded, tokens)[0]

    def cross_attention(self, encoded, tokens):
        count = tokens.shape[1]
        places = numpy.arange(self.frames // 2)
        centres = (numpy.arange(count) + 0.5) * (self.frames // 2) / count
        one = numpy.exp(-0.5 * (places[None, :] - centres[:, None]) ** 2)
        return numpy.broadcast_to(one / one.sum(axis=-1, keepdims=True), (2, 2, *one.shape))

    def _all(self, cache):
        return numpy.stack(
            [numpy.stack([self.logits(window, row[: end + 1]) for end in range(len(row))]) for window, row in cache]
        ).astype(numpy.float32)


def says(text: str, sharp: float = 8.0):
    """Logits that write ``text`` (letters) and then end, whatever was written before."""
    wanted = [LETTERS.index(each) for each in text] + [SMALL_END]

    def logits(window, tokens):
        start = max(place for place, token in enumerate(tokens) if token > SMALL_END) + 1
        found = numpy.zeros(SMALL_VOCABULARY, dtype=numpy.float32)
        found[wanted[min(len(tokens) - start, len(wanted) - 1)]] = sharp
        return found

    return logits


def wave(seconds: float = 2.0, seed: int = 0):
    """Samples at 16 kHz: a few tones and a little noise."""
    random = numpy.random.default_rng(seed)
    times = numpy.arange(int(seconds * 16_000)) / 16_000
    tones = sum(numpy.sin(2 * numpy.pi * pitch * times) for pitch in random.uniform(100, 2000, 4))
    return (0.1 * tones + 0.01 * random.standard_normal(len(times))).astype(numpy.float32)
