"""One ONNX file as a capture: every float that its graph computes on named arrays, by its own name, on the runtime that was asked for.

    capture_file(ModelSpec.parse("onnx:./model.onnx"), ["arrays.npz"], ...)
    capture_file(ModelSpec.parse("tensorrt:./model.onnx?precision=fp16"), None, ...)        # typed first, as TensorRT would build it

Two such captures compare, whatever ran them: a graph that was typed keeps the names of its values. Beside what ONNX Runtime optimises, the
pass ``pure`` is the graph as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.backends.arrays import described
from workbench.backends.base import TensorSpec
from workbench.backends.onnx_file import OnnxFile, read
from workbench.capture.converted import OBSERVED, PURE
from workbench.capture.program_inputs import ProgramItem, read_inputs
from workbench.capture.program_names import OUTPUT, layer_names
from workbench.capture.readings import Recorder
from workbench.capture.recording import Recorded, find, manifest_of, record
from workbench.capture.tensor_entries import tensor_entry
from workbench.errors import RuntimeMissing, UsageError
from workbench.fingerprint import of_json, versions
from workbench.models.converted import Converted, is_converted
from workbench.models.converted_weights import SMALLEST
from workbench.models.onnx_values import float_values
from workbench.models.options import recipe
from workbench.models.options_converted import TABLES
from workbench.models.seen import as_array
from workbench.registry import get_backend
from workbench.run.bundle import Run
from workbench.run.libraries import UNUSED
from workbench.run.progress import Progress, Silent
from workbench.types import ModelSpec

LEAST = 2
"""What a size that varies is taken to be where the file does not say: 1 is another case to many graphs."""


@dataclass(frozen=True)
class Input:
    """An input as ``program_inputs`` asks for it: no picture, never left out."""

    spec: TensorSpec
    optional: bool = False
    default: Any = None
    image: Any = None

    @property
    def name(self) -> str:
        return self.spec.name

    def __str__(self) -> str:
        return described(self.spec)


@dataclass(frozen=True)
class Inputs:
    inputs: tuple[Input, ...]


def capture_file(
    spec: ModelSpec,
    given: Sequence[str] | None,
    *,
    keep: bool,
    also: Sequence[str],
    runs: str | Path,
    fresh: bool,
    progress: Progress | None,
) -> Run:
    """``given``: files of named arrays; None: random numbers. Raises UsageError, ModelError, DataError and RuntimeMissing."""
    progress = progress or Silent()
    backend = get_backend(spec.backend)
    refuse_options(spec)
    here = backend.available()
    if not here.ok:
        raise RuntimeMissing(f"the runtime {spec.backend!r} is not here", why=here.reason, fix=here.fix)
    source = Path(spec.source).expanduser()
    path = typed_file(spec, source) if recipe(spec.backend, spec.options) else source
    file = read(path)
    items = read_inputs(Inputs(tuple(map(Input, file.inputs))), given) if given is not None else [random_item(file)]
    options = {**spec.options, "precision": "bf16" if "bfloat16" in file.types else str(spec.options.get("precision") or "fp32")}
    prepared, program = backend.prepare(options), backend.open(path, options)
    try:
        passes = passes_of(spec, program, file, also)
        manifest = manifest_of(
            label=label_of(spec),
            backend={
                "name": spec.backend,
                "device": backend.device(options)["kind"],
                **{f"setup.{name}": value for name, value in sorted(prepared.items())},
            },
            identity={"source": source.name, "weights": identity_of(file), "size_bytes": file.size_bytes},
            evidence=program.evidence,
            items=items,
            options=dict(sorted(spec.options.items())),
            task={"layers": ["every value"], "keep": keep, "also": list(passes)[1:]},
            libraries=versions(
                name
                for name in backend.distributions
                if name not in UNUSED.get((spec.backend, program.evidence == "reference"), ())
            ),
        )
        manifest["device"] = backend.device(options)
        folder, complete = find(manifest, Path(runs), fresh=fresh)
        if complete is not None:
            return complete
        names = recorded_values(file)

        def run_item(item: ProgramItem) -> Recorded:
            return {name: one(backend, path, given_, program, item, name, names, keep) for name, given_ in passes.items()}, {}

        return record(
            folder,
            manifest,
            items,
            run_item,
            artifact=lambda: artifact_of(file),
            loaded={"dtype": next(iter(passes)), **program.describe()},
            notes=[OBSERVED] if PURE in passes else [],
            progress=progress,
        )
    finally:
        program.close()


def refuse_options(spec: ModelSpec) -> None:
    known = TABLES[spec.backend]
    unknown = [name for name in spec.options if name not in known or name == "batch_size"]
    if unknown:
        raise UsageError(
            f"one program takes no option {unknown[0]!r}",
            why=f"known: {', '.join(sorted(set(known) - {'batch_size'}))}",
            fix=f"leave ?{unknown[0]} out",
        )


def typed_file(spec: ModelSpec, source: Path) -> Path:
    """The graph typed as ``spec`` says, from the cache, where it is put on first use. Raises UsageError for a recipe that does not fit."""
    from workbench.convert.onnx.foreign import ensure
    from workbench.convert.onnx.recipe import Recipe

    asked = Recipe.from_options({name: value for name, value in recipe(spec.backend, spec.options).items() if value})
    return source if asked == Recipe().check() else Converted(ensure(source, asked)).stage("main").path


def passes_of(spec: ModelSpec, program: Any, file: OnnxFile, also: Sequence[str]) -> dict[str, dict[str, str] | None]:
    """``{pass: options that open it, None for the program itself}``, the graph's own precision first. Raises UsageError."""
    own = file.low[0] if file.low else "float32"
    pure = spec.backend == "onnx" and program.evidence != "reference" and not spec.options.get("reading")
    unknown = [each for each in also if each not in ("auto", "none", own, *([PURE] if pure else []))]
    if unknown:
        raise UsageError(
            f"the reading {unknown[0]!r} is not to be had here", why=f"known: {PURE if pure else 'none'}", fix="leave --also out"
        )
    return {own: None, **({PURE: {**spec.options, "reading": PURE}} if pure and set(also) & {"auto", PURE} else {})}


def label_of(spec: ModelSpec) -> str:
    chosen = "&".join(f"{name}={value}" for name, value in sorted(spec.options.items()))
    path = Path(spec.source).expanduser().resolve()
    name = f"{path.parent.name}/{path.name}" if is_converted(path.parent) else Path(spec.source).name
    return f"{spec.backend}:{name}" + (f"?{chosen}" if chosen else "")


def identity_of(file: OnnxFile) -> str:
    """Over the file and the weights beside it."""
    from workbench.models.checkpoint import file_hash

    return of_json([file.sha256, *sorted([place, file_hash(found)] for place, found in file.external.items())])


def recorded_values(file: OnnxFile) -> dict[str, str]:
    """``{value: layer}``: what is computed, without the copy of an output in the type it is computed in."""
    graph = file.model.graph
    outputs = {each.name for each in graph.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    only_cast = {
        name for name, nodes in readers.items() if all(node.op_type == "Cast" and node.output[0] in outputs for node in nodes)
    }
    return layer_names(name for name in float_values(file.model) if name not in only_cast)


def one(
    backend: Any,
    path: Path,
    options: dict[str, str] | None,
    program: Any,
    item: ProgramItem,
    name: str,
    names: dict[str, str],
    keep: bool,
) -> dict[str, Any]:
    """The records of one pass over one item."""
    import numpy

    tap = Recorder(keep)
    opened = program if options is None else backend.open(path, options)
    try:
        outputs, seen = opened.observe(item.arrays, list(names))
    finally:
        if options is not None:
            opened.close()
    for value, layer in names.items():
        tap.add(layer, numpy.asarray(seen[value]).astype(numpy.float32, copy=False))
    for spec in program.outputs:
        array = numpy.asarray(outputs[spec.name])
        tap.output(spec.name, array if array.dtype == numpy.float64 else array.astype(numpy.float32, copy=False))
    paths = {layer: value for value, layer in names.items()} | {f"{OUTPUT}{spec.name}": spec.name for spec in program.outputs}
    return tap.records(item.id, name, paths)


def random_item(file: OnnxFile) -> ProgramItem:
    """Floats from the standard normal distribution, whole numbers 0 or 1, of seed 0; a size that varies as the file says is typical."""
    import numpy

    generator = numpy.random.default_rng(0)
    sizes = {each.name: [dim.dim_param for dim in each.type.tensor_type.shape.dim] for each in file.model.graph.input}
    arrays = {}
    for spec in file.inputs:
        shape = tuple(
            file.ranges.get(sizes[spec.name][place], (1, LEAST, LEAST))[1] if size is None else size
            for place, size in enumerate(spec.shape)
        )
        whole = numpy.dtype(spec.dtype).kind != "f"
        arrays[spec.name] = generator.integers(0, 2, shape) if whole else generator.standard_normal(shape).astype(numpy.float32)
    shapes = [f"{name} {'×'.join(map(str, array.shape)) or 'scalar'}" for name, array in arrays.items()]
    text = f"random numbers, seed 0: floats standard normal; whole numbers 0 or 1; {', '.join(shapes)}"
    return ProgramItem("random-0", {name: as_array(array) for name, array in arrays.items()}, text)


def constants_of(file: OnnxFile) -> Iterator[tuple[str, Any]]:
    """(name, tensor): initializers, and what Constant nodes hold, which some tools write for the same."""
    yield from ((tensor.name, tensor) for tensor in file.model.graph.initializer)
    for node in file.model.graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], each.t) for each in node.attribute if each.name == "value")


def artifact_of(file: OnnxFile) -> dict[str, Any]:
    """``artifact.json``: the files, and every constant that is an array of floats or integers, as it is stored."""
    from workbench.backends.onnx_external import NUMPY, type_name
    from workbench.models.checkpoint import file_hash

    tensors = {}
    for name, tensor in constants_of(file):
        kind = type_name(tensor.data_type)
        array = file.array(tensor) if kind in NUMPY or kind == "BFLOAT16" else None
        if array is None or not array.shape or (kind == "INT64" and array.size < SMALLEST):  # a shape, an axis
            continue
        tensors[name] = tensor_entry(array.view("uint16"), "bf16") if kind == "BFLOAT16" else tensor_entry(array)
    places = [file.path, *sorted(set(file.external.values()))]
    return {
        "bytes": file.size_bytes,
        "files": [{"name": each.name, "bytes": each.stat().st_size, "hash": file_hash(each)[:32]} for each in places],
        "tensors": tensors,
        "quantisation": None,
        "settings": {},
    }
