"""What only a run on given inputs can show: where NaN and infinity begin, what fp16 cannot hold, what it makes 0.

    seen = watch(load("encoder.mlpackage", precision="fp16-weights"), {"mel": mel})
    for finding in seen.findings:
        print(finding.text)       # op 'exp_3' (exp) reaches 1.63e+05, and fp16 ends at 65,504; its largest input is 12

Only where something begins is a finding; ops that carry it on are counted. Every result is reduced to a few numbers at once. In the
readings ``fp16-weights`` and ``float64`` values are not rounded, so overflow and underflow are measured; in ``native`` and ``emulate``
an overflow is an infinity already, and what became 0 is not told from what was 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.mil.causes import INSIDE, cause_of_infinity, cause_of_nan, inside
from workbench.mil.findings import Finding, counted, listed, shown
from workbench.mil.graph import Op
from workbench.mil.measure import Measured
from workbench.mil.numerics import INFINITE_FROM, LARGEST
from workbench.mil.program import Program, State
from workbench.mil.sightings import Seen, Sightings

MOST_FINDINGS = 8
"""Of one sort; the rest is counted."""
TAILS = ("softmax", "sigmoid", "gelu", "silu", "elu", "softplus", "exp", "exp2")
"""Their results approach 0 by nature: what underflows there is nothing beside the rest of the tensor."""
_KINDS = {"nan": "nan", "overflow": "overflow", "inside": "overflow", "underflow": "underflow"}


@dataclass
class Watched:
    """``outputs``: as ``Program.predict`` gives them."""

    findings: tuple[Finding, ...]
    outputs: dict[str, Any]


def watch(program: Program, inputs: Mapping[str, Any], state: State | None = None, *, as_fp16: bool = False) -> Watched:
    """Run ``program`` once, op by op, and say where its numbers go wrong. ``as_fp16``: take values declared fp32 as if they were
    fp16, to ask whether a program could be converted to it. Raises what ``Program.predict`` raises."""
    watcher = _Watcher(program, frozenset({"fp16", "fp32"} if as_fp16 else {"fp16"}))
    with np.errstate(over="ignore"):  # numpy's warnings about what is reported here
        watcher.border(inputs)
        outputs = program.observe(inputs, watcher, state)
    return Watched(tuple(watcher.findings()), outputs)


class _Watcher:
    """Called with every op and its results, in the order of execution; the ops of a loop come once a round."""

    def __init__(self, program: Program, halves: frozenset[str]):
        self.program = program
        self.sightings = Sightings(program, halves)
        self.begun: dict[tuple[str, str], tuple[float, Finding]] = {}
        """(sort, op) -> (how bad, the finding); the worst round of a loop stays."""
        self.carried: dict[str, dict[str, None]] = {}
        self.near: dict[str, float] = {}

    def border(self, inputs: Mapping[str, Any]) -> None:
        """The inputs, before anything is computed."""
        kinds = dict(self.program.function.inputs)
        for name, value in self.program.tensors(inputs).items():
            seen = self.sightings.see(kinds[name], value)
            if seen is None:
                continue
            self.sightings.remember({name: seen})
            if seen.exceeds:
                size = _largest(inputs.get(name))
                text = f"input {shown(name)} holds infinity"
                if INFINITE_FROM <= size < math.inf:
                    text = f"input {shown(name)} reaches {size:.4g}, and fp16 ends at {LARGEST:,.0f}"
                self.begun["overflow", f"input {name}"] = (size, Finding("overflow", text))

    def __call__(self, op: Op, results: tuple[Any, ...]) -> None:
        if op.type == "write_state":
            self.sightings.write(op)
            return
        found = self.sightings.results(op, results)
        if not op.blocks:  # what a branch or a loop gives was seen where it was made
            for seen in found.values():
                self._judge(op, seen)
        self.sightings.remember(found)

    def _judge(self, op: Op, seen: Seen) -> None:
        measured = seen.measured
        if seen.half and LARGEST / 2 < measured.largest < INFINITE_FROM:
            self.near[op.name] = max(self.near.get(op.name, 0.0), measured.largest)
        risky = seen.half and op.type in INSIDE
        if not (seen.nan or seen.exceeds or seen.loses or risky):
            return
        inputs = self.sightings.inputs(op)
        before = [item for items in inputs.values() for item in items]
        given = {name: [item.measured for item in items] for name, items in inputs.items()}
        about = f"op {shown(op.name)} ({op.type})"
        if seen.nan and self._begins("nan", op, any(item.nan for item in before)):
            text = f"{about} makes NaN in {measured.nan:,} of {counted(measured.count, 'value')}: {cause_of_nan(op, given)}"
            self._note("nan", op, measured.nan, text)
        if seen.exceeds and self._begins("overflow", op, any(item.exceeds or item.nan for item in before)):
            self._note("overflow", op, *_overflow(op, about, seen, given))
        if seen.loses and op.type not in TAILS and self._begins("underflow", op, any(item.loses for item in before)):
            share = measured.lost / measured.nonzero
            text = (
                f"{about}: {share:.0%} of its values that are not 0 are 0 in fp16; the largest magnitude is {measured.largest:.3g}"
            )
            self._note("underflow", op, share, text)
        if risky and not any(item.exceeds or item.nan for item in before):
            for size, text in inside(op, given, measured.count):
                self._note("inside", op, size, f"{about} {text}")

    def _begins(self, sort: str, op: Op, carries: bool) -> bool:
        if carries:
            self.carried.setdefault(sort, {})[op.name] = None
        return not carries

    def _note(self, sort: str, op: Op, size: float, text: str) -> None:
        key = (sort, op.name)
        if key not in self.begun or self.begun[key][0] < size:
            self.begun[key] = (size, Finding(_KINDS[sort], text, (op.name,)))

    def findings(self) -> Iterator[Finding]:
        """In the order of execution; those of one sort together."""
        for sort, kind in _KINDS.items():
            begun = [finding for (each, _), (_, finding) in self.begun.items() if each == sort]
            yield from begun[:MOST_FINDINGS]
            if len(begun) > MOST_FINDINGS:
                names = tuple(name for finding in begun[MOST_FINDINGS:] for name in finding.ops)
                yield Finding(kind, f"the same begins in {counted(len(names), 'op')} more: {listed(names)}", names)
            first = {name for finding in begun for name in finding.ops}
            later = tuple(name for name in self.carried.get(sort, ()) if name not in first)
            if begun and later:
                verb = "carries" if len(later) == 1 else "carry"
                yield Finding(kind, f"{counted(len(later), 'later op')} {verb} it on: {listed(later)}", later)
        near = sorted((name for name in self.near if ("overflow", name) not in self.begun), key=lambda name: -self.near[name])
        if near:
            text = (
                f"{counted(len(near), 'op')} ({listed(near)}) beyond half of what fp16 holds: the largest magnitude is "
                f"{self.near[near[0]]:,.0f}, and fp16 ends at {LARGEST:,.0f}"
            )
            yield Finding("overflow", text, tuple(near))


def _overflow(op: Op, about: str, seen: Seen, given: dict[str, list[Measured]]) -> tuple[float, str]:
    """(how bad, what to say) of an op whose result is infinite, or would be as fp16."""
    measured = seen.measured
    most = max((item.largest for items in given.values() for item in items), default=0.0)
    if measured.infinite:
        where = f"{about} makes infinity in {measured.infinite:,} of {counted(measured.count, 'value')}"
        return math.inf, f"{where}: {cause_of_infinity(op, given, seen.half)}; its largest input is {most:.4g}"
    return (
        measured.largest,
        f"{about} reaches {measured.largest:.4g}, and fp16 ends at {LARGEST:,.0f}; its largest input is {most:.4g}",
    )


def _largest(given: Any) -> float:
    """The largest finite magnitude of an input as it was given; infinity where that is not known."""
    try:
        values = np.abs(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):  # a picture, a tensor on another device
        return math.inf
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else math.inf
