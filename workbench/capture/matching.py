"""Which output of a twin is which output of the program: by name, then by what they hold (``capture.aligning``: inner values).

    match_outputs({"Identity": a, "Identity_1": b}, {"StatefulPartitionedCall:1": b, "StatefulPartitionedCall:0": a}, {})
    # [Match("Identity", "StatefulPartitionedCall:0", "holds the same values: error 2e-07, the next best 0.9"), ...]

Twins order their outputs differently, and two of them may share a shape: neither place nor shape says which is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from workbench.capture.program_names import normal, numbers
from workbench.errors import UsageError
from workbench.metrics.drift import alignable

CLEAR = 10.0
"""The best fit must be so many times nearer than the next."""


@dataclass(frozen=True)
class Match:
    """``twin`` None: no output of the twin could be told to be this one; ``how`` says why."""

    output: str
    twin: str | None
    how: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def match_outputs(
    program: Mapping[str, Any],
    twin: Mapping[str, Any],
    renamed: Mapping[str, str],
    *,
    ordered: bool = False,
    counted: bool = False,
) -> list[Match]:
    """One match an output of the program. ``renamed``: the user's ``--map``. ``ordered``: the conversion keeps the twin's order, which
    settles what nothing else does. ``counted``: names that only count values (``var_26``) are those of this very conversion.
    Raises UsageError for names in ``renamed`` that the twin has not."""
    found: dict[str, Match] = {}
    for name, other in renamed.items():
        if name in program:
            if other not in twin:
                raise UsageError(
                    f"the twin has no output {other!r}", why=f"its outputs: {', '.join(twin)}", fix=f"--map {name}=NAME"
                )
            found[name] = Match(name, other, "named by --map")
    for how, rule in (("by its name", lambda name: name), ("by its name, as converters write it", normal)):
        for name in program:
            fitting = [each for each in free(twin, found) if rule(each) == rule(name) and same_size(program[name], twin[each])]
            if name not in found and len(fitting) == 1 and (counted or not numbers(name)):
                found[name] = Match(name, fitting[0], how)
    best_fits(program, twin, found)
    if ordered and len(program) == len(twin):
        for name, other in zip(program, twin, strict=True):
            if name not in found and other in free(twin, found) and same_size(program[name], twin[other]):
                found[name] = Match(name, other, "by its place among the outputs")
    for name in program:
        if name not in found:
            fitting = [each for each in free(twin, found) if same_size(program[name], twin[each])]
            found[name] = Match(
                name, None, f"no clear match among {', '.join(fitting)}" if fitting else "no output of this shape is left"
            )
    return [found[name] for name in program]


def free(twin: Mapping[str, Any], found: Mapping[str, Match]) -> list[str]:
    taken = {match.twin for match in found.values()}
    return [name for name in twin if name not in taken]


def best_fits(program: Mapping[str, Any], twin: Mapping[str, Any], found: dict[str, Match]) -> None:
    """Add the pairs that are each other's best and clearly better than any other, and those that are the only ones of their shape."""
    while True:
        left = [name for name in program if name not in found]
        others = free(twin, found)
        errors = {(a, b): distance(program[a], twin[b]) for a in left for b in others if same_size(program[a], twin[b])}
        for name in left:
            mine = sorted((error, b) for (a, b), error in errors.items() if a == name)
            if not mine:
                continue
            error, other = mine[0]
            rivals = [each for each, _ in mine[1:]] + [each for (a, b), each in errors.items() if b == other and a != name]
            if not rivals:
                found[name] = Match(name, other, "the only one of its shape that is left")
                break
            if min(rivals) > CLEAR * error:
                found[name] = Match(name, other, f"holds the same values: error {error:.1e}, the next best {min(rivals):.1e}")
                break
        else:
            return


def same_size(one: Any, other: Any) -> bool:
    return (
        one is not None
        and other is not None
        and alignable(one.shape, other.shape)
        or getattr(one, "size", 0) == getattr(other, "size", -1) == 1
    )


def distance(one: Any, other: Any) -> float:
    """Relative RMS error, infinite where nothing can be said."""
    import numpy

    a, b = (numpy.asarray(each, numpy.float64).reshape(-1) for each in (one, other))
    with numpy.errstate(all="ignore"):
        both = numpy.isfinite(a) & numpy.isfinite(b)
        size = float((a[both] ** 2).sum())
        gap = float(((a[both] - b[both]) ** 2).sum())
    return (gap / size) ** 0.5 if size else (inf if gap else 0.0)
