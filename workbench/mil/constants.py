"""The constants of a loaded program as numbers, and the same program with other numbers in their place.

    dense(program, "q_proj_weight_quantized")                     # what the ops read: decompressed, in the type they compute with
    other = with_constants(program, {"q_proj_weight": array})     # loaded anew, nothing on disk changes

A weight that is stored compressed goes by the name of the constexpr op's output that the other ops read (``Weight.name`` of
`workbench.mil.weights`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.mil.errors import MilError
from workbench.mil.graph import Block, Constant, Op
from workbench.mil.program import Program
from workbench.mil.types import NUMPY, TensorType


def dense(program: Program, name: str) -> np.ndarray[Any, Any]:
    """A copy of the constant ``name`` of the function's outermost block, in its declared shape.

    Raises MilError when there is no such constant of numbers.
    """
    cell = program._block.cells.get(name)
    if cell is None or not isinstance(cell.type, TensorType) or cell.type.dtype not in NUMPY:
        raise MilError(
            f"there is no constant {name!r} of numbers", why=f"function {program.function_name!r} of {program.package.path}"
        )
    return np.array(cell.glance().cpu().numpy())


def with_constants(program: Program, values: Mapping[str, Any]) -> Program:
    """``program`` with other values for the constants named, wherever in it they are defined; states and reading as before.

    Raises MilError for a name that is no constant of floats and for another shape.
    """
    if not values:
        return program
    left = dict(values)
    block = _replaced(program.function.block, left, program.function_name)
    if left:
        raise MilError(
            f"there is no constant {next(iter(left))!r}", why=f"function {program.function_name!r} of {program.package.path}"
        )
    functions = {program.function_name: replace(program.function, block=block)}
    fuse = program._plain is not program._block
    return Program(program.package, functions, program.function_name, replace(program._engine), program.precision, fuse)


def _replaced(block: Block, left: dict[str, Any], where: str) -> Block:
    constants, ops = dict(block.constants), []
    for name in [name for name in constants if name in left]:
        constants[name] = _constant(name, constants[name].type, left.pop(name))
    for op in block.ops:
        names = [name for name, _ in op.outputs if name in left]
        if names and not op.type.startswith("constexpr_"):
            raise MilError(f"{names[0]!r} is no constant", why=f"op {op.name!r} ({op.type}) of function {where!r} computes it")
        if names and len(op.outputs) > 1:
            raise MilError(f"{names[0]!r} cannot be replaced", why=f"op {op.name!r} ({op.type}) makes other values with it")
        if names:
            constants[names[0]] = _constant(names[0], op.outputs[0][1], left.pop(names[0]))
            continue
        ops.append(replace(op, blocks=tuple(_replaced(inner, left, where) for inner in op.blocks)) if op.blocks else op)
    read = set(_read(ops)) | set(block.outputs)
    kept: list[Op] = []
    for op in reversed(ops):  # parts of a weight that was replaced
        if op.type.startswith("constexpr_") and not any(name in read for name, _ in op.outputs):
            continue
        kept.append(op)
    return Block(block.inputs, tuple(reversed(kept)), block.outputs, constants)


def _read(ops: Iterable[Op]) -> Iterable[str]:
    for op in ops:
        yield from op.references()
        for inner in op.blocks:
            yield from inner.free_names()


def _constant(name: str, kind: Any, value: Any) -> Constant:
    value = np.asarray(value)
    if not isinstance(kind, TensorType) or kind.dtype not in ("fp16", "fp32", "fp64"):
        raise MilError(f"{name!r} is {kind}", why="only constants of floats are replaced")
    if tuple(value.shape) != kind.shape:
        raise MilError(f"{name!r} is {kind}, the value given has the shape {list(value.shape)}")
    return Constant(kind, np.ascontiguousarray(value, NUMPY[kind.dtype]))
