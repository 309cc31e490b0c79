"""Small modules as stages, converted once a process; only to be read. Lines that cannot be converted are marked for the tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")
nn = torch.nn

from tests.mil.building import freeze_imports  # noqa: E402
from workbench.convert.coreml.programs import ConvertedStage, convert_stage  # noqa: E402
from workbench.convert.coreml.recipe import Recipe  # noqa: E402
from workbench.convert.stages.stage import Stage  # noqa: E402

WIDTH, TOKENS, MOST = 64, 50, 24
freeze_imports()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH) / 8)  # x @ out: the converter stores the transpose

    def forward(self, x, mask):
        shares = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 8 + mask[0], -1)
        return (shares @ self.value(x)) @ self.out


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, mask):
        return self.dropout(x + self.attention(self.norm(x), mask))


class Language(nn.Module):
    """Tied embeddings, a convolution of 16 channels with a batch norm behind it, two blocks, a buffer that is computed with."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(TOKENS, WIDTH)
        self.narrow = nn.Linear(WIDTH, 16)
        self.widen = nn.Conv1d(16, WIDTH, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.register_buffer("mixing", torch.randn(WIDTH, WIDTH) / 8)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embeddings.weight
        nn.init.uniform_(self.batch_norm.running_mean)

    def forward(self, tokens, mask):
        x = self.embeddings(tokens)
        x = x + self.batch_norm(self.widen(self.narrow(x).transpose(1, 2))).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        x = x @ (self.mixing * 2)
        return self.head(x), x


LAYERS = {
    "embeddings": "text.embeddings",
    "widen": "text.widen",
    "batch_norm": "text.batch_norm",
    **{f"blocks.{n}": f"text.block.{n}" for n in (0, 1)},
    **{f"blocks.{n}.{part}": f"text.block.{n}.{part}" for n in (0, 1) for part in ("norm", "attention")},
}


@cache
def language() -> Stage:
    torch.manual_seed(7)
    return Stage(
        "main",
        Language().eval(),
        {"tokens": torch.zeros(1, 9, dtype=torch.int32), "mask": torch.zeros(1, 1, 9, 9)},
        ("logits", "hidden"),
        dynamic={"tokens": {1: "T"}, "mask": {2: "T", 3: "T"}},
        bounds={"T": (2, MOST)},
        layers=LAYERS,
        parameters={"embeddings.weight": "model.embed.weight"},
    )


@cache
def converted(precision: str = "fp32", keep_fp32: tuple[str, ...] = ()) -> ConvertedStage:
    return convert_stage(language(), Recipe(precision=precision, keep_fp32=keep_fp32))


def asked(found: ConvertedStage, quantize: str | None) -> ConvertedStage:
    """``found`` as if its recipe asked for a compression."""
    return replace(found, recipe=replace(found.recipe, quantize=quantize))


def feed(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    mask = np.triu(np.full((1, 1, length, length), -30000.0, np.float32), 1)
    return {"tokens": drawn.integers(0, TOKENS, (1, length)).astype(np.int32), "mask": mask}


def by_torch(stage: Stage, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [value.numpy() for value in stage.module(*(torch.from_numpy(given[name]) for name in stage.example))]


class Memory(nn.Module):
    """Two states, both written last of all: the order that coremltools' own pass loses its place in."""

    def __init__(self, dtype=torch.float16):
        super().__init__()
        self.register_buffer("sums", torch.zeros(4, 32, dtype=dtype))
        self.register_buffer("last", torch.zeros(4, 32, dtype=dtype))
        self.mix = nn.Linear(32, 32)

    def forward(self, x):
        mixed = self.mix(x) + self.sums.float() + 2 * self.last.float()
        sums, last = self.sums.float() + x, x * 1
        self.sums.copy_(sums.to(torch.float16))
        self.last.copy_(last.to(torch.float16))
        return mixed


def memory(**more) -> Stage:
    torch.manual_seed(8)
    return Stage("step", Memory().eval(), {"x": torch.zeros(4, 32)}, ("y",), **{"states": ("sums", "last"), **more})


class Part(nn.Module):
    """A stage over one shared layer: what prefill and step are to each other."""

    def __init__(self, shared, own):
        super().__init__()
        self.shared, self.own = shared, own

    def forward(self, x):
        return self.own(self.shared(x))


class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # data-dependent
            return x + 1
        return x - 1


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).real  # not convertible


class Buckets(nn.Module):
    def forward(self, x):
        return torch.bucketize(x, torch.arange(4.0))  # not known


class Six(nn.Module):
    def forward(self, x):
        return x.reshape(1, 1, 1, 2, 1, 7) + 1  # of rank 6


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x * 2)


class Seven(nn.Module):
    def forward(self, x):
        return x + torch.zeros(7)
