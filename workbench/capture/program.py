"""A Core ML program as a capture: what every value of it is, on the reference executor, without a Mac.

    checked = open_package("encoder.mlpackage")              # examined; nothing is run yet
    run = capture_program(checked, items, runs=Path("reports/runs"))

The bundle is of kind ``capture`` with evidence ``reference``: it compares with any other capture, and holds no timing. ``artifact.json``
holds the weights, how each is compressed, and ``program``: ops, findings and interface.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workbench
from workbench.capture.program_inputs import ProgramItem
from workbench.capture.readings import Readings, package_bytes, told
from workbench.capture.recording import Recorded, find, manifest_of, record
from workbench.capture.tensor_entries import tensor_entry
from workbench.errors import UsageError
from workbench.fingerprint import of_file, of_folder, versions
from workbench.run.bundle import Run
from workbench.run.progress import Progress, Silent

LIBRARIES = ("torch", "coremltools", "numpy")
PREFIX = "coreml:"


@dataclass
class Package:
    """A package on disk, examined. ``program``: what the examination says, as JSON."""

    path: Path
    function: str | None
    examination: Any
    program: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{PREFIX}{self.path.name}" + (f"?function={self.function}" if self.function else "")

    @property
    def unsupported(self) -> list[dict[str, Any]]:
        """Rows of the op table that the executor has no handler for."""
        return [row for row in self.program["ops"] if not row["supported"]]


def open_package(path: str | Path, function: str | None = None) -> Package:
    """Examine a package without running it. Raises UsageError (no ML Program, damaged) and RuntimeMissing."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no package {str(path)!r}", fix="workbench mil check MODEL.mlpackage")
    with told():
        from workbench.mil.examine import examine

        examination = examine(path, function)
        return Package(path, function, examination, as_json(examination, path))


def as_json(examination: Any, path: Path) -> dict[str, Any]:
    """What stands in a bundle: no folder above the package's own, which may name a user, and each weight's storage in words."""
    from workbench.mil.weights import left_out

    skipped = {row.name for row in left_out(list(examination.weights))}
    weights = [
        {
            "name": row.name,
            "shape": list(row.shape),
            "dtype": row.dtype,
            "kind": row.kind,
            "compression": row.words,
            "skipped": row.name in skipped,
            "stored_bytes": row.stored_bytes,
            "dense_bytes": row.dense_bytes,
            "ops": [reader.op for reader in row.readers],
        }
        for row in examination.weights
    ]
    # Through JSON, so that it is the same whether it was just made or read from a bundle.
    return json.loads(json.dumps({**examination.to_json(), "path": path.name, "weights": weights}))


def identity_of(path: Path) -> dict[str, Any]:
    return {
        "source": path.name,
        "weights": of_file(path) if path.is_file() else of_folder(path),
        "size_bytes": package_bytes(path),
    }


def manifest_for(package: Package, items: Sequence[ProgramItem], keep: bool) -> dict[str, Any]:
    """The key: the package's files, function, readings, and the libraries that compute."""
    readings = ["native", "float64", "emulate", "fp16-weights"]
    return manifest_of(
        label=package.label,
        backend={"name": "coreml", "executor": f"workbench.mil {workbench.__version__} on torch"},
        identity=identity_of(package.path),
        evidence="reference",
        items=items,
        options={"function": package.function} if package.function else {},
        task={"layers": ["every value"], "keep": keep, "also": readings[1:]},
        libraries=versions(LIBRARIES),
    )


def capture_program(
    package: Package,
    readings: Readings,
    items: Sequence[ProgramItem],
    *,
    runs: Path,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the program on every item in every reading and return the bundle; a complete one of the same package is returned as it is."""
    progress = progress or Silent()
    manifest = manifest_for(package, items, readings.keep)
    folder, complete = find(manifest, runs, fresh=fresh)
    if complete is not None:
        return complete

    def run_item(item: ProgramItem) -> Recorded:
        return readings.records(item), {"findings": watched(readings, item)}

    run = record(
        folder,
        manifest,
        items,
        run_item,
        artifact=lambda: artifact_of(package, readings),
        loaded={"dtype": readings.dtype, "executor": "reference execution on torch", "function": readings.program.function_name},
        notes=[],
        progress=progress,
    )
    readings.release()
    return run


def watched(readings: Readings, item: ProgramItem) -> list[dict[str, Any]]:
    """What only a run can show: where NaN, overflow and underflow begin."""
    program = readings.load("emulate" if readings.half else "native")
    with told():
        from workbench.mil.watch import watch

        state = program.make_state() if program.states else None
        found = watch(program, item.arrays, state)
    return [{"kind": each.kind, "text": each.text, "ops": list(each.ops)} for each in found.findings]


def artifact_of(package: Package, readings: Readings) -> dict[str, Any]:
    """``artifact.json`` of a package: as of any model, and ``program``."""
    path = package.path
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    base = path.parent if path.is_file() else path
    return {
        "bytes": package_bytes(path),
        "files": [
            {"name": each.relative_to(base).as_posix(), "bytes": each.stat().st_size, "hash": of_file(each)[:32]} for each in files
        ],
        "tensors": dict(stored_tensors(readings)),
        "quantisation": None,
        "settings": {},
        "program": package.program,
    }


def stored_tensors(readings: Readings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every weight by name, as it is stored: what lies in the weight files, and the arrays of floats in the program itself."""
    from workbench.mil.graph import Constant, all_constants, walk

    block = readings.program.function.block
    found = list(all_constants(block))
    for op in walk(block):
        for parameter, arguments in op.inputs.items():
            found += [(f"{op.name}.{parameter}", each) for each in arguments if isinstance(each, Constant)]
    for name, constant in found:
        kind = constant.type
        if constant.stored_bytes or (getattr(kind, "shape", None) and getattr(kind, "dtype", "") in ("fp16", "fp32")):
            yield name, tensor_entry(constant.value(), kind.dtype)
