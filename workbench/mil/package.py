"""Find and read the program of a ``.mlpackage`` or ``.mlmodel``, refusing what is unsafe, damaged or of another kind.

A package is a folder: ``Manifest.json`` names the root model by identifier and a path below ``Data``; weights lie beside the model
file, and a program names them as ``@model_path/weights/weight.bin``. Every path is resolved and must stay inside the package.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.mil.errors import PackageError, UnsupportedError

MOST_SPEC_BYTES = 2 << 30
"""protobuf's own limit on one message."""

_OTHER_KINDS = {
    "neuralNetwork": "a neural network of the older kind (before ML Programs)",
    "neuralNetworkClassifier": "a neural network classifier of the older kind (before ML Programs)",
    "neuralNetworkRegressor": "a neural network regressor of the older kind (before ML Programs)",
    "pipeline": "a pipeline of several models",
    "pipelineClassifier": "a pipeline of several models",
    "pipelineRegressor": "a pipeline of several models",
    "serializedModel": "a serialised or encrypted model",
}


@dataclass(frozen=True)
class Package:
    """A model file that was read. ``spec``: the ``Model_pb2.Model``; ``folder``: where ``@model_path`` points."""

    path: Path
    model_file: Path
    folder: Path
    root: Path
    spec: Any

    def weight_file(self, name: str) -> Path:
        """The file a program means by ``name``. Raises PackageError when it leaves the package or is not there."""
        prefix = "@model_path/"
        inside = PurePosixPath(name.removeprefix(prefix))
        if not name.startswith(prefix) or inside.is_absolute() or ".." in inside.parts or "\\" in name or "\0" in name:
            raise PackageError(f"{self.path} names a weight file {name!r}", why="weights must lie below @model_path/; refused")
        found = (self.folder / inside).resolve()
        if not found.is_relative_to(self.root):
            raise PackageError(f"{self.path} names a weight file {name!r}", why="it lies outside the package; refused")
        if not found.is_file():
            missing = found.parent if not found.parent.is_dir() else found
            what = "folder" if missing != found else "file"
            raise PackageError(
                f"{self.path}: the weights {what} {missing.relative_to(self.root)} is missing",
                fix="copy the whole package, with its weights",
            )
        return found


def read_package(path: str | Path) -> Package:
    """Read ``path``. Raises PackageError (damaged, unsafe, not there) or UnsupportedError (another kind of model)."""
    path = Path(path).expanduser()
    if not path.exists():
        raise PackageError(f"there is no {path}", fix="name a .mlpackage folder or a .mlmodel file")
    if path.suffix == ".mlmodelc" or (path.is_dir() and (path / "coremldata.bin").exists()):
        raise UnsupportedError(
            f"{path} is a compiled model",
            why="only the uncompiled form can be read",
            fix="name the .mlpackage it was compiled from",
        )
    model_file, root = (_root_model(path), path.resolve()) if path.is_dir() else (path, path.resolve().parent)
    if model_file.stat().st_size > MOST_SPEC_BYTES:
        raise PackageError(f"{model_file} is larger than a model file can be", why="protobuf reads at most 2 GiB")
    spec = parse(model_file.read_bytes(), model_file)
    return Package(path, model_file, model_file.resolve().parent, root, spec)


def parse(data: bytes, name: Path) -> Any:
    """The ``Model_pb2.Model`` of ``data``; raises for anything that is not an ML Program."""
    model_pb2 = protocol()
    spec = model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives elsewhere in each of its implementations
        raise PackageError(f"{name} is damaged or is no Core ML model", why=str(error), fix="get the package again") from error
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        return spec
    if kind is None:
        raise PackageError(f"{name} holds no model", why="it is empty, cut off or no Core ML model", fix="get the package again")
    fix = "convert the original model again with convert_to='mlprogram'"
    if "pipeline" in kind:
        fix = "save its parts on their own and check each"
    raise UnsupportedError(
        f"{name} is {_OTHER_KINDS.get(kind, f'a model of kind {kind}')}", why="only ML Programs can be run", fix=fix
    )


def protocol() -> Any:
    """coremltools' ``Model_pb2``, imported without the lines that its import prints on a machine that is no Mac."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        from coremltools.proto import Model_pb2
    except ImportError as error:
        raise UnsupportedError(
            "coremltools is not installed", why="it defines the file format", fix="pip install 'coremltools>=9.0,<10'"
        ) from error
    return Model_pb2


def _root_model(path: Path) -> Path:
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise PackageError(f"{path} has no Manifest.json", why="it is cut off or no package", fix="copy the whole package")
    try:
        content = json.loads(manifest.read_text("utf-8"))
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        inside = PurePosixPath(entry)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(f"{manifest} is damaged", why=f"{type(error).__name__}: {error}", fix="get the package again") from error
    found = (path / "Data" / inside).resolve()
    if inside.is_absolute() or ".." in inside.parts or "\0" in entry or not found.is_relative_to(path.resolve()):
        raise PackageError(f"{manifest} points outside the package: {entry!r}", why="refused")
    if not found.is_file():
        raise PackageError(f"{path}: {inside} is missing", why="the package is not whole", fix="copy the whole package")
    return found
