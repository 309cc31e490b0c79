"""The capture of one program where a model is asked for: a Core ML package or an ONNX file, on named arrays.

    capture_layers("coreml:./encoder.mlpackage", "arrays.npz")           # chooses this
    capture_layers("onnx:./model.onnx", "arrays.npz", keep=True)         # every float of the graph, by its own name

A program alone has no tokenizer and no loop, so it answers nothing; what it computes can be recorded and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.convert.stages.user_module import FAMILY
from workbench.errors import UsageError
from workbench.models.converted import is_converted
from workbench.models.options import recipe
from workbench.models.source import converted
from workbench.run.bundle import Run
from workbench.run.progress import Progress
from workbench.types import ModelSpec

SUFFIXES = (".mlpackage", ".mlmodel", ".onnx")
RANDOM = "random"


def is_program(spec: ModelSpec) -> bool:
    """Does a model's source name one program rather than a model?"""
    return Path(spec.source).suffix in SUFFIXES


def alone(spec: ModelSpec) -> ModelSpec:
    """Of a folder that a file or a module was converted into, its one program; any other ``spec`` as it is. Raises as ``converted``."""
    if spec.source.startswith("demo:") or not is_converted(Path(spec.source).expanduser()):
        return spec
    folder = converted(spec)
    if folder.family != FAMILY or len(folder.stages) != 1:
        return spec
    (stage,) = folder.stages.values()
    made = recipe(spec.backend, spec.options)  # the folder is so already: ``converted`` refuses another
    return replace(spec, source=str(stage.path), options={name: value for name, value in spec.options.items() if name not in made})


def capture_one(
    spec: ModelSpec,
    inputs: Sequence[Any],
    *,
    keep: bool,
    also: Sequence[str],
    runs: str | Path,
    fresh: bool,
    progress: Progress | None,
) -> Run:
    """Raises UsageError for inputs that are no arrays of the program's inputs, and for options that it does not take."""
    sources = [each.folder if isinstance(each, Run) else each for each in inputs]
    given = None if sources == [RANDOM] else [str(each) for each in sources]
    strange = [each for each in given or () if not each.endswith(".npz") and "=" not in each]
    if strange:
        raise UsageError(
            f"{strange[0]!r} is no input of one program",
            why="a program without its model's other stages is fed named arrays",
            fix="--inputs arrays.npz, --inputs NAME=picture.png, or --inputs random",
        )
    wrong = (Path(spec.source).suffix == ".onnx") == (spec.backend == "coreml")
    if wrong:
        runs_it = "onnx or tensorrt" if spec.backend == "coreml" else "coreml"
        raise UsageError(
            f"{Path(spec.source).name!r} is no program of {spec.backend}",
            why=f"{runs_it} opens it",
            fix=f"workbench capture {runs_it.partition(' ')[0]}:{spec.source}",
        )
    if spec.backend != "coreml":
        from workbench.capture.onnx_program import capture_file

        return capture_file(spec, given, keep=keep, also=also, runs=runs, fresh=fresh, progress=progress)
    from workbench.capture.check import check_program

    unknown = [name for name in spec.options if name != "function"]
    if unknown:
        raise UsageError(f"one program takes no option {unknown[0]!r}", why="only its function can be chosen", fix="?function=NAME")
    path, function = Path(spec.source).expanduser(), spec.options.get("function")
    return check_program(path, given, function=function, keep=keep, runs=runs, fresh=fresh, progress=progress).run
