"""One loaded program, many shapes: ranges of batch and sequence, listed shapes, and inputs that may be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.mil.whole.comparing import FP32, TIMES_HALF, convert, outputs, relative
from workbench.mil import InputError, load


class Sentences(nn.Module):
    """A transformer layer by hand, with positions, for any number of sentences of any length; a summary of each."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, 24), nn.Embedding(48, 24)
        self.norm, self.all, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, tokens):
        batch, length = tokens.shape
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        query, key, value = self.all(self.norm(x)).reshape(batch, length, 3, 4, 6).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=False)
        x = x + self.out(found.transpose(1, 2).reshape(batch, length, 24))
        return x, x.mean(1).softmax(-1)


class Audio(nn.Module):
    """Convolutions and a recurrent network over any number of samples, brought to twelve frames and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 8, 5, stride=2, padding=2), nn.Conv1d(8, 12, 3, stride=2)
        self.network = nn.GRU(12, 10, batch_first=True)

    def forward(self, wave):
        x = F.relu(self.second(F.gelu(self.first(wave))))
        x, last = self.network(x.transpose(1, 2))
        x = F.pad(x, (0, 0, 1, 2))
        return torch.cat([x, x.flip(1)], -1), last[0], x[:, ::2].flatten(1).sum(1)


def judged(model: nn.Module, program: Any, half: bool, args: list[torch.Tensor]) -> None:
    given = {feature.name: each.numpy() for feature, each in zip(program.inputs, args, strict=True)}
    exact, plain = outputs(model, args, torch.float64), outputs(model, args, torch.float16 if half else torch.float32)
    for _ in range(2):
        found = list(program.predict(given).values())
        assert [each.shape for each in found] == [each.shape for each in plain]
        bound = TIMES_HALF * relative(plain, exact) if half else max(FP32, 2 * relative(plain, exact))
        assert relative(found, exact if half else plain) <= bound


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_batch_and_sequence(tmp_path: Path, half: bool) -> None:
    """Shapes by turns, more of them than plans are kept, each twice; what lies outside is refused by name."""
    torch.manual_seed(0)
    model = Sentences().eval()
    shape = (ct.RangeDim(1, 4, default=1), ct.RangeDim(2, 48, default=6))
    options: dict[str, Any] = {"inputs": [ct.TensorType("tokens", shape=shape, dtype=np.int32)], "half": half}
    program = load(convert(model, [torch.randint(0, 30, (2, 6))], tmp_path / "p.mlpackage", **options))
    assert program.inputs[0].ranges == ((1, 4), (2, 48)) and program.inputs[0].shape == (None, None)
    for batch, length in [(1, 6), (4, 48), (1, 2), (3, 7), *((2, length) for length in range(2, 20)), (1, 6), (4, 48)]:
        judged(model, program, half, [torch.randint(0, 30, (batch, length), dtype=torch.int32)])
    for wrong in ((5, 6), (1, 1), (1, 49), (6,), (1, 6, 1)):
        with pytest.raises(InputError, match=r"tokens.*shape"):
            program.predict({"tokens": np.zeros(wrong, np.int32)})


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_recurrent_network_over_any_length(tmp_path: Path, half: bool) -> None:
    torch.manual_seed(0)
    model = Audio().eval()
    shape = (1, 1, ct.RangeDim(20, 400, default=64))
    program = load(
        convert(model, [torch.randn(1, 1, 64)], tmp_path / "p.mlpackage", inputs=[ct.TensorType("wave", shape=shape)], half=half)
    )
    for length in (64, 20, 399, 101, 64):
        judged(model, program, half, [torch.randn(1, 1, length)])


def test_listed_shapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sentences().eval()
    listed = [(1, 6), (2, 12), (3, 24)]
    shapes = ct.EnumeratedShapes(shapes=listed, default=(2, 12))
    options: dict[str, Any] = {"inputs": [ct.TensorType("tokens", shape=shapes, dtype=np.int32)]}
    program = load(convert(model, [torch.randint(0, 30, (2, 12))], tmp_path / "p.mlpackage", **options))
    assert set(program.inputs[0].enumerated) == set(listed)
    for shape in (*listed, *listed[::-1]):
        judged(model, program, False, [torch.randint(0, 30, shape, dtype=torch.int32)])
    with pytest.raises(InputError, match="tokens"):
        program.predict({"tokens": np.zeros((1, 12), np.int32)})


class Weighted(nn.Module):
    def forward(self, x, gain, offset):
        return x * gain + offset


def test_inputs_that_may_be_left_out(tmp_path: Path) -> None:
    """What is not given has its default value everywhere; what has none must be given."""
    inputs = [
        ct.TensorType("x", shape=(2, 3)),
        ct.TensorType("gain", shape=(2, 3), default_value=np.full((2, 3), 2.5, np.float32)),
        ct.TensorType("offset", shape=(1, 3), default_value=np.zeros((1, 3), np.float32)),
    ]
    example = [torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 3)]
    program = load(convert(Weighted(), example, tmp_path / "p.mlpackage", inputs=inputs))
    assert [feature.optional for feature in program.inputs] == [False, True, True]
    x, gain, offset = (np.random.default_rng(0).standard_normal(each.shape).astype(np.float32) for each in example)
    for given, wanted in (
        ({"x": x}, x * np.float32(2.5)),
        ({"x": x, "gain": gain}, x * gain),
        ({"x": x, "offset": offset}, x * np.float32(2.5) + offset),
        ({"x": x, "gain": gain, "offset": offset}, x * gain + offset),
        ({"x": x, "gain": None, "offset": None}, x * np.float32(2.5)),
    ):
        (found,) = program.predict(given).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="'x' is missing"):
        program.predict({"gain": gain, "offset": offset})
