"""A Core ML program, run by the reference executor in each of its readings, with every value that it computes recorded.

    readings = Readings("encoder.mlpackage")
    readings.records(item)["float16"]["output.hidden"]        # of the program's own reading; then float64, emulate, fp16-weights

The first pass is the program as it is written. ``float64`` computes the same stored values without rounding: the distance of the two
is the program's own error. For programs with fp16 the readings ``emulate`` and ``fp16-weights`` show how much the rounding of
intermediate values changes. No reading is the arithmetic of a particular device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.capture.accumulate import KEPT_VALUES, Accumulating, Layer
from workbench.capture.program_inputs import ProgramItem
from workbench.capture.program_names import OUTPUT, layer_names
from workbench.errors import RuntimeMissing, UsageError
from workbench.run.layer_records import Record

HELD_BYTES = 2**29
"""Packages up to this size stay loaded in all readings; larger ones are loaded anew for each."""
HALF_READINGS = ("emulate", "fp16-weights")
FIX = "pip install 'parity-workbench[coreml]'"


@contextmanager
def told() -> Iterator[None]:
    """Errors of the executor, which stands alone, as the workbench's own. Raises UsageError; RuntimeMissing where a library lacks."""
    for name in ("coremltools", "torch"):
        if find_spec(name) is None:
            raise RuntimeMissing(f"{name} is not installed", why="ML Programs are read with coremltools and run on torch", fix=FIX)
    from workbench.mil import MilError

    try:
        yield
    except MilError as error:
        python = error.fix is not None and "(" in error.fix  # a call of the executor is nothing to type in a shell
        raise UsageError(error.what, why=error.why, fix=None if python else error.fix) from error


class Recorder(Accumulating):
    """Statistics of every value; of outputs the values too."""

    def add(self, name: str, array: Any) -> None:
        if getattr(array, "size", 0):
            self(name, array)

    def output(self, name: str, array: Any) -> None:
        if getattr(array, "size", 0):
            self.layers.setdefault(f"{OUTPUT}{name}", Layer(KEPT_VALUES)).add(array)


class Readings:
    """One function of a package. Raises UsageError (a bad package, an op that is not known) and RuntimeMissing."""

    def __init__(self, path: str | Path, function: str | None = None, *, keep: bool = False):
        self.path, self.function, self.keep = Path(path), function, keep
        self.loaded: dict[str, Any] = {}
        self.holds = package_bytes(self.path) <= HELD_BYTES
        self.program = self.load("native")
        self.half = has_half(self.program)
        outputs = {feature.name for feature in self.program.outputs}
        self.names = layer_names(name for name in float_values(self.program) if name not in outputs)

    @property
    def dtype(self) -> str:
        """The pass of the program as it is written; of several types the coarsest."""
        return "float16" if self.half else "float32"

    @property
    def passes(self) -> dict[str, str]:
        """``{pass: reading}``, the program's own first."""
        found = {self.dtype: "native", "float64": "float64"}
        return found | {name: name for name in HALF_READINGS} if self.half else found

    @property
    def paths(self) -> dict[str, str]:
        """The program's own name of every layer."""
        return {layer: name for name, layer in self.names.items()} | {
            f"{OUTPUT}{feature.name}": feature.name for feature in self.program.outputs
        }

    def load(self, reading: str) -> Any:
        with told():
            from workbench.mil import load

            if reading in self.loaded:
                return self.loaded[reading]
            program = load(self.path, self.function, reading)
            if self.holds or reading == "native":
                self.loaded[reading] = program
            return program

    def release(self) -> None:
        """Give back the memory of all but the program's own reading: a twin needs as much."""
        self.loaded = {"native": self.program}

    def records(self, item: ProgramItem) -> dict[str, dict[str, Record]]:
        """``{pass: {layer: Record}}`` of one item."""
        return {name: self.one(item, name, reading).records(item.id, name, self.paths) for name, reading in self.passes.items()}

    def one(self, item: ProgramItem, name: str, reading: str) -> Recorder:
        program = self.load(reading)
        tap = Recorder(self.keep)

        def observe(op: Any, results: tuple[Any, ...]) -> None:
            for (value, _), result in zip(op.outputs, results, strict=False):
                if id(op) not in known:
                    continue
                if value in self.names:
                    tap.add(self.names[value], numbers_of(result))
                elif value in outputs:
                    outputs[value] = numbers_of(result)

        # As they are computed: what ``predict`` returns is rounded to the type that the program declares.
        outputs: dict[str, Any] = dict.fromkeys(feature.name for feature in program.outputs)
        known = {id(op) for op in program.function.block.ops}
        with told():
            state = program.make_state() if program.states else None
            results = program.observe(item.arrays, observe, state)
        for feature in program.outputs:
            raw = outputs[feature.name]
            tap.output(feature.name, numbers_of(results[feature.name]) if raw is None else raw)
        return tap


def package_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def has_half(program: Any) -> bool:
    """Does any op put out fp16?"""
    from workbench.mil.graph import walk

    return any(getattr(kind, "dtype", None) == "fp16" for op in walk(program.function.block) for _, kind in op.outputs)


def float_values(program: Any) -> list[str]:
    """Names of the floats that the program computes from its inputs, in order of execution: constants, whole numbers, booleans and
    values of nested blocks apart."""
    block = program.function.block
    live = {name for name, _ in program.function.inputs}
    found = []
    for op in block.ops:
        inner = [name for each in op.blocks for name in each.free_names()]
        if not live.intersection((*op.references(), *inner)):
            continue
        for name, kind in op.outputs:
            live.add(name)
            if getattr(kind, "dtype", None) in ("fp16", "fp32", "fp64", "bf16"):
                found.append(name)
    return found


def numbers_of(value: Any) -> Any:
    """A value as numpy floats: float64 stays, whole numbers become it (exact up to 2^53), probabilities in the order of their labels,
    a picture as its pixels; None for text and lists."""
    import numpy

    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(value, (str, bytes)) or value is None:
        return None
    elif hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value if value.is_floating_point() and value.itemsize > 2 else value.double()).numpy()
    elif isinstance(value, list) and any(hasattr(each, "shape") for each in value):
        return None
    array = numpy.asarray(value)
    if array.dtype.kind not in "fiub":
        return None
    if array.dtype.kind == "f":
        return array if array.dtype.itemsize > 2 else array.astype(numpy.float32)
    return array.astype(numpy.float64)
