"""Running a torch model in another precision for a while: how torch's own rounding error is measured.

    with in_precision(model, "float64"):
        model(...)

Only weights and saved buffers change, as if the model had been loaded so. What a model computes for itself when it is made (rotary
frequencies) stays as it is: loading in bfloat16 does not round it either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MORE_EXACT = {"float16": "float32", "bfloat16": "float32", "float32": "float64"}
"""What torch's own error in a precision is measured against."""


@contextmanager
def in_precision(model: Any, dtype: str) -> Iterator[None]:
    """Within, the model's floating-point weights are ``dtype``; afterwards they are the very tensors that they were."""
    import torch

    wanted = getattr(torch, dtype)
    saved = set(model.state_dict())
    tensors = [*model.named_parameters(), *((name, each) for name, each in model.named_buffers() if name in saved)]
    before = [(each, each.data) for _, each in tensors if each.is_floating_point()]
    try:
        with torch.no_grad():
            for each, data in before:
                each.data = data.to(wanted)
        yield
    finally:
        for each, data in before:
            each.data = data
