"""Does a converted program compute what its torch module computes? Every op that can be told, on the same arrays.

    check = check_stage(stage, "decoder.mlpackage", "step", origins, feeds["step"])
    check.sentence      # "step: the first op to depart is mul_4 (mul, model.layers.0.self_attn, modeling_llama.py:210): 1,300 times ..."

Outputs alone say that something is wrong; a value inside says where. The torch module is exported as it was for the conversion and run
node by node in float32 and in float64: a value departs when it is farther from torch than ``metrics.drift.LIMIT`` times torch's own error.
The program is run by ``workbench.mil``, on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from workbench.capture.aligning import healed
from workbench.capture.readings import told
from workbench.capture.torch_graphs import Graph, exported_graph
from workbench.convert.coreml.exporting import export
from workbench.errors import ModelError
from workbench.metrics.drift import LIMIT, UNITS, Layer, amount
from workbench.metrics.tensors import TensorError, tensor_error

FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError)
"""What torch raises for an op that it has not in a precision."""


@dataclass(frozen=True)
class OpCheck:
    """One value of the program beside the torch node's. ``module`` and ``line``: where torch computes it. ``harmless``: it departs, and
    everything that is computed from it agrees, so that it stands for something else in the program."""

    value: str
    op: str
    node: str
    module: str
    line: str | None
    compared: Layer
    harmless: bool = False

    @property
    def departs(self) -> bool:
        return bool(self.compared.departs) and not self.harmless

    @property
    def where(self) -> str:
        """``mul_4 (mul, model.layers.0.self_attn, modeling_llama.py:210)``."""
        parts = [part for part in (self.op, self.module, self.line) if part]
        return f"{self.value} ({', '.join(parts)})" if parts else self.value

    def to_json(self) -> dict[str, Any]:
        about = {"value": self.value, "op": self.op, "node": self.node, "module": self.module, "line": self.line}
        row = self.compared.to_json()
        kept = ("reason", "relative_rms", "own_relative_rms", "times_own", "max_abs")
        return about | {name: row.get(name) for name in kept} | {"departs": self.departs}


@dataclass(frozen=True)
class StageCheck:
    """``rows`` in the program's order, outputs and states last; ``unmapped``: ops that stem from no torch node or have none of its shape."""

    stage: str
    precision: str
    feeds: int
    rows: tuple[OpCheck, ...]
    outputs: dict[str, OpCheck]
    unmapped: int
    notes: tuple[str, ...] = field(default=())

    @property
    def compared(self) -> list[OpCheck]:
        return [row for row in self.rows if row.compared.error is not None and not row.harmless]

    @property
    def first(self) -> OpCheck | None:
        """The first value that departs; None where none does."""
        return next((row for row in (*self.rows, *self.outputs.values()) if row.departs), None)

    @property
    def ok(self) -> bool:
        return self.first is None

    @property
    def sentence(self) -> str:
        count = len(self.compared)
        on = f"{count:,} values on {self.feeds} {'call' if self.feeds == 1 else 'calls'}"
        if self.first is not None:
            times = self.first.compared.times_own
            much = (
                "values that are not finite on one side" if times is None else f"{amount(times)} torch's own {self.precision} error"
            )
            return f"{self.stage}: the first value to depart is {self.first.where}: {much} (limit {LIMIT:g}; {on})."
        judged = [row for row in (*self.compared, *self.outputs.values()) if row.compared.times_own is not None]
        most = max(judged, key=lambda row: row.compared.times_own or 0.0, default=None)
        if most is None or most.compared.times_own is None:
            return f"{self.stage}: nothing could be compared."
        return f"{self.stage}: none of {on} departs: at most {amount(most.compared.times_own)} torch's own {self.precision} error, in {most.where}."

    def to_json(self) -> dict[str, Any]:
        """What a manifest keeps: outputs, the worst value and the sentence, not every row."""
        worst = max(self.compared, key=lambda row: row.compared.times_own or 0.0, default=None)
        return {
            "outputs": {
                name: {"relative_l2": finite(row.compared.error), "times_own": row.compared.times_own}
                for name, row in self.outputs.items()
            },
            "precision": self.precision,
            "calls": self.feeds,
            "compared": len(self.compared),
            "unmapped": self.unmapped,
            "limit": LIMIT,
            "departs": None if self.first is None else self.first.to_json(),
            "most": None if worst is None else worst.to_json(),
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def finite(error: TensorError | None) -> float | None:
    return error.relative_rms if error is not None and isfinite(error.relative_rms) else None


def check_stage(
    stage: Any,
    path: str | Path,
    function: str | None,
    origins: Mapping[str, Mapping[str, Any]],
    feeds: Sequence[Mapping[str, Any]],
    *,
    exported: Any = None,
) -> StageCheck:
    """Compare the program at ``path`` with ``stage`` (``workbench.convert.stages``) on ``feeds``: arrays by name, states among them.

    ``origins``: the program's value -> {"op", "node", "module", "line", "result"}; with ``result`` given, values without it are steps on
    the way to their node's and are not compared. ``exported``: the program that was converted, where it is at hand. A program with fp16 is
    judged by torch's error in float16. Raises ModelError where nothing was fed, UsageError for a package that cannot be read.
    """
    if not feeds:
        raise ModelError(f"stage {stage.name!r} cannot be checked", why="no arrays were given to run it on")
    with told():
        from workbench.mil import load

        program = load(path, function)
    half, precision = halves(program)
    wanted = {value: dict(origin) for value, origin in origins.items() if origin.get("result", True) and origin.get("node")}
    nodes = {origin["node"] for origin in wanted.values()}
    torch_side = TorchSide(exported if exported is not None else export(stage), nodes, precision, half)
    errors: dict[str, Layer] = {}
    ends: dict[str, Layer] = {}
    for feed in feeds:
        inputs, states = stage.split(feed)
        ours, ours_states, ours_ends = run_program(program, inputs, states, set(wanted), stage.outputs)
        for place, layer in torch_side.compare(
            stage, inputs, states, {v: o["node"] for v, o in wanted.items()}, ours, ours_ends, ours_states
        ):
            held = ends if place.startswith(END) else errors
            name = place.removeprefix(END)
            held[name] = layer if name not in held else pooled(held[name], layer)
    rows = [row_of(value, origin, errors[value]) for value, origin in wanted.items() if value in errors]
    rows = without_harmless(rows, torch_side.odd, program, {name for name, layer in ends.items() if not layer.departs})
    by_value = {row.value: row for row in rows}
    outputs = {
        name: replace(by_value[name], compared=layer) if name in by_value else row_of(name, origins.get(name) or {}, layer)
        for name, layer in ends.items()
    }
    return StageCheck(stage.name, precision, len(feeds), tuple(rows), outputs, len(origins) - len(rows), tuple(torch_side.notes))


def halves(program: Any) -> tuple[set[str], str]:
    """(the values that are float16, the precision that the program computes in): an fp32 program with states holds some of the former."""
    from workbench.mil.facts import computes

    ops = [op for op in program.function.block.ops if computes(op)]
    half = {name for op in program.function.block.ops for name, kind in op.outputs if getattr(kind, "dtype", None) == "fp16"}
    single = {name for op in ops for name, kind in op.outputs if getattr(kind, "dtype", None) == "fp32"}
    computed = {name for op in ops for name, _ in op.outputs} & half
    return half, "float16" if len(computed) > len(single) else "float32"


END = "\0"
"""Marks outputs and states among the names of values."""


class TorchSide:
    """The exported module in float32, in float64, and for a program with fp16 in float16 too."""

    def __init__(self, exported: Any, nodes: set[str], precision: str, half: set[str]):
        self.begin: dict[str, Any] = {}
        self.notes: list[str] = []
        self.odd: set[str] = set()
        self.precision, self.half = precision, half
        made = dict.fromkeys(("float32", "float64", precision))
        self.graphs: dict[str, Graph] = {each: exported_graph(exported, each, only=nodes, begin=self.begin) for each in made}

    def compare(
        self,
        stage: Any,
        inputs: Mapping[str, Any],
        states: Mapping[str, Any],
        wanted: Mapping[str, str],
        ours: Mapping[str, Any],
        ours_ends: Mapping[str, Any],
        ours_states: Mapping[str, Any],
    ) -> list[tuple[str, Layer]]:
        """(place, its error with torch's own) of everything on one feed."""
        runs = {}
        for precision in self.graphs:
            try:
                runs[precision] = self.run(precision, stage, inputs, states)
            except FAILURES as error:
                if precision == "float32":
                    raise ModelError(
                        f"stage {stage.name!r} cannot be run by torch", why=f"{type(error).__name__}: {error}"[:300]
                    ) from error
                note = f"torch's own error is not known: in {precision} torch failed ({type(error).__name__}: {str(error)[:120]})"
                self.notes += [] if note in self.notes else [note]
        known, truth, own = runs["float32"], runs.get("float64"), runs.get(self.precision)
        unit = UNITS[self.precision]
        found = []
        for value, node in wanted.items():
            if value in ours and node in known[0]:
                own_unit = UNITS["float16"] if value in self.half else unit  # what a state holds, in an fp32 program
                layer = judged(value, known[0], truth and truth[0], own and own[0], node, ours[value], own_unit)
                found.append((value, layer))
                if layer.error is not None and is_odd(known[0][node], ours[value], layer):
                    self.odd.add(value)
        for place, name in enumerate(stage.outputs):
            parts = [run and dict(enumerate(run[1])) for run in (known, truth, own)]
            found.append((END + name, judged(name, *parts, place, ours_ends[name], unit)))
        for name, after in ours_states.items():
            # Both sides round to float16 what they keep, and a value near the middle of two may go either way.
            found.append(
                (END + name, judged(name, *(run and run[2] for run in (known, truth, own)), name, after, UNITS["float16"]))
            )
        return found

    def run(self, precision: str, stage: Any, inputs: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[Any, list[Any], Any]:
        """(values by node, outputs in order, states afterwards)."""
        import numpy
        import torch

        from workbench.capture.twin_torch import tensor_of

        graph = self.graphs[precision]
        self.begin.clear()
        self.begin |= {name: numpy.array(states[name]) if name in states else 0.0 for name in stage.states}
        with torch.inference_mode():
            found = graph.run([tensor_of(inputs[name], precision, graph.kinds.get(name)) for name in stage.example])
        after = {name: graph.buffers[name].detach().double().numpy().copy() for name in stage.states}
        return found.inner | found.outputs, list(found.outputs.values())[-len(stage.outputs) :], after


def judged(name: str, known: Any, truth: Any, own: Any, place: Any, ours: Any, unit: float) -> Layer:
    if [each for each in known[place].shape if each != 1] != [each for each in ours.shape if each != 1]:
        shapes = " and ".join("×".join(map(str, each.shape)) for each in (known[place], ours))
        return Layer(name, reason=f"shapes {shapes}", unit=unit)
    # A program in float16 is measured against the float32 that it was made from, torch's own error against the more exact run.
    error = None if truth is None or own is None else tensor_error(truth[place], own[place])
    return Layer(name, tensor_error(known[place], ours), error or TensorError(n=1), unit=unit)


def pooled(one: Layer, other: Layer) -> Layer:
    if one.error is None or other.error is None:
        return one if one.error is None else other
    own = None if one.own is None or other.own is None else one.own + other.own
    return replace(one, error=one.error + other.error, own=own)


def row_of(value: str, origin: Mapping[str, Any], layer: Layer) -> OpCheck:
    return OpCheck(
        value,
        str(origin.get("op") or ""),
        str(origin.get("node") or ""),
        str(origin.get("module") or ""),
        origin.get("line"),
        layer,
    )


def run_program(
    program: Any, inputs: Mapping[str, Any], states: Mapping[str, Any], wanted: set[str], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(values inside, states afterwards, outputs), as they are computed."""
    from workbench.capture.readings import numbers_of

    inside: dict[str, Any] = {}
    ends: dict[str, Any] = {}

    def observe(op: Any, results: tuple[Any, ...]) -> None:
        for (value, _), result in zip(op.outputs, results, strict=False):
            if value in wanted or value in names:
                array = numbers_of(result)
                if array is not None:
                    inside[value] = array

    with told():
        state = program.make_state() if program.states else None
        for name, array in states.items():
            state.write(name, array)
        ends = program.observe(inputs, observe, state)
        after = {feature.name: state.read(feature.name) for feature in program.states} if state is not None else {}
    return inside, after, {name: inside.get(name, ends[name]) for name in names}


def without_harmless(rows: Sequence[OpCheck], odd: set[str], program: Any, agreeing_ends: set[str]) -> list[OpCheck]:
    """Marks what departs, is ``odd`` and is healed: all that is computed from it agrees. A converter may give a node's name to a value in
    another layout, and write -3e38 where torch has -inf. A wrong factor stays named though a mask of -30,000 hides it in the next sum."""
    departing = {row.value for row in rows if row.compared.departs}
    if not departing & odd:
        return list(rows)
    agreeing = {row.value for row in rows if row.compared.departs is False} | agreeing_ends
    readers, order = readers_of(program)
    unclear = {value for value in order if value not in agreeing}
    fine = healed(order, readers, agreeing, unclear) & departing & odd - {feature.name for feature in program.outputs}
    return [replace(row, harmless=row.value in fine) for row in rows]


def is_odd(known: Any, ours: Any, layer: Layer) -> bool:
    """Does a value that departs hold torch's numbers in another order, or others where torch's are not finite?"""
    import numpy

    if not layer.departs or layer.error is None:
        return False
    if layer.error.one_sided:
        return True
    # Large and small numbers alike must be there, so that a few wrong ones are no other order.
    found = tensor_error(numpy.sort(known, axis=None), numpy.sort(ours, axis=None))
    return found.relative_rms <= LIMIT * (layer.yardstick or 0.0)


def readers_of(program: Any) -> tuple[dict[str, set[str]], list[str]]:
    """(the values that are computed from each, all values in order of execution); what is written to a state has itself as reader."""
    readers: dict[str, set[str]] = {}
    order: list[str] = []
    for op in program.function.block.ops:
        inner = [name for block in op.blocks for name in block.free_names()]
        results = [name for name, _ in op.outputs]
        order += results
        for name in (*op.references(), *inner):
            readers.setdefault(name, set()).update(results)
    return readers, order
