"""The arguments of one op: what is constant, what comes from the run, and the step that the plan replays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import torch

from workbench.mil.budget import Budget
from workbench.mil.cells import as_python, constant_cell
from workbench.mil.errors import UnsupportedError
from workbench.mil.graph import Op
from workbench.mil.registry import Handler, find_handler
from workbench.mil.results import checked, finishing

if TYPE_CHECKING:
    from workbench.mil.plan import CompiledBlock

MOST_BOUND = 16
"""Sets of shapes that one op stays bound for."""
_SINGLE = ("tensor", "any", "str", "dtype", "int", "float", "bool")
KNOWN, FIXED, LOOSE = range(3)
"""The value follows from shapes and constants; its shape does; neither."""


@dataclass
class Step:
    """One call of the plan. ``singles``: (position, slot); ``others``: (position, how to assemble it from the slots)."""

    op: Op
    function: Callable[..., Any]
    template: list[Any]
    singles: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, Callable[[list[Any]], Any]], ...]
    outputs: tuple[int, ...]
    finish: tuple[Callable[[Any], Any] | None, ...] | None
    drops: tuple[int, ...] = ()

    def arguments(self, values: list[Any]) -> list[Any]:
        arguments = self.template[:]
        for position, slot in self.singles:
            arguments[position] = values[slot]
        for position, get in self.others:
            arguments[position] = get(values)
        return arguments


def resolve(op: Op, opset: str) -> Handler:
    """The op's handler. Raises UnsupportedError when there is none, or when the op's inputs or blocks are not those it takes."""
    handler = find_handler(op.type, opset)
    if handler is None:
        raise UnsupportedError(
            f"op {op.name!r}: there is no op type {op.type!r} in opset {opset} here",
            fix="workbench mil check PACKAGE lists every unsupported op",
        )
    unknown = [name for name in op.inputs if name not in handler.parameters]
    if unknown:
        raise UnsupportedError(f"op {op.name!r} ({op.type}, {opset}) has an input {unknown[0]!r} that is not known")
    for name, (kind, default) in handler.parameters.items():
        if name not in op.inputs and default is Parameter.empty and kind != "blocks":
            raise UnsupportedError(f"op {op.name!r} ({op.type}, {opset}) lacks its input {name!r}", why="the program is damaged")
        if len(op.inputs.get(name, ("",))) != 1 and kind in _SINGLE:
            why = f"it has {len(op.inputs[name])}; the program is damaged"
            raise UnsupportedError(f"op {op.name!r} ({op.type}, {opset}) takes one value as its input {name!r}", why=why)
    blocks = 2 if "blocks" in handler.parameters else 0
    if len(op.blocks) != blocks:
        why = "the program is damaged"
        raise UnsupportedError(f"op {op.name!r} ({op.type}, {opset}) has {len(op.blocks)} blocks and takes {blocks}", why=why)
    return handler


@dataclass
class Arguments:
    """The arguments of one op: what is constant, what comes from the run."""

    owner: CompiledBlock
    op: Op
    handler: Handler
    values: dict[str, Any]
    status: dict[str, int]
    known: bool = True
    dynamic: bool = False
    """A parameter that is plain Python (an axis, a shape) comes from the run."""
    state: int = KNOWN
    sources: list[Any] = field(default_factory=list)
    """Of every parameter: the op's arguments, where one comes from the run, else None."""

    def now(self) -> list[Any]:
        """The values for this call, in the order of the handler's parameters."""
        half = self.owner.engine.half
        found: list[Any] = []
        self.sources = []
        for parameter, kind, default in self.handler.signature:
            if kind == "blocks":
                found.append(self._blocks())
                continue
            given = self.op.inputs.get(parameter)
            if given is None:
                found.append(self.owner.engine.context(self.op) if kind == "context" else default)
                self.sources.append(None)
                continue
            items = [self._item(argument) for argument in given]
            states = [self._state(argument) for argument in given]
            comes = max(states, default=KNOWN) != KNOWN
            if comes:
                self.known = False
                self.state = max(self.state, *states)
                self.dynamic |= kind not in ("tensor", "tensors", "any")
            self.sources.append(given if comes else None)
            value = tuple(items) if kind == "tensors" or len(items) != 1 else items[0]
            found.append(as_python(kind, value, half))
        return found

    def _state(self, argument: Any) -> int:
        return self.status.get(argument, KNOWN) if isinstance(argument, str) else KNOWN

    def _item(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return constant_cell(argument, self.owner.engine.half, self.owner.engine.device).value
        return self.owner.cells[argument].value if argument in self.owner.cells else self.values[argument]

    def _blocks(self) -> tuple[Callable[..., Any], ...]:
        self.known = False
        inner = self.owner.inner[id(self.op)]
        captured = tuple(item.captured for item in inner)
        self.sources.append(captured)
        return tuple(_with(item, tuple(map(self._item, names))) for item, names in zip(inner, captured, strict=True))

    def first(self) -> tuple[tuple[Any, ...], Callable[..., Any]]:
        """Run the op for the first time: (its results as declared, the function that later calls use)."""
        engine = self.owner.engine
        self.arguments = self.now()
        function = self.handler.function
        if self.op.blocks:
            result = function(*self.arguments)
        else:
            with Budget(engine.budget, self.op):
                if self.handler.binds:
                    function = function(*self.arguments)
                    result = function(*tensors_of(self.handler, self.arguments))
                else:
                    result = function(*self.arguments)
        self._result = result
        return checked(self.op, result, engine.half, engine.rounds, self.handler), function

    def step(self, function: Callable[..., Any], slots: dict[str, int], outputs: tuple[int, ...]) -> Step:
        """The op as a step of the plan."""
        engine = self.owner.engine
        pairs = zip(self.handler.signature, self.sources, strict=True)
        held = any(name in self.handler.holds and source is not None for (name, *_), source in pairs)
        varies = (self.dynamic or self.state == LOOSE or held) and not self.op.blocks
        if varies:
            function = _Varying(self.handler, self.op, engine.budget, held)
        template: list[Any] = []
        singles: list[tuple[int, int]] = []
        others: list[tuple[int, Callable[[list[Any]], Any]]] = []
        for value, (_, kind, _), source in zip(self.arguments, self.handler.signature, self.sources, strict=True):
            if self.handler.binds and not varies and (kind not in ("tensor", "tensors") or value is None):
                continue  # bound already
            position = len(template)
            template.append(None if source is not None else value)
            if source is None:
                continue
            if kind == "blocks":
                parts = tuple(self._parts(names, slots) for names in source)
                others.append((position, partial(_closures, self.owner.inner[id(self.op)], parts)))
            elif len(source) == 1 and kind in ("tensor", "any"):
                singles.append((position, slots[source[0]]))
            else:
                others.append((position, partial(_assemble, kind, self._parts(source, slots), engine.half)))
        finish = finishing(self.op, self._result, engine.half, engine.rounds, self.handler)
        return Step(self.op, function, template, tuple(singles), tuple(others), outputs, finish)

    def _parts(self, names: tuple[Any, ...], slots: dict[str, int]) -> tuple[tuple[int | None, Any], ...]:
        """Each as (its slot, None), or (None, its value) when that is known."""
        return tuple((slots[a], None) if self._state(a) != KNOWN else (None, self._item(a)) for a in names)


def _with(block: CompiledBlock, captured: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *given: block(*given, *captured)


def _closures(blocks: tuple[CompiledBlock, ...], groups: tuple[Any, ...], values: list[Any]) -> Any:
    return tuple(_with(block, _filled(parts, values)) for block, parts in zip(blocks, groups, strict=True))


def _filled(parts: tuple[tuple[int | None, Any], ...], values: list[Any]) -> tuple[Any, ...]:
    return tuple(constant if slot is None else values[slot] for slot, constant in parts)


def _assemble(kind: str, parts: tuple[tuple[int | None, Any], ...], half: torch.dtype, values: list[Any]) -> Any:
    items = _filled(parts, values)
    return as_python(kind, items if kind == "tensors" or len(items) != 1 else items[0], half)


def tensors_of(handler: Handler, arguments: Sequence[Any]) -> list[Any]:
    """The arguments that a bound function takes: tensors that are there, in order."""
    each = zip(arguments, handler.signature, strict=True)
    return [value for value, (_, kind, _) in each if kind in ("tensor", "tensors") and value is not None]


class _Varying:
    """A handler where shapes or plain parameters change from call to call: bound, and held to the budget, once for each set of
    them. ``always``: at every call."""

    def __init__(self, handler: Handler, op: Op, budget: int, always: bool):
        self.handler, self.op, self.budget, self.always = handler, op, budget, always
        self._bound: OrderedDict[Any, Callable[..., Any]] = OrderedDict()

    def __call__(self, *arguments: Any) -> Any:
        binds, function = self.handler.binds, self.handler.function
        key = tuple(_key(kind, value) for value, (_, kind, _) in zip(arguments, self.handler.signature, strict=True))
        tensors = tensors_of(self.handler, arguments) if binds else arguments
        bound = self._bound.get(key)
        if bound is not None and not self.always:
            return bound(*tensors)
        with Budget(self.budget, self.op):
            bound = function(*arguments) if binds else function
            result = bound(*tensors)
        self._bound[key] = bound
        if len(self._bound) > MOST_BOUND:
            self._bound.popitem(last=False)
        return result


def _key(kind: str, value: Any) -> Any:
    """What the work of a call depends on, hashable."""
    if kind == "tensors":
        return tuple(map(shape_of, value))
    if kind in ("tensor", "any", "context"):
        return shape_of(value)
    return str(value) if kind in ("float", "floats") else value  # NaN equals itself then, and 0.0 is not -0.0


def shape_of(value: Any) -> Any:
    """What a plan depends on: the shape of a tensor or of a list's elements; None for the rest."""
    return getattr(value, "shape", None)
