"""Tiny models converted for Core ML, whole or damaged on purpose; and a small attention whose every part can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from workbench.convert.coreml import programs  # noqa: E402
from workbench.convert.coreml.build import build  # noqa: E402
from workbench.convert.coreml.recipe import Recipe  # noqa: E402
from workbench.convert.stages.stage import Stage  # noqa: E402
from workbench.convert.subject import subject_of  # noqa: E402

WIDTH, LENGTH = 32, 12


def converted(source: Path | str, out: Path, damage: Callable[[Any], None] | None = None, **recipe: Any) -> Path:
    """The artifact of a checkpoint. ``damage`` changes the stages' modules after they were loaded: what a wrong converter would write."""
    wanted = Recipe(**recipe).check()
    subject = subject_of(str(source))
    if damage is not None:
        damage(subject.stages(wanted))
    return build(subject, out, wanted, check=False).folder


def in_half(monkeypatch: Any) -> None:
    """From here on conversions compute in fp16, whatever their recipe asks for."""
    real = programs.convert_stage
    monkeypatch.setattr(
        programs, "convert_stage", lambda stage, recipe, **more: real(stage, replace(recipe, precision="fp16"), **more)
    )


class Attention(torch.nn.Module):
    """One head with rotary positions and a mask that it holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.scale = WIDTH**-0.5
        angles = torch.arange(LENGTH)[:, None] / 100 ** (torch.arange(WIDTH // 2) / (WIDTH // 2))
        self.register_buffer("turn", torch.cat([angles, angles], 1))
        self.register_buffer("mask", torch.triu(torch.full((LENGTH, LENGTH), -30000.0), 1))

    def turned(self, x: Any, angles: Any) -> Any:
        half = torch.cat([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], -1)
        return x * torch.cos(angles) + half * torch.sin(angles)

    def forward(self, x: Any) -> Any:
        query, key = self.turned(self.query(x), self.turn), self.turned(self.key(x), self.turn)
        scores = query @ key.transpose(1, 2) * self.scale
        return x + self.out(torch.softmax(scores + self.mask, -1) @ self.value(x))


def make() -> tuple[Any, dict[str, Any]]:
    """What ``workbench convert file.py:make`` is given."""
    torch.manual_seed(5)
    return Attention().eval(), {"x": torch.zeros(1, LENGTH, WIDTH)}


def attention(damage: Callable[[Any], None] | None = None) -> Stage:
    """The stage ``main``; with ``damage``, of the same graph."""
    module, example = make()
    if damage is not None:
        with torch.no_grad():
            damage(module)
    return Stage("main", module, example, ("y",), layers={"query": "text.block.0.query"})


def feeds(count: int = 2) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(4)
    return [{"x": drawn.normal(size=(1, LENGTH, WIDTH)).astype(np.float32)} for _ in range(count)]
