"""Does a converted stage compute what the torch stage computes? Its outputs on a few inputs, and the types in its graph.

    found = check_stage(stage, Path("step.mlpackage"), None, feeds, recipe)
    found["same"], found["outputs"]["logits"]     # True, {"relative_l2": 4.1e-07, "limit": 2e-05, "values": 680, "same": True}

The light check that every conversion ends with, by the reference executor (``workbench.mil``), on any machine. A compression changes the
values on purpose: the program is judged before it is compressed, and what compression adds is measured and not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.convert.comparing import judged, same_shape
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.stages.stage import Stage
from workbench.metrics.tensors import TensorError, tensor_error

LIMITS = {"fp32": 2e-5, "fp16": 4e-2}
"""Largest relative L2 of an output: about 300 and 80 times the unit roundoff (2**-24, 2**-11). Measured on the bundled models: 1e-6 and
4e-3; a wrong mask constant, a transposed weight or a left-out op changes an output by more than a tenth of it."""
STATE_LIMIT = 2e-4
"""The same for an fp32 stage that keeps fp16 states, as Core ML's states are. torch's stage rounds as much: only numbers at the edge between
two of fp16 fall to different sides, one in some hundreds, by 2**-11. Measured: 6e-6; an attention scale that is 1 % off: 2e-3."""
NAMED = 8
"""Ops of the wrong type that a message names."""


def check_stage(
    stage: Stage,
    package: Path,
    function: str | None,
    feeds: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    kept: Sequence[Any] = (),
) -> dict[str, Any]:
    """``{"outputs": {name: {relative_l2, limit, values, same}}, "precision": {...}, "calls", "same"}``; states count as outputs.

    ``feeds``: what ``StageSet.feeds`` gives; ``kept``: the ops that the conversion to fp16 left in fp32 as asked. Raises MilError where the program cannot be run.
    """
    limit = LIMITS[recipe.precision]
    if stage.states and recipe.precision == "fp32":
        limit = STATE_LIMIT
    outputs = {name: judged(error, limit) for name, error in measure(stage, package, function, feeds).items()}
    precision = precision_of(package, function, recipe.precision, bool(kept))
    same = precision["same"] and all(output["same"] for output in outputs.values())
    return {"outputs": outputs, "precision": precision, "calls": len(feeds), "same": same}


def measure(
    stage: Stage, package: Path, function: str | None, feeds: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[TensorError, bool]]:
    """By output and state: (the error of the program against torch, pooled over the feeds; whether it is whole numbers)."""
    import numpy

    from workbench import mil

    program = mil.load(package, function)
    found: dict[str, tuple[TensorError, bool]] = {}
    for feed in feeds:
        inputs, states = stage.split(feed)
        expected, after = stage.run(feed)
        state = program.make_state() if stage.states else None
        for name in stage.states:
            if name in states:
                state.write(name, states[name])
        given = program.predict(inputs, state=state)
        given |= {name: state.read(name) for name in stage.states}
        for name, value in {**expected, **after}.items():
            whole = numpy.asarray(value).dtype.kind != "f"
            known = found.get(name, (TensorError(), whole))[0]
            found[name] = (known + tensor_error(*same_shape(name, value, given[name])), whole)
    return found


def precision_of(package: Path, function: str | None, asked: str, kept: bool = False) -> dict[str, Any]:
    """The float types that the graph's ops compute in, against what was asked: ``{"asked", "found": {type: ops}, "other", "same"}``.

    ``other``: ops in another type than asked, by name; in a graph of fp16 those ``kept`` in fp32, and such as coremltools never converts.
    """
    from workbench.mil.facts import Facts, computes, floats
    from workbench.mil.graph import read_functions
    from workbench.mil.package import read_package
    from workbench.mil.program import _choose

    read = read_package(package)
    functions = read_functions(read)
    facts = Facts(functions[_choose(read, functions, function)])
    counts: dict[str, int] = {}
    other: list[str] = []
    for op in facts.ops:
        if not computes(op):
            continue
        for dtype in floats(op):
            counts[dtype] = counts.get(dtype, 0) + 1
            if dtype != asked and not _of_state(op, dtype, facts):
                other.append(f"{op.outputs[0][0]} ({op.type})")
    same = not other if asked == "fp32" else bool(counts.get("fp16") or not counts) and (bool(other) or not kept)
    return {"asked": asked, "found": dict(sorted(counts.items())), "other": sorted(other), "same": same}


def _of_state(op: Any, dtype: str, facts: Any) -> bool:
    """Whether an fp16 op belongs to a state's own upkeep: states are fp16 whatever the graph's precision."""
    from workbench.mil.types import StateType

    return dtype == "fp16" and any(isinstance(facts.types.get(argument), StateType) for argument in op.references())


def differences(name: str, found: Mapping[str, Any]) -> list[str]:
    """What a check found wrong with a stage, in words; nothing where it is the same."""
    words = []
    for output, row in found["outputs"].items():
        if row["same"]:
            continue
        if row.get("not_finite_on_one_side"):
            words.append(f"{name}: {output} has {row['not_finite_on_one_side']:,} values that are finite on one side only")
        else:
            away = "infinitely" if row["relative_l2"] is None else f"{row['relative_l2']:.2g}"
            words.append(f"{name}: {output} is {away} away from torch's (relative L2; the limit is {row['limit']:.2g})")
    precision = found["precision"]
    if not precision["same"]:
        held = ", ".join(f"{count} ops in {dtype}" for dtype, count in precision["found"].items()) or "no floats"
        more = f": {', '.join(precision['other'][:NAMED])}" if precision["other"] else ""
        words.append(f"{name}: {precision['asked']} was asked, and the graph has {held}{more}")
    return words
