"""What can go wrong with a program's numbers and shows without running it.

Constants that are infinite or no number, epsilons that fp16 cannot hold, division by constants that hold 0, constants too large for
the fp16 they are cast to. What depends on the inputs is `workbench.mil.watch`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from workbench.mil.facts import Facts, floats
from workbench.mil.findings import Finding, counted, listed, shown
from workbench.mil.graph import Constant, Op
from workbench.mil.types import TensorType

LARGEST = 65504.0
"""The largest finite fp16 value."""
INFINITE_FROM = 65520.0
"""Magnitudes from here on round to infinity in fp16: half a step above the largest."""
VANISHES_TO = 2.0**-25
"""Magnitudes up to here round to 0 in fp16: half the smallest subnormal, ties to even."""
_CHUNK = 1 << 22

_AFTER_EPSILON = {
    "rsqrt": "0 gives infinity",
    "inverse": "0 gives infinity",
    "log": "0 gives -infinity",
    "layer_norm": "values that are all alike give 0/0",
    "instance_norm": "values that are all alike give 0/0",
    "l2_norm": "values that are all 0 give 0/0",
    "batch_norm": "a variance of 0 gives 0/0 or infinity",
}
_LOG_DEFAULT = 2e-45
"""MIL's own epsilon of log is 1e-45, the smallest fp32 subnormal: nobody chose it, and it protects nothing in fp16."""


def number_findings(facts: Facts) -> list[Finding]:
    """Findings of the kinds constant, overflow and nan."""
    found = [finding for name, constant, ops in _all(facts) if (finding := _not_finite(name, constant, ops)) is not None]
    found += [finding for op in facts.ops if (finding := _cast(op, facts)) is not None]
    return found + _epsilons(facts) + [finding for op in facts.ops if (finding := _divides(op, facts)) is not None]


def _all(facts: Facts) -> Iterator[tuple[str, Constant, tuple[str, ...]]]:
    """(name, constant, names of the ops that read it), those written inside an op's inputs too."""
    for name, constant in facts.constants.items():
        yield name, constant, tuple(facts.readers.get(name, ()))
    for op in facts.ops:
        for parameter, arguments in op.inputs.items():
            for argument in arguments:
                if isinstance(argument, Constant):
                    yield f"{op.name}.{parameter}", argument, (op.name,)


def _not_finite(name: str, constant: Constant, ops: tuple[str, ...]) -> Finding | None:
    kind = constant.type
    if not isinstance(kind, TensorType) or kind.dtype not in ("fp16", "fp32", "fp64"):
        return None
    value = np.asarray(constant.value())
    flat, nan, above, below = value.reshape(-1), 0, 0, 0
    for first in range(0, flat.size, _CHUNK):  # weights may be larger than memory; they are mapped
        part = flat[first : first + _CHUNK]
        if not np.isfinite(part).all():
            nan += int(np.isnan(part).sum())
            above += int((part == np.inf).sum())
            below += int((part == -np.inf).sum())
    if not nan + above + below:
        return None
    parts = [f"{count:,} times {what}" for count, what in ((nan, "NaN"), (above, "infinity"), (below, "-infinity")) if count]
    text = f"constant {shown(name)} ({kind}) holds {' and '.join(parts)} among {counted(value.size, 'value')}"
    if nan:
        text += ": what is computed from these is NaN"
    elif below and not above:
        text += ": as a mask it is safe only while every softmax row keeps a finite value (a mask of -1e4 always is)"
    return Finding("constant", text, ops)


def _cast(op: Op, facts: Facts) -> Finding | None:
    if op.type != "cast" or "fp16" not in floats(op):
        return None
    beyond = [value for value in facts.numbers(op, "x") if INFINITE_FROM <= abs(value) < np.inf]
    if not beyond:
        return None
    text = f"op {shown(op.name)} casts the constant {max(beyond, key=abs):g} to fp16, where it is infinite (fp16 ends at {LARGEST:,.0f})"
    return Finding("overflow", text, (op.name,))


def _epsilons(facts: Facts) -> list[Finding]:
    """One finding per op type."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for op in facts.ops:
        if op.type not in _AFTER_EPSILON or "fp16" not in floats(op):
            continue
        values = facts.numbers(op, "epsilon")
        if len(values) != 1 or abs(values[0]) > VANISHES_TO or (op.type == "log" and values[0] < _LOG_DEFAULT):
            continue
        if op.type == "batch_norm" and min(_half(facts.numbers(op, "variance")), default=0.0) > 0:
            continue
        groups.setdefault(op.type, []).append((op.name, values[0]))
    found = []
    for kind, members in groups.items():
        names = tuple(name for name, _ in members)
        sizes = ", ".join(f"{value:g}" for value in sorted({value for _, value in members}))
        text = (
            f"{counted(len(names), kind + ' op')} ({listed(names)}) in fp16 with an epsilon of {sizes}, which is 0 in fp16: "
            f"where it is added in fp16, {_AFTER_EPSILON[kind]}; 1e-5 or more is safe"
        )
        found.append(Finding("nan", text, names))
    return found


def _half(values: list[float]) -> list[float]:
    return [0.0 if abs(value) <= VANISHES_TO else value for value in values]


def _divides(op: Op, facts: Facts) -> Finding | None:
    if op.type not in ("real_div", "floor_div", "mod"):
        return None
    divisors: list[Any] = facts.numbers(op, "y")
    zeros = sum(1 for value in divisors if value == 0)
    if not zeros:
        return None
    text = f"op {shown(op.name)} ({op.type}) divides by a constant that is 0 in {zeros:,} of {counted(len(divisors), 'place')}"
    return Finding("nan", text, (op.name,))
