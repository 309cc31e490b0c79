"""Blocks of a program written as the graph's own objects, so that they may hold what no converter writes, and compiled at once."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch

from workbench.mil.graph import Block, Constant, Op
from workbench.mil.plan import CompiledBlock, Engine
from workbench.mil.registry import Family, handlers
from workbench.mil.types import TensorType

FLOATS, INTS, FLAG = TensorType("fp32", (None, 4)), TensorType("int32", (None,)), TensorType("bool", ())
ONE, INT, ANY = TensorType("fp32", ()), TensorType("int32", ()), TensorType("fp32", None)


def const(value, dtype=None):
    array = np.asarray(value)
    dtype = dtype or {"f": "fp32", "i": "int32", "b": "bool"}[array.dtype.kind]
    kinds = {"fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    return Constant(TensorType(dtype, array.shape), array.astype(kinds[dtype]))


def op(kind, name, types=ANY, blocks=(), **inputs):
    """``types``: of the one output, called as the op; or a list of (name, type)."""
    given = {key: value if isinstance(value, tuple) else (value,) for key, value in inputs.items()}
    outputs = tuple(types) if isinstance(types, list) else ((name, types),)
    return Op(kind, name, given, outputs, tuple(blocks))


def block(inputs, ops, outputs, **constants):
    named = tuple((name, ANY) for name in inputs.split()) if isinstance(inputs, str) else tuple(inputs)
    return Block(named, tuple(ops), tuple(outputs.split()), constants)


def compiled(body, **options):
    settings = {"half": torch.float16, "rounds": False, "budget": 1 << 30, **options}
    device = torch.device("cpu")
    return CompiledBlock(body, Engine(opset="iOS18", device=device, generator=torch.Generator(), **settings))


def floats(*shape):
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(shape)


def plan(program):
    """The plan last used."""
    return list(program._plans.values())[-1]


def steps(program):
    return [step.op.name for step in plan(program).steps]


@contextmanager
def handler(name, function, **marks):
    """``function`` as the handler of an op type that exists meanwhile."""
    try:
        Family("tests").op(name, **marks)(function)
        yield
    finally:
        handlers().pop(name)
