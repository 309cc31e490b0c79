"""A twin's capture beside a program's: the same items and arrays, and the program's names wherever a value is the same one.

twin = open_twin("encoder.onnx", items[0].arrays)
run = capture_twin(twin, readings, program_run, items, renamed={}, runs=Path("reports/runs"))
run.artifact["twin"]["outputs"]       # [{"output": "Identity", "twin": "StatefulPartitionedCall:0", "how": "by its name"}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.capture.matching import Known, Match, align, match_outputs
from workbench.capture.program import PREFIX
from workbench.capture.program_inputs import ProgramItem
from workbench.capture.program_names import OUTPUT, normal
from workbench.capture.readings import Readings, Recorder
from workbench.capture.recording import Recorded, find, manifest_of, record
from workbench.capture.twins import Twin, Values
from workbench.errors import UsageError
from workbench.fingerprint import versions
from workbench.metrics.sketch import Moments, estimated_error
from workbench.metrics.tensors import tensor_error
from workbench.run.bundle import Run
from workbench.run.layer_records import LayerRecords, Record
from workbench.run.progress import Progress, Silent

GROSS = 0.5
"""RMS of the error over RMS of the value beyond which two are no rounded copies of each other."""


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
    first = twin.run(items[0].arrays, twin.precisions[0])
    names = name_values(readings, program, items[0].id, twin, first, renamed)
    precisions, notes = usable(twin, items[0])

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
    for precision in more:
        try:
            twin.run(item.arrays, precision)
        except UsageError as error:
            notes.append(f"{twin.label} is not run in {precision}: {error.why}")
        else:
            found.append(precision)
    return found, list(dict.fromkeys([*notes, *twin.notes]))


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


def name_values(readings: Readings, program: Run, item: str, twin: Twin, values: Values, renamed: Mapping[str, str]) -> Names:
    """What each of the twin's values is called in its bundle, settled on one input."""
    own = next(iter(LayerRecords(program).read(item).passes.values()))
    known = {
        layer.removeprefix(OUTPUT): each.values.reshape(each.line["shape"])
        for layer, each in own.items()
        if layer.startswith(OUTPUT) and each.values is not None and each.one_in == 1
    }
    inputs = {feature.name for feature in readings.program.inputs}
    outputs = {name: other for name, other in renamed.items() if name not in inputs}
    ordered = twin.backend == "torch"
    counted = twin.counted
    matches = match_outputs(known, values.outputs, outputs, ordered=ordered, counted=counted)
    as_outputs = {match.twin: f"{OUTPUT}{match.output}" for match in matches if match.twin is not None}
    for name in values.outputs:
        layer = f"{OUTPUT}{name}"
        as_outputs.setdefault(name, f"{layer}_of_twin" if layer in own else layer)
    ends = {
        f"{OUTPUT}{match.output}": likeness(own[f"{OUTPUT}{match.output}"], values.outputs[match.twin])
        for match in matches
        if match.twin
    }
    layers = {
        layer: Known(each.line["shape"], lambda array, each=each: likeness(each, array))
        for layer, each in own.items()
        if not layer.startswith(OUTPUT)
    }
    aligned = align(layers, values.inner, layer_readers(readings), ends, counted=counted)
    inner = {}
    taken = {*own, *as_outputs.values()}
    for name in values.inner:
        layer = aligned.get(name) or normal(name)
        if name not in aligned:
            while layer in taken:
                layer += "_of_twin"
            taken.add(layer)
        inner[name] = layer
    return Names(matches, as_outputs, inner)


def likeness(known: Record, array: Any) -> float:
    """As ``Known.likeness`` of a recorded value and an array; 1 for two zeros, 0 where nothing can be said."""
    import numpy

    if known.line["n"] != array.size:
        return 0.0
    if known.values is not None and known.one_in == 1:
        error = tensor_error(known.values, numpy.asarray(array, numpy.float64).reshape(-1))
    else:
        moments = Moments()
        moments.add(numpy.asarray(array, numpy.float64))
        error = estimated_error(known.moments(), moments.record())
    if error.reference_square == error.candidate_square == 0:
        return 1.0
    if error.one_sided or error.relative_rms > GROSS:
        return -1.0
    return error.cosine or 0.0


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
