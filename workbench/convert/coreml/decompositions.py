"""Torch ops that coremltools 9.0 does not know, or converts as something else without a word, written with ops that it converts rightly.

    exported.run_decompositions(decompositions())

Its torch.export frontend passes over keyword arguments where the function of an op does not ask for them: ``gelu(approximate="tanh")``,
which the towers of SigLIP compute, becomes the exact one; ``add(alpha=3)`` loses its factor; ``std()`` and ``var()`` without arguments
their correction (converters/mil/frontend/torch/ops.py: gelu, add, sub, std, var_correction). An op that an entry here returns ``NotImplemented`` for stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What ``ExportedProgram.run_decompositions`` is given."""
    import torch

    aten = torch.ops.aten
    return {
        aten.alias.default: lambda value: value,  # x[:, 0:]
        aten.gelu.default: _gelu,
        aten.add.Tensor: lambda one, other, alpha=1: _scaled(aten.add.Tensor, one, other, alpha),
        aten.sub.Tensor: lambda one, other, alpha=1: _scaled(aten.sub.Tensor, one, other, alpha),
        aten.std.correction: lambda value, dim=None, *, correction=None, keepdim=False: _spread(
            aten.std.correction, value, dim, correction, keepdim
        ),
        aten.var.correction: lambda value, dim=None, *, correction=None, keepdim=False: _spread(
            aten.var.correction, value, dim, correction, keepdim
        ),
        aten.rms_norm.default: _rms_norm,
    }


def _gelu(value: Any, approximate: str = "none") -> Any:
    """As coremltools' pass ``fuse_gelu_tanh_approximation`` knows it: it becomes MIL's own op again."""
    if approximate != "tanh":
        return NotImplemented
    inner = math.sqrt(2 / math.pi) * (value + 0.044715 * value.pow(3))
    return 0.5 * value * (1 + inner.tanh())


def _scaled(op: Any, one: Any, other: Any, alpha: Any) -> Any:
    return NotImplemented if alpha == 1 else op(one, other * alpha)


def _spread(op: Any, value: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    if correction is not None and dim is not None:
        return NotImplemented
    every = list(range(value.dim()))
    return op(value, every if dim is None else dim, correction=1 if correction is None else correction, keepdim=keepdim)


def _rms_norm(value: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    """coremltools' own takes all four arguments only, and divides by the largest value first, which rounds."""
    import torch

    eps = torch.finfo(value.dtype).eps if eps is None else eps
    axes = [-1 - place for place in range(len(shape))]
    normed = value * torch.rsqrt(value.pow(2).mean(axes, keepdim=True) + eps)
    return normed if weight is None else normed * weight
