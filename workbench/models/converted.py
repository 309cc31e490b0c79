"""A model converted for a runtime that runs tensors: a folder of programs, one or more stages each, and what they were made from.

    model = Converted(Path("demo-vlm-coreml"))
    model.runtime, model.runs_on                                # "coreml", ("coreml",); "onnx", ("onnx", "tensorrt")
    model.stages["step"].path, model.stages["step"].function    # .../decoder.mlpackage, "step"; .../step.onnx, None
    model.stages["step"].layers["text.block.3"]                 # the value of the program that is this layer's output
    model.identity()["weights"]                                 # for the run key

The folder holds ``converted.json`` (written last, so a folder that has it is whole), the packages, and the tokenizer's, processor's and
configuration files of the source, so that it runs alone on another machine. Nothing here imports a runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.fingerprint import of_json
from workbench.models import checkpoint

FORMAT = 1
MANIFEST = "converted.json"
LARGEST_MANIFEST = 256 * 2**20
MODEL_FILE = "Data/com.apple.CoreML/model.mlmodel"
WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"
"""Where coremltools puts a package's program and its weights; a program of small constants has no weight file."""
AGAIN = "convert the model again: workbench convert MODEL --to coreml, onnx or tensorrt"
SHARED_WEIGHTS = "weights.data"
"""What the ONNX files of one folder keep their weights in, each once."""
RUNS_ON = {"coreml": ("coreml",), "onnx": ("onnx", "tensorrt")}
"""By the kind of programs, the runtimes that open them."""


@dataclass(frozen=True)
class Feature:
    """One array of a stage. ``dtype``: fp32, fp16, int32 ...; ``shape``: None in a place that may vary, within ``range`` (a pair a place)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    range: tuple[tuple[int, int | None], ...] | None = None


@dataclass(frozen=True)
class ConvertedStage:
    """One program. ``layers``: layer name -> value of the program; ``origins``: value -> op, node, module and torch line it came from;
    ``ops``: op type -> count; ``weights``: one row a weight: what was compressed, what was not and why."""

    name: str
    path: Path
    function: str | None
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ops: Mapping[str, int] = field(default_factory=dict)
    weights: tuple[Mapping[str, Any], ...] = ()

    @property
    def package(self) -> str:
        return self.path.name


class Converted:
    """An artifact folder, read and found whole: every file is there and holds the bytes that the conversion wrote.

    Hashes of files are remembered by path, size and modification time (``checkpoint.file_hash``), so opening again is cheap.
    Raises ModelError for a folder that is no artifact, a damaged manifest, a file that is missing or was changed, a newer format.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self.manifest = _read(self.folder, self.name)
        with _Reading(self.name):
            manifest = self.manifest
            self.runtime = _text(manifest["runtime"])
            if self.runtime not in RUNS_ON:
                raise ValueError(f"it names programs of {self.runtime!r:.80}")
            self.runs_on = RUNS_ON[self.runtime]
            self.family = _text(manifest["family"])
            self.architecture = _text(manifest["architecture"])
            self.sizes = {_text(name): _whole(value) for name, value in manifest["sizes"].items()}
            self.recipe = dict(manifest["recipe"])
            recipe_words(self.recipe)  # what of it is no list, say, is told now
            self.source = dict(manifest["source"])
            self.versions = dict(manifest["versions"])
            self.check = dict(manifest.get("check") or {})
            self.packages = {_plain(name): dict(entry) for name, entry in manifest["packages"].items()}
            self.files = {_plain(name): dict(entry) for name, entry in (manifest.get("files") or {}).items()}
            self.shared = {_plain(name): dict(entry) for name, entry in (manifest.get("shared") or {}).items()}
            self.stages = {_text(name): self._stage(name, entry) for name, entry in manifest["stages"].items()}
            if not self.stages:
                raise ValueError("it lists no stages")
            self._whole()

    def stage(self, name: str) -> ConvertedStage:
        """Raises ModelError naming the stages there are."""
        if name not in self.stages:
            raise ModelError(f"{self.name!r} has no stage {name!r}", why=f"its stages: {', '.join(self.stages)}", fix=AGAIN)
        return self.stages[name]

    @property
    def label(self) -> str:
        """The recipe in words: ``fp16 int8 iOS18 stateful``."""
        return recipe_words(self.recipe)

    @property
    def size_bytes(self) -> int:
        """Of all programs and their weights on the disk."""
        return sum(entry["bytes"] for entry in [*self.packages.values(), *self.shared.values()])

    def identity(self) -> dict[str, Any]:
        """Fields of the run key, as ``checkpoint.identify`` gives them for a checkpoint: hashes of contents, no path.

        ``weights``: over every program and its weights; ``config``: over the settings files and the stages' arrays.
        """
        programs = [[name, entry["model"], entry["weights"]] for name, entry in sorted(self.packages.items())]
        programs += [[name, entry["sha256"]] for name, entry in sorted(self.shared.items())]
        arrays = {
            name: {part: entry.get(part) for part in ("package", "function", "inputs", "outputs", "states")}
            for name, entry in self.manifest["stages"].items()
        }
        settings = sorted([name, entry["sha256"]] for name, entry in self.files.items())
        return {
            "weights": of_json(programs),
            "config": of_json([settings, self.sizes, arrays]),
            "format": self.runtime,
            "size_bytes": self.size_bytes,
            "architecture": self.architecture,
            "quantisation": self.label,
        }

    def _stage(self, name: str, entry: Mapping[str, Any]) -> ConvertedStage:
        package = _plain(entry["package"])
        if package not in self.packages:
            raise ValueError(f"stage {name!r} is in {package!r}, which is not among the packages")
        function = entry.get("function")
        return ConvertedStage(
            name,
            self.folder / package,
            None if function is None else _text(function),
            _features(entry["inputs"]),
            _features(entry["outputs"]),
            _features(entry.get("states") or ()),
            {_text(layer): _text(value) for layer, value in (entry.get("layers") or {}).items()},
            {_text(value): dict(origin) for value, origin in (entry.get("origins") or {}).items()},
            {_text(op): _whole(count) for op, count in (entry.get("ops") or {}).items()},
            tuple(dict(row) for row in entry.get("weights") or ()),
        )

    def _whole(self) -> None:
        """Raises ModelError for a file that is missing, outside the folder, or other than it was written."""
        for package, entry in self.packages.items():
            if self.runtime == "onnx":
                self._same(package, _text(entry["model"]))
                self._own_weights(package, entry["weights"])
            else:
                for part, name in (("model", MODEL_FILE), ("weights", WEIGHT_FILE)):
                    if entry[part] is not None:
                        self._same(f"{package}/{name}", _text(entry[part]))
                self._root(package)
            found = package_bytes(self.folder / package)
            if found != _whole(entry["bytes"]):
                why = f"{found:,} bytes instead of {entry['bytes']:,}"
                raise ModelError(f"package {package} of {self.name!r} was changed since it was converted", why=why, fix=AGAIN)
        for name, entry in [*self.files.items(), *self.shared.items()]:
            self._same(name, _text(entry["sha256"]))

    def _own_weights(self, package: str, wanted: Any) -> None:
        """The weights that an ONNX file refers to are those of the one file that was hashed. Raises ValueError."""
        if wanted is not None and wanted not in [entry.get("sha256") for entry in self.shared.values()]:
            raise ValueError(f"{package} names weights that are not among its files")

    def _same(self, relative: str, wanted: str) -> None:
        path = self.folder / relative
        if not path.is_file():
            raise ModelError(
                f"{relative} of {self.name!r} is missing",
                why=f"{MANIFEST} lists it: the folder was not copied whole",
                fix=f"copy the whole folder, or {AGAIN}",
            )
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ModelError(
                f"{relative} of {self.name!r} is a link out of the folder", why="refused", fix="copy the files themselves"
            )
        if checkpoint.file_hash(path) != wanted:
            raise ModelError(
                f"{relative} of {self.name!r} was changed since it was converted",
                why=f"its hash is not the one in {MANIFEST}, so what was checked then is not what would run now",
                fix=AGAIN,
            )

    def _root(self, package: str) -> None:
        """The package's own manifest (its identifiers are random, so it has no hash here) must name the program that was hashed."""
        path = self.folder / package / "Manifest.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            named = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        except FileNotFoundError as error:
            raise ModelError(
                f"{package}/Manifest.json of {self.name!r} is missing", why="the folder was not copied whole", fix="copy it whole"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"[:200]
            raise ModelError(f"{package}/Manifest.json of {self.name!r} is damaged", why=why, fix=AGAIN) from error
        if f"Data/{named}" != MODEL_FILE:
            raise ModelError(
                f"package {package} of {self.name!r} was changed since it was converted",
                why=f"its Manifest.json names the program {str(named)[:100]!r}",
                fix=AGAIN,
            )


def is_converted(folder: Path) -> bool:
    """Whether the folder says that it is an artifact; whether it is whole, ``Converted`` says."""
    return (Path(folder) / MANIFEST).is_file()


def recipe_words(recipe: Mapping[str, Any]) -> str:
    """``fp16 int8 iOS18 stateful``, of a manifest's recipe; the same words as the ``label`` of the ``Recipe`` of Core ML and of ONNX."""
    kept, context = recipe.get("keep_fp32") or (), recipe.get("context")
    words = [recipe.get("precision"), recipe.get("quantize"), recipe.get("target"), "stateful" if recipe.get("stateful") else None]
    words += [recipe.get("calibration"), *([f"on({','.join(map(str, recipe['samples']))})"] if recipe.get("samples") else [])]
    words += [f"keep-fp32({','.join(map(str, kept))})" if kept else None, None if context is None else f"context{context}"]
    dynamic, opset = recipe.get("dynamic"), recipe.get("opset")
    words += [None if dynamic in (None, ["seq"]) else f"dynamic({','.join(map(str, dynamic)) or 'none'})"]
    words += [None if opset is None else f"opset{opset}"]
    return " ".join(str(word) for word in words if word)


def package_bytes(package: Path) -> int:
    """Bytes of all files of a package, which is one file for ONNX."""
    if package.is_file():
        return package.stat().st_size
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        why = f"it has no {MANIFEST}: it was not converted, or the conversion was interrupted"
        raise ModelError(f"{name!r} is no converted model", why=why, fix=AGAIN)
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not isinstance(manifest["format"], int) or isinstance(manifest["format"], bool):
            raise ValueError("it names no format")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise _damaged(name, error) from error
    if manifest["format"] != FORMAT:
        newer = manifest["format"] > FORMAT
        raise ModelError(
            f"{name!r} was converted by {'a newer' if newer else 'an older'} version of the workbench",
            why=f"{MANIFEST} has format {manifest['format']}, and this version reads {FORMAT}",
            fix="pip install -U parity-workbench" if newer else AGAIN,
        )
    return manifest


def _damaged(name: str, error: Exception) -> ModelError:
    why = f"it lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
    return ModelError(f"{MANIFEST} of {name!r} is damaged", why=why[:300], fix=AGAIN)


class _Reading:
    """What a manifest of another shape raises becomes a ModelError."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            raise _damaged(self.name, error) from error


def _features(entries: Any) -> tuple[Feature, ...]:
    return tuple(
        Feature(
            _text(entry["name"]),
            _text(entry["dtype"]),
            tuple(None if size is None else _whole(size) for size in entry["shape"]),
            None if entry.get("range") is None else tuple((_whole(low), high) for low, high in entry["range"]),
        )
        for entry in entries
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"a name is {value!r:.80}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a number is {value!r:.80}")
    return value


def _plain(name: Any) -> str:
    """The name of a file or folder within the artifact: nothing that leads elsewhere. Raises ValueError."""
    text = _text(name)
    parts = text.split("/")
    if "\\" in text or not text.isprintable() or any(part in ("", ".", "..") or part.endswith(":") for part in parts):
        raise ValueError(f"it names {text[:100]!r}, which is no file of its folder")
    return text
