"""What an op gave, brought to what the program declares: count, shape, type; and rounded where the reading asks for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from workbench.mil.errors import ExecutionError, ShapeWarning
from workbench.mil.graph import Op
from workbench.mil.registry import Handler
from workbench.mil.types import FLOATS, TensorType, torch_dtype


def _results(op: Op, result: Any) -> tuple[Any, ...]:
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != len(op.outputs):
        raise ExecutionError(f"op {op.name!r} ({op.type}) gave {len(results)} results, the program declares {len(op.outputs)}")
    return results


def checked(op: Op, result: Any, half: torch.dtype, rounds: bool, handler: Handler) -> tuple[Any, ...]:
    """The results in their declared types; a ShapeWarning when a shape is not the declared one."""
    finish = finishing(op, result, half, rounds, handler) or (None,) * len(op.outputs)
    results = tuple(value if last is None else last(value) for value, last in zip(_results(op, result), finish, strict=True))
    for (name, kind), value in zip(op.outputs, results, strict=True):
        if isinstance(kind, TensorType) and isinstance(value, torch.Tensor) and kind.shape is not None:
            shape = tuple(value.shape)
            # A declared 0 is no size: coremltools writes the 0 of a reshape's shape, which keeps a flexible dimension, into the type.
            if len(shape) != len(kind.shape) or any(d not in (None, 0, s) for d, s in zip(kind.shape, shape, strict=True)):
                text = f"op {op.name!r} ({op.type}) gave {name!r} the shape {list(shape)}, the program declares {kind}"
                warnings.warn(text, ShapeWarning, stacklevel=2)
    return results


def finishing(
    op: Op, result: Any, half: torch.dtype, rounds: bool, handler: Handler
) -> tuple[Callable[[Any], Any] | None, ...] | None:
    """What brings each result to its declared type; None when nothing is to do."""
    found: list[Callable[[Any], Any] | None] = []
    for (name, kind), value in zip(op.outputs, _results(op, result), strict=True):
        if not isinstance(kind, TensorType) or not isinstance(value, torch.Tensor):
            found.append(None)
            continue
        wanted = torch_dtype(kind.dtype, half)
        _check_kind(op, name, kind, value)
        if rounds and kind.dtype == "fp16" and not handler.moves:
            found.append(_round_to_half)
        elif op.blocks:  # another branch, or no round of a loop, may give another type at another call
            found.append(partial(_brought, op, name, kind, wanted))
        else:
            found.append(None if value.dtype == wanted else partial(_to, wanted))
    return None if all(item is None for item in found) else tuple(found)


def _check_kind(op: Op, name: str, kind: TensorType, value: torch.Tensor) -> None:
    """Raises ExecutionError where a float is declared and it is none, or the other way round, or with booleans."""
    if (kind.dtype in FLOATS) != value.is_floating_point() or (kind.dtype == "bool") != (value.dtype == torch.bool):
        raise ExecutionError(f"op {op.name!r} ({op.type}) gave {name!r} as {value.dtype}, the program declares {kind}")


def _brought(op: Op, name: str, kind: TensorType, dtype: torch.dtype, value: Any) -> Any:
    if value.dtype == dtype:
        return value
    _check_kind(op, name, kind, value)
    return value.to(dtype)


def _to(dtype: torch.dtype, value: Any) -> Any:
    return value.to(dtype)


def _round_to_half(value: Any) -> Any:
    return value.to(torch.float16).to(torch.float32)
