"""What is known of every value by name while a program runs: its last measure, never the value itself.

Ops read values made by ops, inputs, constants (measured when first asked for), states, and the variables of a loop, which are its
first values or what its last round gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.mil.cells import Cell, constant_cell
from workbench.mil.graph import Block, Constant, Op
from workbench.mil.measure import Measured, measure
from workbench.mil.plan import CompiledBlock
from workbench.mil.program import Program
from workbench.mil.support import dtypes_of

LOST_SHARE = 0.01
"""Of the values that are not 0."""


@dataclass(frozen=True)
class Seen:
    """``half``: the value is, or is taken as, fp16."""

    measured: Measured
    half: bool

    @property
    def nan(self) -> bool:
        return self.measured.nan > 0

    @property
    def exceeds(self) -> bool:
        return self.measured.infinite > 0 or (self.half and self.measured.beyond > 0)

    @property
    def loses(self) -> bool:
        return self.half and self.measured.lost > LOST_SHARE * self.measured.nonzero


class Sightings:
    def __init__(self, program: Program, halves: frozenset[str]):
        self.program, self.halves = program, halves
        self.now: dict[str, Seen] = {}
        self._variables = dict(_loop_variables(program.function.block))
        self._cells: dict[str, Cell] | None = None

    def see(self, kind: Any, value: Any) -> Seen | None:
        """A value of the declared type ``kind``, measured; None for what holds no numbers."""
        measured = measure(value)
        return None if measured is None else Seen(measured, bool(self.halves & set(dtypes_of(kind))))

    def results(self, op: Op, results: tuple[Any, ...]) -> dict[str, Seen]:
        """An op's results by name, measured. They are remembered by `remember`, after the op was judged: in a loop its inputs may
        still be what it gave itself in the round before."""
        found = {}
        for (name, kind), value in zip(op.outputs, results, strict=True):
            seen = self.see(kind, value)
            if seen is not None:
                found[name] = seen
        return found

    def remember(self, found: dict[str, Seen]) -> None:
        self.now.update(found)

    def inputs(self, op: Op) -> dict[str, list[Seen]]:
        """Parameter -> what its arguments were last seen as; what is not known (a fresh state) is left out."""
        found = {}
        for parameter, arguments in op.inputs.items():
            seen = [self._known(argument, frozenset()) for argument in arguments]
            found[parameter] = [item for item in seen if item is not None]
        return found

    def write(self, op: Op) -> None:
        """``write_state``: what the state holds from now on."""
        data = self.inputs(op).get("data")
        for target in op.inputs.get("input", ()):
            if isinstance(target, str) and data:
                self.now[target] = data[0]

    def _known(self, argument: str | Constant, passed: frozenset[str]) -> Seen | None:
        if isinstance(argument, Constant):
            engine = self.program._engine
            return self.see(argument.type, constant_cell(argument, engine.half, engine.device).value)
        if argument in self.now:
            return self.now[argument]
        if argument in self._variables and argument not in passed:  # a loop may hand a variable on to itself
            parts = [self._known(name, passed | {argument}) for name in self._variables[argument]]
            known = [part for part in parts if part is not None]
            whole = Measured()
            for part in known:
                whole |= part.measured
            return Seen(whole, any(part.half for part in known)) if known else None
        cell = self._cell(argument)
        seen = None if cell is None else self.see(cell.type, cell.value)
        if seen is not None:
            self.now[argument] = seen
        return seen

    def _cell(self, name: str) -> Cell | None:
        if self._cells is None:
            plain = self.program._plain
            self._cells = dict(_cells(plain)) if plain is not None else {}
        return self._cells.get(name)


def _loop_variables(block: Block) -> Iterator[tuple[str, tuple[str | Constant, ...]]]:
    """Input of a nested block -> what it may hold: the op's argument at its place, the last block's output there."""
    for op in block.ops:
        given = [argument for arguments in op.inputs.values() for argument in arguments]
        for inner in op.blocks:
            if len(inner.inputs) == len(given):
                again = op.blocks[-1].outputs
                for place, (name, _) in enumerate(inner.inputs):
                    yield name, (given[place], *again[place : place + 1])
            yield from _loop_variables(inner)


def _cells(block: CompiledBlock) -> Iterator[tuple[str, Cell]]:
    for group in block.inner.values():
        for inner in group:
            yield from _cells(inner)
    yield from block.cells.items()
