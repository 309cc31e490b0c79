"""Find and read the program of a ``.mlpackage`` or ``.mlmodel``, refusing what is unsafe, damaged or of another kind.

A package is a folder: ``Manifest.json`` names the root model by identifier and a path below ``Data``; weights lie beside the model
file, and a program names them as ``@model_path/weights/weight.bin``. Every path is resolved and must stay inside the package.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.mil.errors import PackageError, UnsupportedError

MOST_SPEC_BYTES = 2 << 30
"""protobuf's own limit on one message."""
MOST_MANIFEST_BYTES = 16 << 20

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
        inside = name.removeprefix(prefix)
        found = _inside(self.root, self.folder, inside) if name.startswith(prefix) and "\\" not in name else None
        if found is None:
            raise PackageError(
                f"{self.path} names a weight file {name!r}", why="weights must lie inside the package, below @model_path/; refused"
            )
        if not _asks(found.is_file):
            missing = found.parent if not _asks(found.parent.is_dir) else found
            what = "folder" if missing != found else "file"
            why = "it is no regular file" if _asks(missing.exists) else None
            raise PackageError(
                f"{self.path}: the weights {what} {str(missing.relative_to(self.root))!r} is {'unusable' if why else 'missing'}",
                why=why,
                fix="copy the whole package, with its weights",
            )
        return found


def read_package(path: str | Path) -> Package:
    """Read ``path``. Raises PackageError (damaged, unsafe, not there) or UnsupportedError (another kind of model)."""
    path = Path(path).expanduser()
    if not _asks(path.exists):
        raise PackageError(f"there is no {path}", fix="name a .mlpackage folder or a .mlmodel file")
    folder = _asks(path.is_dir)
    if folder and (path.suffix == ".mlmodelc" or _asks((path / "coremldata.bin").exists)):
        raise UnsupportedError(
            f"{path} is a compiled model",
            why="only the uncompiled form can be read",
            fix="name the .mlpackage it was compiled from",
        )
    if not folder and not _asks(path.is_file):  # reading a device or a pipe may never end
        raise PackageError(f"{path} is neither a folder nor a regular file", fix="name a .mlpackage folder or a .mlmodel file")
    model_file, root = (_root_model(path), path.resolve()) if folder else (path, path.resolve().parent)
    spec = parse(_read(model_file, MOST_SPEC_BYTES), model_file)
    return Package(path, model_file, model_file.resolve().parent, root, spec)


def parse(data: bytes, name: Path) -> Any:
    """The ``Model_pb2.Model`` of ``data``; raises for anything that is not an ML Program."""
    model_pb2 = protocol()
    spec = model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives elsewhere in each of its implementations
        fix = "unpack it and name the .mlpackage folder" if data.startswith(b"PK\3\4") else "get the package again"
        raise PackageError(f"{name} is damaged or is no Core ML model", why=str(error), fix=fix) from error
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
    logger = logging.getLogger("coremltools")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        from coremltools.proto import Model_pb2
    except ImportError as error:
        raise UnsupportedError(
            "coremltools is not installed", why="it defines the file format", fix="pip install 'coremltools>=9.0,<10'"
        ) from error
    finally:
        logger.setLevel(level)
    return Model_pb2


def _root_model(path: Path) -> Path:
    manifest = path / "Manifest.json"
    found = _inside(path.resolve(), path, manifest.name)
    if found is None or not _asks(found.is_file):
        raise PackageError(f"{path} has no Manifest.json", why="it is cut off or no package", fix="copy the whole package")
    try:
        content = json.loads(_read(found, MOST_MANIFEST_BYTES).decode("utf-8"))
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        if not isinstance(entry, str):
            raise TypeError(f"a path is {entry!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(f"{manifest} is damaged", why=f"{type(error).__name__}: {error}", fix="get the package again") from error
    found = _inside(path.resolve(), path / "Data", entry)
    if found is None:
        raise PackageError(f"{manifest} points outside the package: {entry!r}", why="refused")
    if not _asks(found.is_file):
        raise PackageError(f"{path}: {entry!r} is no file in it", why="the package is not whole", fix="copy the whole package")
    return found


def _inside(root: Path, folder: Path, name: str) -> Path | None:
    """``folder / name`` with links followed; None when that is not below ``root`` (a resolved path)."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        return None
    try:
        found = (folder / inside).resolve()
    except (OSError, RuntimeError):  # a link to itself
        return None
    return found if found.is_relative_to(root) else None


def _read(path: Path, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise PackageError(f"{path} has {path.stat().st_size:,} bytes", why=f"such a file has at most {most:,}")
        return path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path} cannot be read", why=error.strerror or str(error)) from error


def _asks(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be looked into
        return False
