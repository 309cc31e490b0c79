"""Constants as the executor uses them: decompressed once, in the type that carries them, on the device.

A cell is a constant of the program or an op whose inputs are all constants (every ``constexpr_*``): computed on first use, or at
load when small, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from workbench.mil.graph import Constant
from workbench.mil.types import TensorType, torch_dtype


class Cell:
    """A lazy value. ``type`` is the declared MIL type. ``passing``: read once, on the way to another constant, and not kept."""

    def __init__(self, type: Any, compute: Callable[[], Any]):
        self.type = type
        self.passing = False
        self._compute: Callable[[], Any] | None = compute
        self._value: Any = None

    @property
    def value(self) -> Any:
        """A tensor, str, list or dict; the same object every time."""
        if self._compute is not None:
            value = self._compute()
            if self.passing:
                return value
            self._value, self._compute = value, None
        return self._value


def constant_cell(constant: Constant, half: torch.dtype, device: torch.device) -> Cell:
    """A constant of the program as a cell; ``half`` carries fp16."""
    return Cell(constant.type, lambda: held(constant.type, constant.value(), half, device))


def held(kind: Any, value: Any, half: torch.dtype, device: torch.device) -> Any:
    """``value`` (as graph.Constant gives it) as the executor holds it."""
    if not isinstance(kind, TensorType) or not isinstance(value, np.ndarray):
        return value
    if kind.dtype == "string":
        return value.tolist()
    wanted = torch_dtype(kind.dtype, half)
    if kind.dtype in ("bf16", "fp8e4m3fn", "fp8e5m2"):
        tensor = torch.from_numpy(np.ascontiguousarray(value)).view(wanted)
    elif value.dtype in (np.uint16, np.uint32, np.uint64):
        tensor = torch.from_numpy(value.astype(np.int64)).to(wanted)
    else:
        tensor = torch.from_numpy(np.require(value, requirements=["C", "W"]) if value.ndim else value.copy()).to(wanted)
    return tensor.to(device)


def as_python(kind: str, value: Any, half: torch.dtype) -> Any:
    """``value`` as a handler's parameter of that kind (see workbench.mil.registry)."""
    if kind in ("tensor", "tensors", "any", "blocks") or value is None:
        return value
    if kind == "str":
        return str(value)
    if kind == "dtype":
        return torch_dtype(str(value), half)
    if isinstance(value, torch.Tensor):
        plain = value.tolist()
    elif isinstance(value, tuple | list):  # a variadic of scalars
        plain = [item.item() if isinstance(item, torch.Tensor) else item for item in value]
    else:
        plain = value
    if kind in ("ints", "floats", "bools"):
        each = {"ints": int, "floats": float, "bools": bool}[kind]
        return tuple(each(item) for item in _flat(plain))
    while isinstance(plain, list):
        (plain,) = plain
    return {"int": int, "float": float, "bool": bool}[kind](plain)


def _flat(value: Any) -> list[Any]:
    return [inner for item in value for inner in _flat(item)] if isinstance(value, list) else [value]
