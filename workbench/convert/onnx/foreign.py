"""An ``.onnx`` file that somebody else wrote, typed to a recipe: an artifact of one stage, held to the file itself.

    done = build_from_file(Path("detector.onnx"), Path("detector-fp16"), Recipe(precision="fp16"))
    done.artifact.stages["main"].path         # detector-fp16/main.onnx
    done.kept["main"][0]["reason"]            # "a softmax"

There is no torch module to ask, so the file in fp32 is the truth, and what the types cost is measured by the pure reading of both. A file
that is in the precision asked for already passes through unchanged; one in another is refused, since what was rounded away stays away.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.onnx_file import OnnxFile, read
from workbench.convert.building import Built, Say, existing, on_stderr, wanted, written
from workbench.convert.cache import cached
from workbench.convert.comparing import judged
from workbench.convert.feeds import LIMIT, apart, read_arrays, spread, told_apart
from workbench.convert.onnx.file_feeds import random_arrays
from workbench.convert.onnx.recipe import SAMPLES_LIMIT, Recipe
from workbench.convert.reload import DifferentModel
from workbench.convert.stages.stage import StageSet
from workbench.convert.stages.user_module import FAMILY
from workbench.convert.subject import Subject
from workbench.errors import ModelError, UsageError
from workbench.fingerprint import of_file, of_json

if TYPE_CHECKING:
    from workbench.metrics.tensors import TensorError

STAGE = "main"
OLDEST_OPSET = 11
"""What TensorRT's users and torch before 2.0 still have; before it the bounds of Clip are no inputs, and Resize means something else."""
ROOM = 3
LIBRARIES = ("onnx", "onnx-ir", "onnxruntime", "numpy")
QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass
class FileSubject(Subject):
    """``file``: as it was read and checked."""

    file: OnnxFile | None = None

    @property
    def read(self) -> OnnxFile:
        assert self.file is not None
        return self.file


def file_subject(path: Path) -> FileSubject:
    """What a conversion is made from. Raises ModelError (damaged, too new, external data, ops of nobody's, an operator set before 11)."""
    file = read(path)
    if file.opset < OLDEST_OPSET:
        raise ModelError(
            f"{path.name} is of operator set {file.opset}",
            why=f"its ops have the meanings of {OLDEST_OPSET} and later from there on alone",
            fix=f"export it again, or python -c \"import onnx; onnx.save(onnx.version_converter.convert_version(onnx.load('{path.name}'), 17), 'NEW.onnx')\"",
        )
    stages = StageSet(FAMILY, file.model.graph.name or "ONNX graph", (), {}, (), lambda *given: {})
    outside = sorted((name, of_file(place)) for name, place in file.external.items())
    arrays = [[list(map(str, (each.name, each.dtype, each.shape))) for each in side] for side in (file.inputs, file.outputs)]
    return FileSubject(
        path.name, None, of_json([file.sha256, outside]), of_json(arrays), file.size_bytes, None, lambda recipe: stages, file=file
    )


def held_precision(file: OnnxFile) -> str:
    """``fp32``, ``fp16``, ``bf16``, ``int8-qdq``, or several with "and": what a file is in already."""
    words = [word for word, name in (("fp16", "float16"), ("bf16", "bfloat16")) if name in file.low]
    words += ["int8-qdq"] if QUANTISED & {node.op_type for node in file.model.graph.node} else []
    return " and ".join(words) or "fp32"


class File:
    """What ``workbench.convert.cache`` asks of a converter."""

    name = "onnx"
    words = "ONNX and TensorRT"
    number = 1
    libraries = LIBRARIES

    def build(self, subject: Subject, out: Path, recipe: Recipe, *, say: Say, elsewhere: str) -> Built:
        assert isinstance(subject, FileSubject)
        return _built(subject, out, recipe, say, True, None, "", elsewhere)


CONVERTER = File()


def ensure(path: Path, recipe: Recipe, say: Say | None = None) -> Path:
    """The folder of a file typed to a recipe, in the user's cache; made and checked now where it is not here yet. Raises as
    ``build_from_file``."""
    subject = file_subject(path)
    return cached(CONVERTER, subject, _fitting(recipe.check(), subject), say or on_stderr).folder


def build_from_file(
    path: Path,
    out: Path,
    recipe: Recipe,
    *,
    say: Say | None = None,
    check: bool = True,
    feeds: Sequence[Mapping[str, Any]] | None = None,
    words: str = "",
    elsewhere: str = "--out FOLDER on another disk",
) -> Built:
    """Type the file at ``path`` into the new folder ``out``. ``feeds``: arrays by the names of its inputs, a call each, and ``words`` what
    they are (default: seeded random ones); int8 is calibrated with the ``.npz`` files in ``recipe.samples``.

    Raises UsageError (``out`` is there, options that mean nothing for a file), ModelError (a file that cannot be read, or is in another
    precision already; no valid graph), DataError (arrays that do not fit) and DifferentModel where the typed graph computes something else.
    """
    subject = file_subject(path)
    return _built(subject, out, _fitting(recipe.check(), subject), say or (lambda text: None), check, feeds, words, elsewhere)


def _fitting(recipe: Recipe, subject: FileSubject) -> Recipe:
    """Raises UsageError for what a file settles itself, ModelError for a file that is in another precision."""
    file, name = subject.read, subject.name
    if recipe.context is not None:
        raise UsageError(f"--context means nothing for {name}", why="a file's sizes are what they are", fix="leave it out")
    if recipe.dynamic != ("seq",):
        raise UsageError(f"--dynamic means nothing for {name}", why="a file's sizes are what they are", fix="leave it out")
    if recipe.opset not in (None, file.opset):
        raise UsageError(f"{name} is of operator set {file.opset}", why="a file is typed in its own", fix=f"--opset {file.opset}")
    held = held_precision(file)
    if recipe.precision == "int8-qdq" and not recipe.samples and held != recipe.precision:
        raise UsageError(
            f"int8-qdq needs samples of what {name} will be given",
            why="the scale of an activation is measured, and a measurement on noise is no calibration",
            fix="--calibrate inputs.npz",
        )
    if held not in ("fp32", recipe.precision):
        raise ModelError(
            f"{name} is in {held} already, and {recipe.precision} was asked for",
            why="what its types have rounded away does not come back",
            fix=f"--precision {held}, or the model in fp32" if " " not in held else "the model in fp32",
        )
    return recipe


def _built(
    subject: FileSubject,
    out: Path,
    recipe: Recipe,
    say: Say,
    check: bool,
    feeds: Sequence[Mapping[str, Any]] | None,
    words: str,
    elsewhere: str,
) -> Built:
    asked = wanted(subject, recipe, CONVERTER)
    if os.path.lexists(out):
        return Built(existing(out, asked, check), True)
    kept: dict[str, list[dict[str, Any]]] = {}

    def fill(folder: Path) -> tuple[StageSet, dict[str, Any]]:
        given, about = list(feeds or ()), words
        if check and not given:
            given, about = _default_feeds(subject, recipe)
        made = _Made(subject, recipe, folder, say, given, about, check)
        manifest = made.manifest()
        kept[STAGE] = made.kept
        return subject.stages(recipe), manifest

    return Built(written(out, subject, asked, runtime=CONVERTER.name, room=ROOM, elsewhere=elsewhere, fill=fill), False, kept)


def _default_feeds(subject: FileSubject, recipe: Recipe) -> tuple[list[dict[str, Any]], str]:
    """Inputs of a check that nobody named, and what they are: for int8 those of the calibration's files that it did not see."""
    if not recipe.samples:
        return random_arrays(subject.read), "seeded random inputs"
    seen, unseen = apart(recipe.samples, recipe.samples_limit or SAMPLES_LIMIT)
    paths = [Path(name) for name in spread(unseen or seen, LIMIT)]
    return [read_arrays(path) for path in paths], f"{', '.join(path.name for path in paths)}, {told_apart(bool(unseen))}"


class _Made:
    """One file on its way into ``folder``."""

    def __init__(
        self,
        subject: FileSubject,
        recipe: Recipe,
        folder: Path,
        say: Say,
        feeds: Sequence[Mapping[str, Any]],
        words: str,
        check: bool,
    ):
        self.subject, self.recipe, self.folder, self.say = subject, recipe, folder, say
        self.feeds, self.words, self.check = feeds, words, check
        self.file, self.path = subject.read, folder / f"{STAGE}.onnx"
        self.kept: list[dict[str, Any]] = []
        self.quantized: dict[str, Any] | None = None
        self.passes = held_precision(self.file) == recipe.precision
        """It is what was asked for already."""

    def manifest(self) -> dict[str, Any]:
        from workbench.convert.onnx.describing import arrays_of, checked, ops_of, packages_of, types_of, values_of
        from workbench.convert.onnx.readiness import readiness_of

        self._write()
        proto = checked(self.path)
        verdict = self._checked() if self.check else None
        there = values_of(proto)
        entry = {
            "package": self.path.name,
            "function": None,
            **arrays_of(proto),
            "layers": {},
            "origins": {name: row for name, row in self.origins.items() if name in there},
            "ops": ops_of(proto),
            "types": types_of(proto),
            "kept_fp32": self.kept,
            "weights": self._weights(),
            "quantized": self.quantized,
            "readiness": readiness_of(self.path, None, self.feeds or None, fp32=self.file.path, inputs=self.words),
        }
        packages, shared = packages_of(self.folder)
        return {
            "stages": {STAGE: entry},
            "packages": packages,
            "shared": shared,
            "check": {STAGE: verdict} if self.check else {},
            "inputs": self.words,
            "opset": self.file.opset,
            "one_sequence": {},
        }

    def _write(self) -> None:
        import onnx_ir

        from workbench.convert.onnx.saving import save
        from workbench.convert.onnx.typing import LOW, typed

        model = onnx_ir.load(self.file.path)
        self.origins = {
            value.name: {"op": node.op_type, "node": node.name or "", "module": "", "line": None, "result": True}
            for node in model.graph
            for value in node.outputs
            if value.name
        }
        self.say(f"converting {self.subject.name} for ONNX ({self.recipe.label})")
        if self.recipe.precision in LOW and not self.passes:
            self.kept = typed(model, self.recipe.precision, self.recipe.keep_fp32, self.origins)
            self._every_pattern()
        elif self.recipe.precision == "int8-qdq" and not self.passes:
            model = self._quantise()
        save({STAGE: model}, self.folder)
        shutil.rmtree(self.folder / "int8", ignore_errors=True)

    def _quantise(self) -> Any:
        import onnx_ir

        from workbench.convert.onnx.build import check_placed
        from workbench.convert.onnx.quantizing import quantize

        names, _ = apart(self.recipe.samples, self.recipe.samples_limit or SAMPLES_LIMIT)
        samples = [read_arrays(Path(name)) for name in names]
        (self.folder / "int8").mkdir()
        path = self.folder / "int8" / f"{STAGE}.onnx"
        self.quantized = quantize(self.file.path, path, samples, self.recipe, stage=STAGE)
        self.quantized["samples"] = {
            **self.quantized["samples"],
            "words": ", ".join(Path(name).name for name in names),
        }
        check_placed(self.subject.name, {STAGE: self.quantized})
        self.kept = [row for row in self.quantized["left"] if row.get("pattern")]
        return onnx_ir.load(path)

    def _every_pattern(self) -> None:
        used = {row["pattern"] for row in self.kept}
        for pattern in self.recipe.keep_fp32:
            if pattern not in used:
                types = ", ".join(dict.fromkeys(row["op"] for row in self.origins.values()))
                raise UsageError(
                    f"--keep-fp32 {pattern!r} keeps nothing",
                    why=f"{self.subject.name} has no op type or value of that name; op types: {types[:300]}",
                    fix="a type such as MatMul or a value's name, with * for anything",
                )

    def _checked(self) -> dict[str, Any]:
        """Raises DifferentModel where the graph is further from the file's own than rounding in the type explains."""
        from workbench.convert.onnx.checking import FALLBACK, LEAST, differences, precision_of

        self.say(f"checking {self.subject.name} against the file on {len(self.feeds)} calls")
        errors = compared(self.path, self.file.path, self.feeds)
        low = not self.passes and self.recipe.precision in ("fp16", "bf16")
        limit = FALLBACK[self.recipe.precision] if low else LEAST
        if self.recipe.precision == "int8-qdq" and not self.passes:
            limit = math.inf
        rows = {name: judged(error, limit) | {"own_error": None} for name, error in errors.items()}
        precision = precision_of(self.path, self.recipe.precision, self.kept)
        if self.passes:
            precision = {**precision, "same": True}
        found = {
            "outputs": {} if math.isinf(limit) else rows,
            "precision": precision,
            "calls": len(self.feeds),
            "same": precision["same"] and all(row["same"] for row in rows.values()),
            "before": None,
            "note": f"against the file in fp32; limits are {limit / UNITS[self.recipe.precision]:.0f} units of rounding"
            if low
            else None,
        }
        if math.isinf(limit):
            found["compressed"] = {name: {"relative_l2": row["relative_l2"]} for name, row in rows.items()}
        if not found["same"]:
            wrong = differences(STAGE, {**found, "outputs": rows})
            raise DifferentModel(
                f"{self.subject.name} in {self.recipe.precision} computes something else: {wrong[0]}".replace(
                    "torch's", "its own in fp32"
                ),
                why="; ".join(wrong[1:]) or "its types are all that was changed",
                fix="--keep-fp32 OP or VALUE, or --precision bf16; nothing was written",
            )
        return found

    def _weights(self) -> list[dict[str, Any]]:
        """As ``weights.weight_report``; the error is against the weight of the same name in the file."""
        import onnx_ir

        from workbench.convert.onnx.weights import SUFFIX, stored

        before = onnx_ir.load(self.file.path).graph.initializers
        rows = []
        for weight in stored(self.path):
            name = weight.name if weight.name in before else SUFFIX.sub("", weight.name)
            own = before[name].const_value if name in before else None
            compressed = weight.scale is not None
            rows.append(
                {
                    "name": weight.name,
                    "parameter": name if name in before else None,
                    **{"checkpoint": None, "tied": [], "layer": None, "how": "as it is", "shape": list(weight.shape)},
                    "dtype": "fp32" if compressed else weight.dtype,
                    "asked": "int8" if self.recipe.precision == "int8-qdq" else None,
                    "compressed": compressed,
                    "compression": weight.dtype if compressed else "none",
                    "words": weight.dtype,
                    "why_not": None,
                    "stored_bytes": weight.bytes + (weight.scale.nbytes if compressed else 0),
                    "dense_bytes": math.prod(weight.shape) * 4 if compressed else weight.bytes,
                    "readers": [list(reader) for reader in weight.readers],
                    "error": _error(weight, own),
                }
            )
        return rows


UNITS = {"fp16": 2.0**-11, "bf16": 2.0**-8}


def compared(path: Path, right: Path, feeds: Sequence[Mapping[str, Any]]) -> dict[str, tuple[TensorError, bool]]:
    """By output: (the error of one file against another, pooled over the calls; whether it is whole numbers), by the pure reading of both."""
    import numpy

    from workbench.backends.onnx import open_reference
    from workbench.convert.comparing import same_shape
    from workbench.metrics.tensors import TensorError, tensor_error

    found: dict[str, tuple[TensorError, bool]] = {}
    one, other = open_reference(path, {}), open_reference(right, {})
    try:
        for feed in feeds:
            given, expected = one(dict(feed)), other(dict(feed))
            for name, value in expected.items():
                whole = numpy.asarray(value).dtype.kind in "iub"
                known = found.get(name, (TensorError(), whole))[0]
                pair = same_shape(name, _numbers(value), _numbers(given[name]))
                found[name] = (known + tensor_error(*pair), whole)
    finally:
        one.close()
        other.close()
    return found


def _numbers(value: Any) -> Any:
    import numpy

    value = numpy.asarray(value)
    return value if value.dtype.kind in "iub" else value.astype(numpy.float64)


def _error(weight: Any, own: Any) -> float | None:
    from workbench.convert.coreml.sources import relative_l2

    if own is None or tuple(own.shape) != tuple(weight.shape):
        return None
    return relative_l2(weight.dense(), _numbers(own.numpy()))
