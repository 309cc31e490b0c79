"""Does a converted stage compute what the torch stage computes? Its outputs on a few inputs, and the types in its graph.

    found = check_stage(stage, Path("step.mlpackage"), None, feeds, recipe)
    found["same"], found["outputs"]["logits"]     # True, {"relative_l2": 4.1e-07, "limit": 2e-05, "values": 680, "same": True}

The light check that every conversion ends with, by the reference executor (``workbench.mil``), on any machine. A compression changes the
values on purpose: the program is judged before it is compressed, and what compression adds is measured and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.convert.coreml.recipe import Recipe
from workbench.convert.stages.stage import Stage, StageSet
from workbench.metrics.tensors import TensorError, tensor_error

LIMITS = {"fp32": 2e-5, "fp16": 4e-2}
"""Largest relative L2 of an output: about 300 and 80 times the unit roundoff (2**-24, 2**-11). Measured on the bundled models: 1e-6 and
4e-3; a wrong mask constant, a transposed weight or a left-out op changes an output by more than a tenth of it."""
STATE_LIMIT = 2e-4
"""The same for an fp32 stage that keeps fp16 states, as Core ML's states are. torch's stage rounds as much: only numbers at the edge between
two of fp16 fall to different sides, one in some hundreds, by 2**-11. Measured: 6e-6; an attention scale that is 1 % off: 2e-3."""
SEED = 20
PROMPT, FOLLOWED = 6, 2
"""Tokens of a seeded prompt beside the image's, and after it."""
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
            found[name] = (known + tensor_error(*_same_shape(name, value, given[name])), whole)
    return found


def judged(error: tuple[TensorError, bool], limit: float) -> dict[str, Any]:
    """One output's row. Whole numbers must be the same; a value that is finite on one side only is never the same."""
    found, whole = error
    away = found.relative_rms if found.reference_square else math.sqrt(found.error_square / max(1, found.n))
    bound = 0.0 if whole else limit
    row = {"relative_l2": _number(away), "limit": bound, "values": found.n, "same": away <= bound and not found.one_sided}
    return row | ({"not_finite_on_one_side": found.one_sided} if found.one_sided else {})


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


def example_feeds(stages: StageSet) -> dict[str, list[dict[str, Any]]]:
    """Inputs for where no request is at hand: seeded noise as image or sound, seeded tokens as prompt, and a few tokens that follow.

    Of a user's module: its own example, and a second with seeded floats of the same mean and spread; whole numbers and what is the same
    everywhere (masks, say) stay as they are.
    """
    import numpy

    from workbench.models.options import VISION
    from workbench.models.speech_to_text import FAMILY as SPEECH

    drawn = numpy.random.default_rng(SEED)
    sizes = stages.sizes
    if stages.family == VISION:
        shape = tuple(stages["vision"].example["pixel_values"].shape)
        others = numpy.delete(numpy.arange(sizes["vocabulary"]), sizes["image_token"])
        text = drawn.choice(others, min(PROMPT, sizes["context"] - sizes["image_tokens"] - FOLLOWED) + FOLLOWED)
        ids = [*[sizes["image_token"]] * sizes["image_tokens"], *text[:-FOLLOWED]]
        arrays = {"pixel_values": drawn.standard_normal(shape, numpy.float32), "input_ids": numpy.array([ids])}
        return stages.feeds(arrays, text[-FOLLOWED:].tolist())
    if stages.family == SPEECH:
        mel = drawn.standard_normal((1, sizes["mels"], sizes["frames"]), numpy.float32)
        text = drawn.integers(0, sizes["vocabulary"], 2 * FOLLOWED)
        return stages.feeds({"input_features": mel, "input_ids": text[None, :FOLLOWED]}, text[FOLLOWED:].tolist())
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in stages:
        example = {name: value.detach().numpy() for name, value in stage.example.items()}
        other = {
            name: drawn.normal(value.mean(), value.std(), value.shape).astype(value.dtype)
            for name, value in example.items()
            if value.dtype.kind == "f" and float(value.std()) > 0
        }
        found[stage.name] = [example] + ([{**example, **other}] if other else [])
    return found


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


def _same_shape(name: str, expected: Any, given: Any) -> tuple[Any, Any]:
    import numpy

    expected, given = numpy.asarray(expected), numpy.asarray(given)
    if expected.shape != given.shape:
        from workbench.convert.reload import DifferentModel

        raise DifferentModel(
            f"output {name!r} has the shape {list(given.shape)}",
            why=f"torch's is {list(expected.shape)}",
            fix="nothing was written",
        )
    return expected, given


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
