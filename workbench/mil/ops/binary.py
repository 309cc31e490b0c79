"""Elementwise functions of two tensors with numpy's broadcasting, and the choice between two by a third."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.mil.registry import Family, Tensor

binary = Family("elementwise_binary")

_SAME_IN_TORCH = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,  # integers wrap; a negative power of an integer is truncated towards zero
    "sub": torch.sub,
}
_SELECTING = {
    "maximum": torch.maximum,  # NaN if either is NaN: np.maximum in value_inference
    "minimum": torch.minimum,
}


def _declare(name: str, function: Callable[[Tensor, Tensor], Tensor], moves: bool) -> None:
    @binary.op(name, moves=moves)
    def handler(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


for _name, _function in _SAME_IN_TORCH.items():
    _declare(_name, _function, False)
for _name, _function in _SELECTING.items():
    _declare(_name, _function, True)


def _divide(x: Tensor, y: Tensor, rounding: str) -> Tensor:
    """Of integers. By zero: 0, as numpy's integer division and Arm's sdiv; torch raises on a CPU, and a `select` that follows may
    throw that very value away. In int64, where the least int32 over -1 fits."""
    zero = y == 0
    return torch.div(x.to(torch.int64), y.masked_fill(zero, 1), rounding_mode=rounding).masked_fill_(zero, 0)


@binary.op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """Rounded towards negative infinity, integers and floats alike."""
    return torch.floor_divide(x, y) if x.is_floating_point() else _divide(x, y, "floor")


@binary.op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """The sign of the divisor: Python's ``%``, which is value_inference; 0 for an integer divided by zero, as numpy.

    Apple's runtime is reported to give the sign of the dividend where the two differ
    (https://github.com/kasper0406/stablehlo-coreml/pull/70); the converters' own front ends avoid the op for that case.
    """
    if x.is_floating_point():
        return torch.remainder(x, y)
    zero = y == 0
    return torch.remainder(x.to(torch.int64), y.masked_fill(zero, 1)).masked_fill_(zero, 0)


@binary.op("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Of integers: an integer, truncated towards zero, as TensorFlow's division that coremltools follows
    (converters/mil/mil/passes/defs/optimize_elementwise_binary.py, divide_to_multiply)."""
    return torch.div(x, y) if x.is_floating_point() else _divide(x, y, "trunc")


@binary.op("select", module="control_flow", moves=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)
