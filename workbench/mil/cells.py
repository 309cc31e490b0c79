"""Constants as the executor uses them: decompressed once, in the type that carries them, on the device.

A cell is a constant of the program or an output of an op whose inputs are all constants (every ``constexpr_*``): computed on first
use, or at load when small, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from workbench.mil.graph import Constant
from workbench.mil.types import TensorType, torch_dtype


class Cell:
    """A lazy value. ``type``: the declared MIL type. ``needs``: the cells that ``compute`` reads. ``reads``: let go after so many
    readings, for a part of other constants only; None: kept."""

    def __init__(self, type: Any, compute: Callable[[], Any], needs: Sequence[Cell] = ()):
        self.type, self.needs, self.reads = type, needs, None
        self._compute = compute
        self._made, self._value, self._left = False, None, 0

    @property
    def value(self) -> Any:
        """A tensor, str, list or dict; the same object every time where it is kept."""
        if not self._made:
            self._make()
        value = self._value
        if self.reads is not None:
            self._left -= 1
            if self._left <= 0:
                self._made, self._value = False, None
        return value

    def glance(self) -> Any:
        """The value, not kept where it was not there before: to look at a weight costs no memory afterwards."""
        made = self._made
        value = self.value
        if not made:
            self._made, self._value = False, None
        return value

    def _make(self) -> None:
        """What it needs first, by a list of what waits: constants made of constants may be thousands deep."""
        waiting = [self]
        while waiting:
            cell = waiting[-1]
            missing = [item for item in cell.needs if not item._made]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if not cell._made:
                cell._value, cell._left, cell._made = cell._compute(), cell.reads or 0, True


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
