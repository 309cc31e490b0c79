"""Which op types a function holds, how many, in which types they compute, and whether this executor knows them.

for row in op_table(function):
    print(row.type, row.count, row.supported, row.reason)      # softmax 12 True None
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.mil.arguments import resolve
from workbench.mil.errors import UnsupportedError
from workbench.mil.graph import Function, Op, walk
from workbench.mil.registry import find_handler
from workbench.mil.types import DictionaryType, ListType, StateType, TensorType, TupleType


@dataclass(frozen=True)
class OpRow:
    """All ops of one type. ``precisions``: the data types its outputs are declared in. ``handler_since``: the opset from which the
    handler that runs them holds. ``example``: the first such op, or the first that is not supported."""

    type: str
    opset: str
    count: int
    supported: bool
    reason: str | None
    precisions: tuple[str, ...]
    handler_since: str | None
    example: str


def op_table(function: Function) -> list[OpRow]:
    """One row per op type, the most frequent first; nested blocks included, constants left out."""
    groups: dict[str, list[Op]] = {}
    for op in walk(function.block):
        groups.setdefault(op.type, []).append(op)
    rows = [_row(kind, function.opset, ops) for kind, ops in groups.items()]
    return sorted(rows, key=lambda row: (-row.count, row.type))


def unsupported(function: Function) -> list[OpRow]:
    """The rows of op types of which at least one op cannot be run."""
    return [row for row in op_table(function) if not row.supported]


def _row(kind: str, opset: str, ops: list[Op]) -> OpRow:
    handler = find_handler(kind, opset)
    example, reason = ops[0].name, None
    for op in ops:
        try:
            resolve(op, opset)
        except UnsupportedError as error:
            example, reason = op.name, error.what if handler is not None else f"there is no op type {kind!r} in opset {opset} here"
            break
    dtypes = sorted({dtype for op in ops for _, declared in op.outputs for dtype in dtypes_of(declared)})
    return OpRow(kind, opset, len(ops), reason is None, reason, tuple(dtypes), handler.since if handler else None, example)


def dtypes_of(kind: Any) -> tuple[str, ...]:
    """The element types inside a MIL type."""
    if isinstance(kind, TensorType):
        return (kind.dtype,)
    if isinstance(kind, ListType):
        return dtypes_of(kind.element)
    if isinstance(kind, StateType):
        return dtypes_of(kind.wrapped)
    if isinstance(kind, DictionaryType):
        return (*dtypes_of(kind.key), *dtypes_of(kind.value))
    if isinstance(kind, TupleType):
        return tuple(dtype for element in kind.elements for dtype in dtypes_of(element))
    return ()
