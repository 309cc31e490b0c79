"""The arguments of one op: what is constant, what comes from the run, and the step that the plan replays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import torch

from workbench.mil.cells import as_python, constant_cell
from workbench.mil.errors import UnsupportedError
from workbench.mil.graph import Op
from workbench.mil.registry import Handler, find_handler
from workbench.mil.results import checked, finishing

if TYPE_CHECKING:
    from workbench.mil.plan import CompiledBlock

MOST_BOUND = 16
"""Sets of shapes that one op stays bound for."""
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
    """The op's handler. Raises UnsupportedError when there is none, or when the op has inputs it does not know."""
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
    names: list[tuple[str, str, Any]] = field(default_factory=list)
    """(parameter, kind, source); the source is a tuple of names for what comes from the run, else None."""

    def now(self) -> list[Any]:
        """The values for this call, in the order of the handler's parameters."""
        half = self.owner.engine.half
        found: list[Any] = []
        self.names = []
        for parameter, (kind, default) in self.handler.parameters.items():
            if kind == "blocks":
                found.append(self._blocks())
                continue
            given = self.op.inputs.get(parameter)
            if given is None:
                found.append(default)
                self.names.append((parameter, kind, None))
                continue
            items = [self._item(argument) for argument in given]
            comes = tuple(a for a in given if isinstance(a, str) and self.status.get(a, KNOWN) != KNOWN)
            if comes:
                self.known = False
                self.state = max(self.state, *(self.status[a] for a in comes))
                self.dynamic |= kind not in ("tensor", "tensors", "any")
            self.names.append((parameter, kind, given if comes else None))
            value = tuple(items) if kind == "tensors" or len(items) != 1 else items[0]
            found.append(as_python(kind, value, half))
        if self.handler.wants_context:
            found.append(self.owner.engine.context(self.op))
        return found

    def _item(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return constant_cell(argument, self.owner.engine.half, self.owner.engine.device).value
        return self.owner.cells[argument].value if argument in self.owner.cells else self.values[argument]

    def _blocks(self) -> tuple[Callable[..., Any], ...]:
        self.known = False
        inner = self.owner.inner[id(self.op)]
        captured = []
        for item, spec in zip(inner, self.op.blocks, strict=True):
            names = item.parameters[len(spec.inputs) :]
            self.state = max([self.state, *(self.status[name] for name in names)])
            captured.append(tuple(self.values[name] for name in names))
        self.names.append(
            ("blocks", "blocks", tuple(item.parameters[len(s.inputs) :] for item, s in zip(inner, self.op.blocks, strict=True)))
        )
        return tuple(_with(item, values) for item, values in zip(inner, captured, strict=True))

    def first(self) -> tuple[tuple[Any, ...], Callable[..., Any]]:
        """Run the op for the first time: (its results as declared, the function that later calls use)."""
        engine = self.owner.engine
        self.arguments = self.now()
        function = self.handler.function
        if not self.handler.binds:
            result = function(*self.arguments)
        else:
            function = function(*self.arguments)
            result = function(*tensors_of(self.handler, self.arguments))
        self._result = result
        return checked(self.op, result, engine.half, engine.rounds, self.handler), function

    def step(self, function: Callable[..., Any], slots: dict[str, int], outputs: tuple[int, ...]) -> Step:
        """The op as a step of the plan."""
        engine = self.owner.engine
        rebinds = self.handler.binds and (self.dynamic or self.state == LOOSE)
        if rebinds:
            function = _Rebinding(self.handler)
        template: list[Any] = []
        singles: list[tuple[int, int]] = []
        others: list[tuple[int, Callable[[list[Any]], Any]]] = []
        for value, (_, kind, source) in zip(self.arguments, self.names, strict=False):
            if self.handler.binds and not rebinds and (kind not in ("tensor", "tensors") or value is None):
                continue  # bound already
            position = len(template)
            template.append(None if source is not None else value)
            if source is None:
                continue
            if kind == "blocks":
                others.append(
                    (
                        position,
                        partial(_closures, self.owner.inner[id(self.op)], tuple(self._parts(group, slots) for group in source)),
                    )
                )
            elif len(source) == 1 and kind in ("tensor", "any"):
                singles.append((position, slots[source[0]]))
            else:
                others.append((position, partial(_assemble, kind, self._parts(source, slots), engine.half)))
        if self.handler.wants_context and (not self.handler.binds or rebinds):
            template.append(self.arguments[-1])
        finish = finishing(self.op, self._result, engine.half, engine.rounds, self.handler)
        return Step(self.op, function, template, tuple(singles), tuple(others), outputs, finish)

    def _parts(self, names: tuple[Any, ...], slots: dict[str, int]) -> tuple[tuple[int | None, Any], ...]:
        """Each as (its slot, None), or (None, its value) when that is known."""
        runs = [isinstance(a, str) and self.status.get(a, KNOWN) != KNOWN for a in names]
        return tuple((slots[a], None) if run else (None, self._item(a)) for a, run in zip(names, runs, strict=True))


def _with(block: CompiledBlock, captured: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *given: block(*given, *captured)


def _closures(blocks: tuple[CompiledBlock, ...], groups: tuple[Any, ...], values: list[Any]) -> Any:
    return tuple(_with(block, _filled(parts, values)) for block, parts in zip(blocks, groups, strict=True))


def _filled(parts: tuple[tuple[int | None, Any], ...], values: list[Any]) -> tuple[Any, ...]:
    return tuple(constant if slot is None else values[slot] for slot, constant in parts)


def _assemble(kind: str, parts: tuple[tuple[int | None, Any], ...], half: torch.dtype, values: list[Any]) -> Any:
    items = _filled(parts, values)
    return as_python(kind, items if kind == "tensors" or len(items) != 1 else items[0], half)


def tensors_of(handler: Handler, arguments: list[Any]) -> list[Any]:
    """The arguments that a bound function takes: tensors that are there, in order."""
    kinds = [kind for kind, _ in handler.parameters.values()]
    return [value for value, kind in zip(arguments, kinds, strict=False) if kind in ("tensor", "tensors") and value is not None]


class _Rebinding:
    """A handler that binds, where shapes or plain parameters change from call to call."""

    def __init__(self, handler: Handler):
        self.handler = handler
        self._bound: OrderedDict[Any, Callable[..., Any]] = OrderedDict()

    def __call__(self, *arguments: Any) -> Any:
        kinds = [kind for kind, _ in self.handler.parameters.values()]
        key = tuple(
            tuple(shape_of(item) for item in value)
            if kind == "tensors"
            else (shape_of(value) if kind == "tensor" and value is not None else value)
            for value, kind in zip(arguments, kinds, strict=False)
        )
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self.handler.function(*arguments)
            if len(self._bound) > MOST_BOUND:
                self._bound.popitem(last=False)
        return bound(*tensors_of(self.handler, list(arguments)))


def shape_of(value: Any) -> Any:
    """What a plan depends on: the shape of a tensor or of a list's elements; None for the rest."""
    return getattr(value, "shape", None)
