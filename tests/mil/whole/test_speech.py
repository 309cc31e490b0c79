"""Speech models: both halves of Whisper-tiny, which write the same tokens as torch, and the HiFi-GAN vocoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.mil.whole.comparing import PUBLISHED, judge
from workbench.mil import load

pytestmark = pytest.mark.slow

LAYERS, WORDS, START, SEED = (4, 51865, 50258, 5) if PUBLISHED else (2, 2000, 1, 12)
"""Of Whisper: the seed is one with which no two scores are nearly equal."""
LENGTH = 24
"""Tokens that the decoder sees at once; those after the last one written are masked."""


class Encoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel):
        return self.model(mel).last_hidden_state


class Decoder(nn.Module):
    """The tokens written so far and the position of the last one to the scores of the next; the causal mask is a constant, for
    transformers makes its own by Python code that cannot be traced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mask", torch.full((1, 1, LENGTH, LENGTH), -1e4).triu(1))

    def forward(self, tokens, last, heard):
        x = self.model.embed_tokens(tokens) + self.model.embed_positions.weight[:LENGTH]
        for layer in self.model.layers:
            x = layer(x, self.mask, heard, use_cache=False)
        x = self.model.layer_norm(x)[0]
        return torch.index_select(x, 0, last) @ self.model.embed_tokens.weight.T


@pytest.fixture(scope="module")
def whisper() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Encoder, decoder, and what a microphone might give."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder

    torch.manual_seed(SEED)
    sizes = {
        f"{half}_{what}": number for half in ("encoder", "decoder") for what, number in (("layers", LAYERS), ("attention_heads", 6))
    }
    # Wider than where training starts, so that scores depend on all that was said and heard; the sizes are openai/whisper-tiny's.
    sizes |= {"d_model": 384, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "vocab_size": WORDS}
    marks = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), WORDS - 1)
    config = WhisperConfig(init_std=0.07, **sizes, **marks)
    encoder, decoder = Encoder(WhisperEncoder(config)), Decoder(WhisperDecoder(config))
    nn.init.normal_(decoder.model.embed_tokens.weight, std=0.02)
    nn.init.normal_(decoder.model.embed_positions.weight, std=0.12)
    return encoder.eval(), decoder.eval(), torch.randn(1, 80, 3000)


def greedy(score: Callable[[torch.Tensor, torch.Tensor], Any]) -> list[int]:
    """Each token the one with the highest score, from the start token on."""
    tokens = torch.zeros(1, LENGTH, dtype=torch.int32)
    tokens[0, 0] = START
    for place in range(LENGTH - 1):
        tokens[0, place + 1] = int(np.argmax(score(tokens, torch.tensor([place], dtype=torch.int32))))
    return tokens[0].tolist()


def test_whisper_tiny_encoder(tmp_path: Path, whisper: tuple[nn.Module, nn.Module, torch.Tensor]) -> None:
    judge(whisper[0], [whisper[2]], tmp_path)


def test_whisper_tiny_decoder(tmp_path: Path, whisper: tuple[nn.Module, nn.Module, torch.Tensor]) -> None:
    """The scores of one step, then a whole text: every token as torch writes it in fp32, in all readings."""
    encoder, decoder, mel = whisper
    with torch.inference_mode():
        heard = encoder(mel)
        wanted = greedy(lambda tokens, last: decoder(tokens, last, heard))
    assert len(set(wanted)) > LENGTH // 2, "a text that repeats itself would say nothing"
    args = [torch.tensor([wanted], dtype=torch.int32), torch.tensor([LENGTH - 1], dtype=torch.int32), heard.clone()]
    judge(decoder, args, tmp_path)
    for name, readings in (("fp32", ["native"]), ("fp16", ["native", "emulate", "fp16-weights"])):
        for reading in readings:
            program = load(tmp_path / f"{name}.mlpackage", precision=reading)
            (scores,) = (feature.name for feature in program.outputs)

            def score(tokens: torch.Tensor, last: torch.Tensor, program: Any = program, scores: str = scores) -> Any:
                given = zip((feature.name for feature in program.inputs), (tokens, last, heard), strict=True)
                return program.predict(dict(given))[scores]

            assert greedy(score) == wanted, (name, reading)


def test_hifi_gan(tmp_path: Path) -> None:
    """All its parts (normalisation, four upsamplers, three kernels of three dilations each), with 32 channels where it has 512."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(0)
    model = SpeechT5HifiGan(SpeechT5HifiGanConfig(upsample_initial_channel=32, initializer_range=0.1)).eval()
    nn.init.normal_(model.mean)
    nn.init.uniform_(model.scale, 0.5, 2)
    judge(model, [torch.randn(1, 16, 80)], tmp_path)
