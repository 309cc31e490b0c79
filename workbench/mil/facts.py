"""What a function declares, looked up by name: types, small constants, who reads what. Nothing is computed.

Names are taken over all blocks. MIL names are unique in practice; where a nested block hides a name, the inner one is found.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from workbench.mil.graph import Constant, Function, Op, all_constants, walk
from workbench.mil.types import FLOATS, TensorType

SMALL = 4096
"""Constants with up to this many elements are read when a rule asks for their numbers."""


class Facts:
    def __init__(self, function: Function):
        self.function = function
        self.ops: tuple[Op, ...] = tuple(walk(function.block))

    @cached_property
    def constants(self) -> dict[str, Constant]:
        return dict(all_constants(self.function.block))

    @cached_property
    def types(self) -> dict[str, Any]:
        """Name -> declared type, of inputs, constants, results and the inputs of nested blocks."""
        found = dict(self.function.inputs)
        found.update((name, constant.type) for name, constant in self.constants.items())
        for op in self.ops:
            found.update(op.outputs)
            for block in op.blocks:
                found.update(block.inputs)
        return found

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Name of a value -> names of the ops that read it."""
        found: dict[str, list[str]] = {}
        for op in self.ops:
            for name in op.references():
                found.setdefault(name, []).append(op.name)
        return found

    def type_of(self, op: Op, parameter: str) -> Any:
        """The declared type of an input's first argument; None when it is absent."""
        argument = next(iter(op.inputs.get(parameter, ())), None)
        return argument.type if isinstance(argument, Constant) else self.types.get(argument) if argument is not None else None

    def numbers(self, op: Op, parameter: str) -> list[float]:
        """The numbers of a small constant input; empty where it is absent, large, no constant or not numeric."""
        found: list[float] = []
        for argument in op.inputs.get(parameter, ()):
            constant = argument if isinstance(argument, Constant) else self.constants.get(argument)
            if constant is None or not isinstance(constant.type, TensorType) or constant.type.dtype in ("string", "bf16"):
                return []
            if None in (constant.type.shape or ()) or math.prod(constant.type.shape or ()) > SMALL:  # type: ignore[arg-type]
                return []
            value = np.asarray(constant.value())
            if value.dtype.kind not in "fiub" or constant.type.dtype.startswith("fp8"):
                return []
            found += value.reshape(-1).tolist()
        return found


def shapes(op: Op) -> list[tuple[int | None, ...]]:
    """The declared shapes of an op's tensors, those of unknown rank left out."""
    return [kind.shape for _, kind in op.outputs if isinstance(kind, TensorType) and kind.shape is not None]


def floats(op: Op) -> set[str]:
    """The float types an op's outputs are declared in."""
    return {kind.dtype for _, kind in op.outputs if isinstance(kind, TensorType) and kind.dtype in FLOATS}


def computes(op: Op) -> bool:
    """False for what only stores, converts or moves whole values between types."""
    return op.type not in ("cast", "identity", "read_state", "write_state") and not op.type.startswith("constexpr_")
