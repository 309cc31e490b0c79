"""Blocks, compiled once per set of input shapes into a list of steps, then replayed.

The first call with a set of shapes runs the block op by op and records, for every op, the function to call and where its arguments
lie. What depends only on constants and shapes (a chain of ``shape``, ``gather``, ``concat`` that ends in a ``reshape``) is computed
then and never again. Later calls walk the list; a value is dropped after its last use.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from workbench.mil.arguments import FIXED, KNOWN, LOOSE, Arguments, Step, resolve, shape_of, tensors_of
from workbench.mil.budget import Budget
from workbench.mil.cells import Cell, constant_cell
from workbench.mil.errors import ExecutionError, MilError
from workbench.mil.graph import Block, Op
from workbench.mil.registry import Context, Handler
from workbench.mil.results import checked
from workbench.mil.types import TensorType

MOST_PLANS, MOST_INNER_PLANS = 64, 256
"""Plans kept for a function and for a nested block (a loop whose variables grow has one a round); the one used longest ago goes first."""
EAGER_BYTES = 1 << 20
"""Constants up to this size are computed at load, larger ones on first use."""


@dataclass
class Engine:
    """What all blocks of one loaded function share."""

    opset: str
    half: torch.dtype
    rounds: bool
    """Round every fp16 result to fp16 (``emulate``)."""
    device: torch.device
    generator: torch.Generator
    budget: int
    observer: Callable[[Op, tuple[Any, ...]], None] | None = None
    """Called with every op and its results; nothing is replayed while it is set."""

    def context(self, op: Op) -> Context:
        types = tuple(kind for _, kind in op.outputs)
        return Context(self.opset, self.half, self.device, self.generator, types, op.name, self.budget)


@dataclass
class _Plan:
    size: int
    inputs: tuple[int, ...]
    steps: list[Step]
    fixed: list[tuple[int, Any]]
    outputs: tuple[int, ...]

    def run(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        values: list[Any] = [None] * self.size
        for slot, value in zip(self.inputs, given, strict=True):
            values[slot] = value
        for slot, value in self.fixed:
            values[slot] = value
        step = value = None
        try:
            for step in self.steps:
                result = step.function(*step.arguments(values))
                outputs = step.outputs
                if len(outputs) == 1:
                    if type(result) is tuple:
                        (result,) = result
                    values[outputs[0]] = result if step.finish is None else step.finish[0](result)  # type: ignore[misc]
                else:
                    finish = step.finish or (None,) * len(outputs)
                    for slot, value, last in zip(outputs, result, finish, strict=True):
                        values[slot] = value if last is None else last(value)
                result = value = None  # nothing outlives its last use, here neither
                for slot in step.drops:
                    values[slot] = None
        except MilError:
            raise
        except Exception as error:
            raise _failed(step.op, error) from error  # type: ignore[union-attr]
        return tuple(values[slot] for slot in self.outputs)


def _failed(op: Op, error: Exception) -> ExecutionError:
    return ExecutionError(f"op {op.name!r} ({op.type}) could not be computed", why=f"{type(error).__name__}: {error}".strip())


class CompiledBlock:
    """A block as a function of its inputs and of the outer values it reads (``parameters``, in that order).

    ``outer``: the constants around a nested block. ``like``: another form of the same block (before fusion), whose constants serve.
    """

    def __init__(self, block: Block, engine: Engine, outer: dict[str, Cell] | None = None, like: CompiledBlock | None = None):
        self.block, self.engine = block, engine
        self.most_plans = MOST_PLANS if outer is None else MOST_INNER_PLANS
        # What the block defines hides what an outer one calls by the same name.
        own = {name for name, _ in block.inputs} | {name for op in block.ops for name, _ in op.outputs}
        self.cells: dict[str, Cell] = {name: cell for name, cell in (outer or {}).items() if name not in own}
        for name, constant in block.constants.items():
            self.cells[name] = like.cells[name] if like else constant_cell(constant, engine.half, engine.device)
        self.handlers: dict[int, Handler] = {}
        self.folded: set[int] = set()
        self._wholes: list[tuple[Cell, Op]] = []
        for op in block.ops:
            handler = self.handlers[id(op)] = resolve(op, engine.opset)
            if handler.pure and not op.blocks and op.outputs and all(name in self.cells for name in op.references()):
                if like is not None and id(op) in like.folded:
                    self.folded.add(id(op))
                    self.cells.update((name, like.cells[name]) for name, _ in op.outputs)
                else:
                    self._fold(op, handler)
        free = block.free_names()
        self.captured = tuple(name for name in free if name not in self.cells)
        self.captured_cells = tuple(name for name in free if name in self.cells)
        self.parameters = (*(name for name, _ in block.inputs), *self.captured)
        self.inner: dict[int, tuple[CompiledBlock, ...]] = {
            id(op): tuple(
                CompiledBlock(item, engine, self.cells, like.inner[id(op)][number] if like else None)
                for number, item in enumerate(op.blocks)
            )
            for op in block.ops
            if op.blocks
        }
        self._plans: OrderedDict[Any, _Plan] = OrderedDict()
        kept = self._mark_parts()
        for name in kept if outer is None else ():  # those of a branch when it is taken: it may never be, and they may fail
            kind = self.cells[name].type
            if isinstance(kind, TensorType) and (kind.bytes or 0) <= EAGER_BYTES:
                _ = self.cells[name].value

    def _mark_parts(self) -> list[str]:
        """Constants that only folded ops read (the parts of a compressed weight) need not stay beside the results. The others."""
        readers = Counter(name for op in self.block.ops for name in op.references())
        kept = {name for op in self.block.ops if id(op) not in self.folded for name in op.references()}
        kept.update(self.block.outputs, *(item.captured_cells for group in self.inner.values() for item in group))
        own = [*self.block.constants, *(name for op in self.block.ops if id(op) in self.folded for name, _ in op.outputs)]
        for name in own:
            self.cells[name].reads = None if name in kept else max(readers[name], 1)
        for whole, op in self._wholes:
            whole.reads = max(sum(name in kept or name in readers for name, _ in op.outputs), 1)
        return [name for name in own if name in kept]

    def _fold(self, op: Op, handler: Handler) -> None:
        """An op of constants alone: its outputs become constants."""
        self.folded.add(id(op))

        def compute() -> tuple[Any, ...]:
            try:
                arguments = Arguments(self, op, handler, {}, {}).now()
                with Budget(self.engine.budget, op):
                    result = handler.function(*arguments)
                    if handler.binds:
                        result = result(*tensors_of(handler, arguments))
                return checked(op, result, self.engine.half, self.engine.rounds, handler)
            except MilError:
                raise
            except Exception as error:
                raise _failed(op, error) from error

        needs = [self.cells[name] for name in op.references()]
        if len(op.outputs) == 1:
            ((name, kind),) = op.outputs
            self.cells[name] = Cell(kind, lambda: compute()[0], needs)
            return
        whole = Cell(None, compute, needs)
        self._wholes.append((whole, op))
        for number, (name, kind) in enumerate(op.outputs):
            self.cells[name] = Cell(kind, partial(lambda number: whole.value[number], number), [whole])

    def __call__(self, *given: Any) -> tuple[Any, ...]:
        """The block's outputs for its parameters' values."""
        if self.engine.observer is not None:
            return self._compile(given)[1]
        key = tuple(shape_of(value) for value in given)
        plan = self._plans.get(key)
        if plan is None:
            plan, outputs = self._compile(given)
            self._plans[key] = plan
            if len(self._plans) > self.most_plans:
                self._plans.popitem(last=False)
            return outputs
        self._plans.move_to_end(key)
        return plan.run(given)

    def _compile(self, given: tuple[Any, ...]) -> tuple[_Plan, tuple[Any, ...]]:
        """Run op by op and record the steps."""
        values: dict[str, Any] = dict(zip(self.parameters, given, strict=True))
        status = dict.fromkeys(self.parameters, FIXED)
        slots = {name: number for number, name in enumerate(self.parameters)}
        last_use = _last_uses(self)
        steps: list[Step] = []
        for number, op in enumerate(self.block.ops):
            if id(op) in self.folded:
                continue
            handler = self.handlers[id(op)]
            arguments = Arguments(self, op, handler, values, status)
            try:
                results, function = arguments.first()
            except MilError:
                raise
            except Exception as error:
                raise _failed(op, error) from error
            known = handler.pure and not op.blocks and arguments.known
            if op.type == "shape" and arguments.state < LOOSE:
                known = True
            loose = arguments.dynamic if handler.loose is None else handler.loose
            state = KNOWN if known else (LOOSE if loose or arguments.state == LOOSE else FIXED)
            if self.engine.observer is not None:
                self.engine.observer(op, results)
            for (name, _), value in zip(op.outputs, results, strict=True):
                values[name], status[name] = value, state
                slots.setdefault(name, len(slots))
            results = value = None
            if not known:
                outputs = tuple(slots[name] for name, _ in op.outputs)
                steps.append(arguments.step(function, slots, outputs))
            # During the first run too, a value goes after its last use; what is known stays, for steps may hold it.
            for name in last_use.get(number, ()):
                if status.get(name, KNOWN) != KNOWN:
                    if steps:
                        steps[-1].drops += (slots[name],)
                    values[name] = None
        fixed, outputs = [], []
        for name in self.block.outputs:
            if name not in slots:
                slots[name] = len(slots)
            if name in self.cells or status.get(name) == KNOWN:
                fixed.append((slots[name], self.cells[name].value if name in self.cells else values[name]))
            outputs.append(slots[name])
        plan = _Plan(len(slots), tuple(slots[name] for name in self.parameters), steps, fixed, tuple(outputs))
        return plan, tuple(self.cells[name].value if name in self.cells else values[name] for name in self.block.outputs)


def _last_uses(block: CompiledBlock) -> dict[int, tuple[str, ...]]:
    """op number -> values that no later op and no output reads."""
    last: dict[str, int] = {}
    for number, op in enumerate(block.block.ops):
        names = [*op.references(), *(name for item in block.inner.get(id(op), ()) for name in item.parameters)]
        names += [name for name, _ in op.outputs]
        last.update((name, number) for name in names if name not in block.cells)
    kept = set(block.block.outputs)
    found: dict[int, list[str]] = {}
    for name, number in last.items():
        if name not in kept:
            found.setdefault(number, []).append(name)
    return {number: tuple(names) for number, names in found.items()}
