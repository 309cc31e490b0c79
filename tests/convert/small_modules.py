"""Modules of a user's own for the converter: a file with factories, as it is named on the command line."""

from __future__ import annotations

from pathlib import Path

SMALL = '''
import torch


class Small(torch.nn.Module):
    """``wide`` can be compressed in blocks of 32, ``narrow`` has 16 input channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.wide = torch.nn.Linear(64, 64)
        self.narrow = torch.nn.Linear(16, 160)

    def forward(self, x):
        return torch.softmax(self.narrow(torch.tanh(self.wide(x))[:, :16]), -1)


def make():
    torch.manual_seed(5)
    return {"module": Small(), "example": {"x": torch.randn(2, 64)}, "outputs": ["scores"]}
'''


def small(folder: Path, extra: str = "") -> str:
    """``FOLDER/small.py:make``."""
    path = folder / "small.py"
    path.write_text(SMALL + extra)
    return f"{path}:make"
