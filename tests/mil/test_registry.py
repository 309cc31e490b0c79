"""Every handler against coremltools' own definition of its op: names, what may be left out, defaults, and where it is defined."""

from __future__ import annotations

import inspect
from functools import cache

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from tests.mil.building import opset as target
from workbench.mil.registry import OPSETS, Family, find_handler, handlers
from workbench.mil.types import torch_dtype

CORE = SSAOpRegistry.core_ops
MISSING = {
    "const": "a stored value: read with the program, workbench.mil.graph",
    "_const_symbolic": "exists while a program is built, for coremltools' own tests; never stored",
}
"""Core ops without a handler."""
STORED_ONLY = {"write_state": "how coremltools stores coreml_update_state of its dialect"}
OURS = "workbench."
"""Handlers of ops that are no core op of the builder: stored under another name, and made here when attention is fused."""


@cache
def definitions(name):
    """opset -> the class that defines the op there, as far as coremltools knows opsets."""
    return {opset: CORE[name][target(opset)] for opset in OPSETS if target(opset) in CORE[name]}


def changes(name):
    """The opsets in which another class begins to define the op."""
    found = definitions(name)
    ordered = list(found)
    return [opset for number, opset in enumerate(ordered) if number == 0 or found[opset] is not found[ordered[number - 1]]]


def inputs_of(definition):
    """The inputs that are stored: name -> whether optional. Names with an underscore are the builder's own."""
    return {name: kind.optional for name, kind in definition.input_spec.input_types.items() if not name.startswith("_")}


class _Stand:
    """What an op's defaults may ask of an input while nothing is built."""

    def __init__(self, shape, dtype):
        self.shape, self.rank, self.dtype, self.val, self.sym_type = shape, len(shape), dtype, None, types.tensor(dtype, shape)


def defaults_of(definition):
    """The defaults that hold for every input: those that come out the same for two different ones."""
    found = []
    for stand in (_Stand((2, 4, 8, 8), types.fp32), _Stand((3, 5, 7), types.fp16)):
        op = object.__new__(definition)
        for name in definition.input_spec.input_types:
            setattr(op, name, stand)
        found.append(dict(definition.default_inputs(op).items()))
    one, other = found
    return {name: value for name, value in one.items() if type(value) is type(other[name]) and np.array_equal(value, other[name])}


def same(ours, theirs, kind):
    """Whether a handler's default says what coremltools' does."""
    if kind == "dtype":
        return ours == (None if theirs is None else torch_dtype(theirs, torch.float16))
    if ours == () and kind in ("ints", "floats", "bools"):  # a list that is not given
        ours = None
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours == theirs
    return np.array_equal(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))


def test_what_there_is():
    assert len(CORE) == 168  # coremltools 9.0
    assert set(CORE) - set(handlers()) == set(MISSING)
    assert {name for name in handlers() if not name.startswith(OURS)} - set(CORE) == set(STORED_ONLY)


@pytest.mark.parametrize("name", sorted(set(CORE) - set(MISSING)))
def test_handler_follows_its_definition(name):
    assert name in handlers(), "no handler"
    for opset in OPSETS:
        if opset not in definitions(name) and opset != OPSETS[-1]:
            assert find_handler(name, opset) is None, f"{opset} does not have the op"
    for opset in changes(name):
        handler = find_handler(name, opset)
        assert handler is not None, opset
        wanted = inputs_of(definitions(name)[opset])
        given = {key: default for key, (kind, default) in handler.parameters.items() if kind != "blocks"}
        assert set(given) == set(wanted), opset
        optional = {key for key, default in given.items() if default is not inspect.Parameter.empty}
        assert optional == {key for key, may in wanted.items() if may}, opset
    for since, handler in handlers()[name].items():
        path, _, op = handler.source.removeprefix("coremltools ops/defs/").partition(": ")
        assert op == name and path.startswith(f"{since}/")
        module = "ops.defs." + path.removesuffix(".py").replace("/", ".")
        assert definitions(name)[since].__module__.endswith(module), "the source is not where the op is defined"


def compared():
    """(op, opset, parameter, our default, coremltools' default, kind) wherever both can be read."""
    for name in sorted(set(CORE) & set(handlers())):
        for opset in changes(name):
            handler = find_handler(name, opset)
            for parameter, theirs in defaults_of(definitions(name)[opset]).items():
                kind, ours = handler.parameters[parameter]
                yield name, opset, parameter, ours, theirs, kind


def test_defaults_are_those_of_coremltools():
    every = list(compared())
    assert [row for row in every if not same(*row[3:])] == []
    assert len(every) >= 240


def test_the_newest_opset_means_what_the_last_one_that_changed_anything_does():
    """coremltools 9.0 defines nothing anew for iOS26."""
    for name in handlers():
        assert find_handler(name, "iOS26") is find_handler(name, "iOS18")


def test_context_is_told_from_what_the_op_is_given():
    family = Family("nowhere")
    try:

        @family.op("a_test_of_the_order_of_arguments")
        def handler(x: int, context: int, y: int = 2):
            return context, x, y

        found = handlers()["a_test_of_the_order_of_arguments"]["iOS15"]
        assert [(name, kind) for name, kind, _ in found.signature] == [("x", "int"), ("context", "context"), ("y", "int")]
        assert found.parameters == {"x": ("int", inspect.Parameter.empty), "y": ("int", 2)}
        with pytest.raises(ValueError, match="two handlers"):
            family.op("a_test_of_the_order_of_arguments")(handler)
    finally:
        handlers().pop("a_test_of_the_order_of_arguments", None)
