"""Lists of tensors of one shape, as TensorFlow's TensorArray becomes. A list is never changed: a write gives a new one that shares
the elements, so earlier values stay and a loop of writes copies references only.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Context, Dtype, Family, Tensor, Tensors

lists = Family("control_flow")


class TensorList(list):
    """``shape``: that of the elements, None until it is known. An element that was never written is zeros, or None as long as
    nothing says of which shape. ``dynamic``: a write past the end makes it longer."""

    __slots__ = ("dtype", "dynamic", "shape")

    def __init__(self, items: Any, shape: tuple[int, ...] | None, dtype: torch.dtype, dynamic: bool):
        super().__init__(items)
        self.shape, self.dtype, self.dynamic = shape, dtype, dynamic

    def element(self, index: int, context: Context) -> Tensor:
        """Raises ExecutionError outside the list, and for an element whose shape nothing says."""
        if not 0 <= index < len(self):
            raise ExecutionError(f"op {context.op!r} reads element {index} of a list of {len(self)}")
        found = self[index]
        if found is None and self.shape is None:
            raise ExecutionError(f"op {context.op!r} reads element {index} of a list that was never written")
        return torch.zeros(self.shape, dtype=self.dtype, device=context.device) if found is None else found

    def written(self, indices: list[int], values: tuple[Tensor, ...], context: Context) -> TensorList:
        """A list with ``values`` at ``indices``; where one comes twice, its last value holds."""
        if len(indices) != len(values):
            raise ExecutionError(f"op {context.op!r} writes {len(values)} elements at {len(indices)} places")
        made = TensorList(self, self.shape, self.dtype, self.dynamic)
        end = max(indices, default=-1) + 1
        if min(indices, default=0) < 0 or (end > len(self) and not self.dynamic):
            raise ExecutionError(f"op {context.op!r} writes at {indices} in a list of the fixed length {len(self)}")
        if end > len(self):
            context.allow((end, *(self.shape or ())), torch.int64)
            made.extend([None] * (end - len(self)))
        for index, value in zip(indices, values, strict=True):
            made.shape = value.shape if made.shape is None else made.shape
            if value.shape != made.shape:
                raise ExecutionError(f"op {context.op!r} writes {list(value.shape)} in a list of {list(made.shape)}")
            made[index] = value
        return made


@lists.op("make_list", loose=True)
def make_list(
    elem_shape: Tensors, context: Context, init_length: int = 1, dynamic_length: bool = True, dtype: Dtype = torch.float32
) -> Any:
    """``elem_shape``: a size each, or the name of a size that is known at run time only."""
    known = not any(isinstance(size, str) for size in elem_shape)
    shape = torch.Size(int(size) for size in elem_shape) if known else None
    context.allow((init_length, *(shape or ())), torch.int64)
    return TensorList([None] * init_length, shape, dtype, dynamic_length)


@lists.op("list_length")
def list_length(ls: Any, context: Context) -> Tensor:
    return torch.tensor(len(ls), dtype=torch.int32, device=context.device)


@lists.op("list_read", moves=True)
def list_read(ls: Any, index: Tensor, context: Context) -> Tensor:
    return ls.element(int(index), context)


@lists.op("list_gather", moves=True)
def list_gather(ls: Any, indices: Tensor, context: Context) -> Tensor:
    if not indices.numel() and ls.shape is not None:
        return torch.zeros((0, *ls.shape), dtype=ls.dtype, device=context.device)
    return torch.stack([ls.element(index, context) for index in indices.tolist()])


@lists.op("list_write")
def list_write(ls: Any, index: Tensor, value: Tensor, context: Context) -> Any:
    return ls.written([int(index)], (value,), context)


@lists.op("list_scatter")
def list_scatter(ls: Any, indices: Tensor, value: Tensor, context: Context) -> Any:
    return ls.written(indices.tolist(), value.unbind(0), context)
