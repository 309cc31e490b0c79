"""Small modules as stages for the ONNX converter, exported once a process; only to be read. Lines without a translation are marked."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn

from workbench.convert.onnx.graphs import StageGraph, graph_of  # noqa: E402
from workbench.convert.stages.stage import Stage  # noqa: E402

WIDTH, TOKENS, MOST = 32, 40, 24


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH) / 6)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, mask):
        given = self.norm(x)
        shares = torch.softmax(self.query(given) @ self.key(given).transpose(1, 2) / 6 + mask[0], -1)
        return self.dropout(x + (shares @ given) @ self.out)


class Language(nn.Module):
    """Tied embeddings, a table that int32 positions look up, two blocks."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(TOKENS, WIDTH)
        self.register_buffer("places", torch.randn(MOST, WIDTH) / 6)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embeddings.weight

    def forward(self, tokens, positions, mask):
        x = self.embeddings(tokens) + self.places[positions[0]]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x), torch.cat([x, x], 1)


LAYERS = {"embeddings": "text.embeddings", **{f"blocks.{n}": f"text.block.{n}" for n in (0, 1)}, "blocks.1.norm": "text.norm"}


@cache
def language() -> Stage:
    torch.manual_seed(7)
    return Stage(
        "prefill",
        Language().eval(),
        {name: torch.from_numpy(value) for name, value in feed(6).items()},
        ("logits", "twice"),
        {"tokens": {1: "T"}, "positions": {1: "T"}, "mask": {2: "T", 3: "T"}},
        {"T": (2, MOST)},
        layers=LAYERS,
        parameters={"embeddings.weight": "model.embed.weight"},
    )


@cache
def language_graph() -> StageGraph:
    return graph_of(language(), 20)


def feed(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    mask = np.triu(np.full((1, 1, length, length), -30000.0, np.float32), 1)
    tokens = drawn.integers(0, TOKENS, (1, length)).astype(np.int32)
    return {"tokens": tokens, "positions": np.arange(length, dtype=np.int32)[None], "mask": mask}


def alone(module: nn.Module, outputs: tuple[str, ...] = ("y",), **more) -> Stage:
    """``module`` over ``x`` (2, 6)."""
    torch.manual_seed(9)
    return Stage("main", module.eval(), {"x": torch.randn(2, 6)}, outputs, **more)


class Decomposed(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]  # no translation


class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # data-dependent
            return x + 1
        return x - 1


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x * 2)


class Strict(nn.Module):
    """Ops whose keyword arguments a converter may pass over."""

    def forward(self, x):
        gelu = nn.functional.gelu(x, approximate="tanh") + nn.functional.gelu(x)
        spread = torch.std(x, -1, keepdim=True) + x.var() + torch.std(x, -1, correction=0, keepdim=True)
        return torch.add(gelu, x, alpha=3) + torch.sub(x, spread, alpha=2) + torch.div(x, 0.7, rounding_mode="floor")


class Kinds(nn.Module):
    """Whole numbers, truths, the same value twice, and one that depends on no input's values."""

    def forward(self, x):
        return x.argmax(-1), x > 0, x + 1, x + 1, x.double() * 2, torch.ones(2, 3)
