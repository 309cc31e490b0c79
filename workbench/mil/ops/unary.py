"""Elementwise functions of one tensor, and casts between types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbench.mil.registry import Context, Family, Tensor
from workbench.mil.types import BITS, INTEGERS, torch_dtype

unary = Family("elementwise_unary")

_SAME_IN_TORCH = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # half to even, as numpy
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def _declare(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @unary.op(name)
    def handler(x: Tensor) -> Tensor:
        return function(x)


for _name, _function in _SAME_IN_TORCH.items():
    _declare(_name, _function)


def to_integers(x: Tensor, dtype: str) -> Tensor:
    """Floats as MIL type ``dtype``: truncated towards zero; what does not fit becomes the nearest end of the type, NaN becomes 0.

    The sources leave what does not fit to the machine; this is what the processors that run Core ML do (fcvtzs in the Arm
    manual, and Metal), and it is the same on every device here.
    """
    bits = BITS[dtype]
    low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)
    # float64 holds the ends of every type up to 32 bits.
    return x.to(torch.float64).nan_to_num_(nan=0.0).clamp_(low, high).to(torch_dtype(dtype))


@unary.bind("cast")
def cast(x: Tensor, dtype: str, context: Context) -> Callable[[Tensor], Tensor]:
    """Floats to integers as `to_integers` says; integers to narrower ones keep their low bits (numpy's astype, which is
    value_inference); anything to bool is ``x != 0``."""
    wanted = torch_dtype(dtype, context.half)
    if dtype in INTEGERS and x.is_floating_point():
        return lambda x: to_integers(x, dtype)
    if dtype in ("uint16", "uint32"):  # held in the next wider signed type
        mask = (1 << BITS[dtype]) - 1
        return lambda x: x.to(wanted) & mask
    return lambda x: x.to(wanted)


@unary.op("clip", moves=True)
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Where alpha > beta (iOS17 refuses it) the result is beta: the upper bound comes last."""
    return torch.clamp(x, alpha, beta)


@unary.op("exp2")
def exp2(x: Tensor) -> Tensor:
    """Of integers: an integer, so 0 for negative ones."""
    return torch.exp2(x) if x.is_floating_point() else to_integers(torch.exp2(x.to(torch.float64)), "int32")


@unary.op("sign")
def sign(x: Tensor) -> Tensor:
    """NaN stays NaN, as in value_inference; torch makes it 0."""
    return torch.where(x.isnan(), x, x.sign()) if x.is_floating_point() else x.sign()


@unary.op("threshold", moves=True)
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


def _epsilon(given: float | None, default: float, x: Tensor, context: Any) -> float:
    """The default is a value of x's type: 1e-12 and 1e-45 are 0 in fp16 (default_inputs)."""
    if given is not None:
        return given
    kind = torch.float16 if context.output_types[0].dtype == "fp16" else torch.float32
    return torch.tensor(default, dtype=kind).item()


@unary.bind("inverse")
def inverse(x: Tensor, epsilon: float | None = None, context: Any = None) -> Callable[[Tensor], Tensor]:
    """1 / (x + epsilon)."""
    shift = _epsilon(epsilon, 1e-4, x, context)
    return lambda x: (x + shift).reciprocal_()


@unary.bind("log")
def log(x: Tensor, epsilon: float | None = None, context: Any = None) -> Callable[[Tensor], Tensor]:
    """log(x + epsilon)."""
    shift = _epsilon(epsilon, 1e-45, x, context)
    return lambda x: (x + shift).log_()


@unary.bind("rsqrt")
def rsqrt(x: Tensor, epsilon: float | None = None, context: Any = None) -> Callable[[Tensor], Tensor]:
    """1 / sqrt(x + epsilon)."""
    shift = _epsilon(epsilon, 1e-12, x, context)
    return lambda x: (x + shift).rsqrt_()
