"""No tensor larger than the budget is made: torch's own calls are looked at before they allocate.

Handlers whose output may be far larger than their inputs refuse it themselves (`Context.allow`). This catches the rest, an outer
product or a convolution padded by a thousand million, on an op's first run with a set of shapes and, where shapes follow from values, of plain
parameters. The shape of a result is asked of torch's ``meta`` device, and only where sizes could make it too large at all.
"""

from __future__ import annotations

from functools import cache
from math import isnan
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from workbench.mil.errors import ExecutionError
from workbench.mil.graph import Op


class Budget(TorchDispatchMode):
    """``with Budget(bytes, op): handler(...)``. Raises ExecutionError naming the op."""

    def __init__(self, most: int, op: Op):
        super().__init__()
        self.most, self.op = most, op

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _aliases(func):  # a view takes no memory, and a copy of it would
            result = func(*args, **kwargs)
            self._check(result)
            return result
        if _bound((*args, *kwargs.values()), self.most) > self.most:
            self._check((args, kwargs))
            try:
                result = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
            except Exception:  # noqa: BLE001 - torch cannot tell from shapes alone; a call that is wrong in itself fails below
                result = None
            self._check(result)
        return func(*args, **kwargs)

    def _check(self, values: Any) -> None:
        for value in (values,) if isinstance(values, torch.Tensor) else tree_leaves(values):
            if isinstance(value, torch.Tensor) and value.numel() * value.itemsize > self.most:
                raise ExecutionError(
                    f"op {self.op.name!r} ({self.op.type}) asks for a tensor of shape {list(value.shape)}: "
                    f"{value.numel() * value.itemsize:,} bytes",
                    why=f"one value may take {self.most:,} bytes here",
                    fix="give smaller inputs, or load(..., memory_bytes=N) if the shape is meant",
                )


@cache
def _aliases(func: Any) -> bool:
    """The results are, or may be, views of the arguments, or the arguments themselves."""
    return any(item.alias_info is not None for item in func._schema.returns)


def _bound(values: Any, most: int) -> int:
    """At least as many bytes as a result of these arguments can take: the product of all sizes. Stops beyond ``most``."""
    size = 8
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor):
            size *= max(value.numel(), 1)
        elif isinstance(value, int):
            size *= abs(value) + 1
        elif isinstance(value, float) and not isnan(value):
            size *= int(min(abs(value), 2.0**62)) + 1
        if size > most:
            break
    return size


def _meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, torch.Generator):
        return None
    return torch.device("meta") if isinstance(value, torch.device) else value
