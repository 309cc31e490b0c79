"""A twin's capture beside a program's: the same items and arrays, and the program's names wherever a value is the same one.

twin = open_twin("encoder.onnx", items[0].arrays)
run = capture_twin(twin, readings, program_run, items, renamed={}, runs=Path("reports/runs"))
run.artifact["twin"]["outputs"]       # [{"output": "Identity", "twin": "StatefulPartitionedCall:0", "how": "by its name"}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from workbench.capture.aligning import Print, align, pair
from workbench.capture.matching import Match, match_outputs
from workbench.capture.program import PREFIX
from workbench.capture.program_inputs import ProgramItem
from workbench.capture.program_names import OUTPUT, normal
from workbench.capture.readings import Readings, Recorder
from workbench.capture.recording import Recorded, find, manifest_of, record
from workbench.capture.twins import Twin, Values
from workbench.errors import UsageError
from workbench.fingerprint import versions
from workbench.metrics.drift import UNITS
from workbench.run.bundle import Run
from workbench.run.layer_records import PRECISIONS, LayerRecords, Record
from workbench.run.progress import Progress, Silent

FEW, FEW_SHARE = 6, 3
"""Of so many inner values at least one in so many should be found in the twin."""
VERIFIED = 7
"""Further inputs on which pairs that were found by what they hold alone must be one too: a mask of ones is like no mask."""


@dataclass(frozen=True)
class Names:
    """``outputs`` and ``inner``: the twin's name -> the layer that it is recorded as."""

    matches: list[Match]
    outputs: dict[str, str]
    inner: dict[str, str]

    @property
    def paths(self) -> dict[str, str]:
        return {layer: name for name, layer in (*self.inner.items(), *self.outputs.items())}


def capture_twin(
    twin: Twin,
    readings: Readings,
    program: Run,
    items: Sequence[ProgramItem],
    *,
    renamed: Mapping[str, str],
    runs: Path,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the twin on every item and return its bundle; a complete one is returned as it is."""
    progress = progress or Silent()
    check_names(readings, renamed)
    manifest = manifest_of(
        label=twin.label,
        backend={"name": twin.backend},
        identity=twin.identity,
        evidence=twin.evidence,
        items=items,
        options={},
        task={
            "layers": ["every value"],
            "keep": readings.keep,
            "also": ["float64"],
            "twin_of": program.manifest["run_key"][:12],
            "map": dict(sorted(renamed.items())),
        },
        libraries=versions(twin.libraries),
    )
    folder, complete = find(manifest, runs, fresh=fresh)
    if complete is not None:
        return complete
    precisions, notes = usable(twin, items[0])
    names = name_values(readings, program, items, twin, precisions, renamed)
    notes += sparse(readings, twin, names)

    def run_item(item: ProgramItem) -> Recorded:
        return {
            name: recorded(twin.run(item.arrays, name), names, readings.keep).records(item.id, name, names.paths)
            for name in precisions
        }, {}

    def artifact() -> dict[str, Any]:
        return {
            "bytes": twin.identity["size_bytes"],
            "files": [],
            "tensors": twin.tensors(),
            "quantisation": None,
            "settings": {},
            "twin": {
                "of": program.manifest["model"]["text"].removeprefix(PREFIX),
                "outputs": [each.to_json() for each in names.matches],
            },
        }

    loaded = {"dtype": twin.precisions[0], "executor": twin.backend}
    return record(folder, manifest, items, run_item, artifact=artifact, loaded=loaded, notes=notes, progress=progress)


def check_names(readings: Readings, renamed: Mapping[str, str]) -> None:
    """Raises UsageError for a ``--map`` of a name that the program has not."""
    known = [feature.name for feature in (*readings.program.inputs, *readings.program.outputs)]
    strange = [name for name in renamed if name not in known]
    if strange:
        raise UsageError(
            f"--map names {strange[0]!r}", why=f"inputs and outputs of the program: {', '.join(known)}", fix="--map NAME=TWINS_NAME"
        )


def usable(twin: Twin, item: ProgramItem) -> tuple[list[str], list[str]]:
    """The precisions in which the twin runs, and what was left out and why."""
    own, *more = twin.precisions
    found, notes = [own], list(twin.notes)
    known = shapes_of(twin.run(item.arrays, own)) if more else {}
    for precision in more:
        try:
            same = shapes_of(twin.run(item.arrays, precision)) == known
        except UsageError as error:
            notes.append(f"{twin.label} is not run in {precision}: {error.why}")
            continue
        if same:
            found.append(precision)
        else:  # a trace in another precision may number its values otherwise: one name would be two values
            notes.append(f"{twin.label} is not run in {precision}: its graph has other values there")
    return found, list(dict.fromkeys([*notes, *twin.notes]))


def sparse(readings: Readings, twin: Twin, names: Names) -> list[str]:
    """A note where few values could be aligned: what departs then cannot be told from what has another name."""
    inner = set(readings.names.values())
    found = len(inner.intersection(names.inner.values()))
    if len(inner) < FEW or FEW_SHARE * found >= len(inner):
        return []
    tip = "" if twin.counted else "; a factory (--against file.py:factory) is traced as a conversion is and shares its names"
    return [
        f"of {len(inner)} inner values of the program {found} were found in {twin.label}: layers say little, outputs count{tip}"
    ]


def shapes_of(values: Values) -> dict[str, Any]:
    return {name: getattr(array, "shape", None) for name, array in (*values.outputs.items(), *values.inner.items())}


def recorded(values: Values, names: Names, keep: bool) -> Recorder:
    import numpy

    tap = Recorder(keep)
    for name, array in values.inner.items():
        if name in names.inner:
            tap.add(names.inner[name], array)
    for name, array in values.outputs.items():
        array = numpy.asarray(array)  # noqa: PLW2901
        if array.dtype.kind in "fiub":
            tap.output(names.outputs[name].removeprefix(OUTPUT), array if array.dtype.kind == "f" else array.astype(numpy.float64))
    return tap


def name_values(
    readings: Readings,
    program: Run,
    items: Sequence[ProgramItem],
    twin: Twin,
    precisions: Sequence[str],
    renamed: Mapping[str, str],
) -> Names:
    """What each of the twin's values is called in its bundle: outputs are settled on the first input, inner values on a few."""
    held = LayerRecords(program)
    passes = held.read(items[0].id).passes
    precision, own = next(iter(passes.items()))
    values = twin.run(items[0].arrays, precisions[0])
    known = {
        layer.removeprefix(OUTPUT): each.values.reshape(each.line["shape"])
        for layer, each in own.items()
        if layer.startswith(OUTPUT) and each.values is not None and each.one_in == 1
    }
    inputs = {feature.name for feature in readings.program.inputs}
    outputs = {name: other for name, other in renamed.items() if name not in inputs}
    matches = match_outputs(known, values.outputs, outputs, ordered=twin.backend == "torch", counted=twin.counted)
    as_outputs = {match.twin: f"{OUTPUT}{match.output}" for match in matches if match.twin is not None}
    for name in values.outputs:
        layer = f"{OUTPUT}{name}"
        as_outputs.setdefault(name, f"{layer}_of_twin" if layer in own else layer)
    prints = {name: Print.of(array) for name, array in (*values.inner.items(), *values.outputs.items()) if is_number(array)}
    order = list(values.inner)
    del values  # of a large twin gigabytes
    coarsest = max((precision, precisions[0]), key=PRECISIONS.index)
    if coarsest == precisions[0]:  # as rung 3 chooses the yardstick: the reference's own error, where it has one in this precision
        prints = with_own_errors(prints, twin, items[0], precisions)
    least = 2 * UNITS[coarsest]
    layers = prints_of(passes)
    ends = {
        f"{OUTPUT}{match.output}": found
        for match in matches
        if match.twin in prints and (found := pair(layers[f"{OUTPUT}{match.output}"], prints[match.twin], least)) is not None
    }
    aligned, guessed = align(
        {layer: each for layer, each in layers.items() if not layer.startswith(OUTPUT)},
        {name: prints[name] for name in order if name in prints},
        layer_readers(readings),
        ends,
        least=least,
        counted=twin.counted,
        trusted=exporter_of(program).startswith("TorchExport") and twin.exported,
    )
    for item in items[1 : 1 + VERIFIED] if guessed else ():
        there = prints_of(held.read(item.id).passes)
        here = {name: Print.of(array) for name, array in twin.run(item.arrays, precisions[0]).inner.items() if name in guessed}
        for name in list(guessed):
            found = pair(there[aligned[name]], here[name], least) if name in here and aligned[name] in there else None
            if found is None or not found.alike:
                guessed.discard(name)
                del aligned[name]
    inner = {}
    taken = {*own, *as_outputs.values()}
    for name in order:
        layer = aligned.get(name) or normal(name)
        if name not in aligned:
            while layer in taken:
                layer += "_of_twin"
            taken.add(layer)
        inner[name] = layer
    return Names(matches, as_outputs, inner)


def exporter_of(program: Run) -> str:
    """What the package says it was converted from."""
    metadata = ((program.artifact or {}).get("program") or {}).get("metadata") or {}
    return str(metadata.get("com.github.apple.coremltools.source_dialect") or "")


def is_number(array: Any) -> bool:
    return getattr(getattr(array, "dtype", None), "kind", "") in "fiub" and bool(array.size)


def with_own_errors(prints: dict[str, Print], twin: Twin, item: ProgramItem, precisions: Sequence[str]) -> dict[str, Print]:
    """The twin's values with what rounding makes of them, where it can be run more exactly."""
    if len(precisions) < 2:
        return prints
    exact = twin.run(item.arrays, precisions[-1])
    found = dict(prints)
    for name, array in (*exact.inner.items(), *exact.outputs.items()):
        if name in found and is_number(array):
            found[name] = replace(found[name], own=rounding(Print.of(array), found[name]))
    return found


def rounding(exact: Print, rounded: Print) -> float | None:
    error = exact.error(rounded)
    return error.relative_rms if error is not None and isfinite(error.relative_rms) else None


def prints_of(passes: Mapping[str, Mapping[str, Record]]) -> dict[str, Print]:
    """Of a program's recorded layers, with what rounding makes of each: its own pass against the one without."""
    own, exact = next(iter(passes.values())), passes.get("float64", {})
    found = {}
    for layer, each in own.items():
        known = Print(each.line["shape"], each.moments())
        more = exact.get(layer)
        found[layer] = known if more is None else replace(known, own=rounding(Print(more.line["shape"], more.moments()), known))
    return found


def layer_readers(readings: Readings) -> dict[str, set[str]]:
    """``{layer: the layers that are computed from it at once}``; whole numbers and booleans pass it on."""
    outputs = {feature.name: f"{OUTPUT}{feature.name}" for feature in readings.program.outputs}
    layers = readings.names | outputs
    sources: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for op in readings.program.function.block.ops:
        read = [*op.references(), *(name for block in op.blocks for name in block.free_names())]
        behind = {layer for name in read for layer in ([layers[name]] if name in layers else sources.get(name, ()))}
        for name, _ in op.outputs:
            if name in layers:
                for layer in behind:
                    found.setdefault(layer, set()).add(layers[name])
            else:
                sources[name] = behind
    return found
