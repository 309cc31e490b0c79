"""Converted models looked into: the values of their programs under the project's layer names, so that they compare with torch's.

    run = capture_layers("demo:vlm@coreml", "demo", limit=2)     # chooses this; compare with capture_layers("demo:vlm@torch", ...)

The model's own loop runs its stages; each program is put behind a tap that asks for its layers. A picture's layers are joined with the
next one's, and a decoder that reads a token a call has its positions joined, as one pass over all of them would give. On the reference
executor the programs also run in further readings: ``float64`` has no rounding, so that what rounding makes can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.capture import names
from workbench.capture.accumulate import Accumulating
from workbench.capture.converted_layers import StageLayer, known_layers, stage_layers
from workbench.capture.passes import LOGITS, Passes, joined_logits
from workbench.capture.passes import Model as PassedModel
from workbench.capture.readings import HALF_READINGS, HELD_BYTES
from workbench.errors import UsageError
from workbench.models.loading import open_model
from workbench.models.processors import Prepared
from workbench.run.bundle import Run
from workbench.run.layer_records import Record
from workbench.run.progress import Progress
from workbench.types import ModelSpec

EXACT = "float64"
READINGS = (EXACT, *HALF_READINGS)
ONE_CALL_A_POSITION = "step"
DTYPES = {"fp32": "float32", "fp16": "float16"}


class Tapped:
    """A program whose layers are asked for whenever it runs; all else is the program's."""

    def __init__(self, program: Any, layers: Mapping[str, StageLayer], tap: Accumulating, logits: list[Any]):
        self.program, self.layers, self.tap, self.logits = program, layers, tap, logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)

    def __call__(self, arrays: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        import numpy

        wanted = [layer.value for layer in self.layers.values()]
        has_logits = any(spec.name == LOGITS for spec in self.program.outputs)
        outputs, seen = self.program.observe(arrays, [*wanted, *([LOGITS] if has_logits else [])], state)
        for name, layer in self.layers.items():
            if name != LOGITS:
                value = numpy.asarray(seen[layer.value])
                self.tap(name, value if value.dtype.itemsize > 2 else value.astype(numpy.float32))
        if has_logits:
            made = numpy.asarray(seen[LOGITS])
            self.logits.append((made if made.dtype == numpy.float64 else made.astype(numpy.float32)).reshape(-1, made.shape[-1]))
        return outputs


class ConvertedModel:
    """What ``passes.Passes`` asks of a model, for one whose layers are values of programs."""

    torch = False

    def __init__(self, opened: Any, spec: ModelSpec, family: str):
        self.opened, self.spec, self.family = opened, spec, family
        self.converted = opened.stages.converted

    @cached_property
    def dtype(self) -> str:
        """The precision of its arithmetic: of an fp32 program float32, also where its states are fp16 (``StageLayer.half``)."""
        if self.spec.options.get("reading") == EXACT:
            return EXACT
        return DTYPES.get(str(self.converted.recipe.get("precision")), "float32")

    @property
    def image_tokens(self) -> set[int]:
        """As ``passes.Model.image_tokens``."""
        return {self.converted.sizes[name] for name in ("image_token",) if name in self.converted.sizes}

    @property
    def vocabulary(self) -> int | None:
        return self.converted.sizes.get("vocabulary")

    check_ids = PassedModel.check_ids

    @property
    def readings(self) -> tuple[str, ...]:
        """The further readings there are: of the reference executor, where the user chose none."""
        if self.opened.stages.evidence != "reference" or self.spec.options.get("reading"):
            return ()
        half = self.dtype != "float32" or any(
            layer.half for stage in self.converted.stages.values() for layer in known_layers(stage).values()
        )
        return READINGS if half else (EXACT,)


class ConvertedPasses(Passes):
    """Every pass that ``settings`` ask for over a converted model. ``also``: readings; ``auto`` is ``float64``."""

    def __init__(self, model: ConvertedModel, settings: Mapping[str, Any]):
        patterns = settings["layers"]
        self.model, self.keep = model, bool(settings["keep"])  # type: ignore[assignment]
        self.notes: list[str] = []
        stages = {name: model.converted.stages[name] for name in model.opened.stages}
        self.layers = {name: stage_layers(stage, patterns) for name, stage in stages.items()}
        self.known = {layer.name: layer for found in reversed(self.layers.values()) for layer in found.values()}
        self.logits = names.matches(LOGITS, patterns)
        if not (self.known or self.logits):
            some = ", ".join(list(dict.fromkeys(name for stage in stages.values() for name in known_layers(stage)))[:8])
            raise UsageError(
                f"no layer matches {', '.join(patterns)}", why=f"layers here are called {some}, ...", fix="--layers '*.block.*'"
            )
        self.paths = {name: layer.path for name, layer in self.known.items()}
        self.reference, self.activations = None, {}
        self.precisions = self._readings(settings["also"])
        self.others: dict[str, Any] = {}

    def _readings(self, asked: Sequence[str]) -> list[str]:
        known = self.model.readings
        wanted = [each for each in asked if each not in ("auto", "none", self.model.dtype)]
        for each in wanted:
            if each not in READINGS:
                raise UsageError(
                    f"unknown reading {each!r} of a converted program", why=f"known: {', '.join(READINGS)}", fix="--also float64"
                )
            if each not in known:
                here = (
                    "the device's own arithmetic is what is recorded" if not known else "every op of the program is float32 already"
                )
                raise UsageError(
                    f"the reading {each!r} is not to be had here", why=here, fix="leave --also out, or ?executor=reference"
                )
        if "auto" in asked and EXACT in known and EXACT not in wanted:
            wanted.append(EXACT)
        return sorted(wanted, key=READINGS.index)

    def _further(self, precision: str, prepared: Prepared, tap: Accumulating) -> None:
        """One reading more; small models stay loaded in all of them."""
        spec = replace(self.model.spec, options={**self.model.spec.options, "reading": precision})
        opened = self.others.get(precision) or open_model(spec, self.model.family)
        try:
            self._through(opened, prepared, tap)
        finally:
            if self.model.converted.size_bytes <= HELD_BYTES:
                self.others[precision] = opened
            else:
                opened.close()

    def _forward(self, prepared: Prepared, tap: Accumulating) -> Any:
        return self._through(self.model.opened, prepared, tap)

    def _through(self, opened: Any, prepared: Prepared, tap: Accumulating) -> Any:
        programs, made = opened.stages.programs, []
        before = dict(programs)
        try:
            for name, program in before.items():
                programs[name] = Tapped(program, self.layers[name], tap, made)
            logits = opened.logits(prepared)
        finally:
            programs.update(before)
        logits = joined_logits(made, logits)
        if self.logits:
            tap(LOGITS, logits)
        return logits

    def _records(self, tap: Accumulating, item: str, precision: str) -> dict[str, Record]:
        """Positions that came one a call stand beside each other, as one pass over all of them puts them."""
        records = super()._records(tap, item, precision)
        for name, record in records.items():
            layer = self.known.get(name)
            if layer is None:
                continue
            shape = record.line["shape"]
            if record.line["calls"] > 1 and len(shape) == 3 and shape[1] == 1 and self._by_position(name):
                record.line["shape"] = [1, shape[0], shape[2]]
            record.line["origin"] = layer.where
            if layer.half and self.model.dtype == "float32":
                record.line["half"] = True
        return records

    def _by_position(self, name: str) -> bool:
        return (
            name in self.layers.get(ONE_CALL_A_POSITION, {}) and len([each for each in self.layers.values() if name in each]) == 1
        )

    def close(self) -> None:
        for opened in self.others.values():
            opened.close()


def is_package(spec: ModelSpec) -> bool:
    """Does a model's source name one program rather than a model?"""
    return Path(spec.source).suffix in (".mlpackage", ".mlmodel")


def capture_package(
    spec: ModelSpec, inputs: Sequence[Any], *, keep: bool, runs: str | Path, fresh: bool, progress: Progress | None
) -> Run:
    """The capture of one program, as ``workbench mil check`` makes it: every value in all its readings, on named arrays.

    Raises UsageError for options other than ``function`` and for inputs that are no arrays of its inputs.
    """
    from workbench.capture.check import check_program

    unknown = [name for name in spec.options if name != "function"]
    if unknown:
        raise UsageError(f"one program takes no option {unknown[0]!r}", why="only its function can be chosen", fix="?function=NAME")
    sources = [each.folder if isinstance(each, Run) else each for each in inputs]
    given = None if sources == ["random"] else [str(each) for each in sources]
    strange = [each for each in given or () if not each.endswith(".npz") and "=" not in each]
    if strange:
        raise UsageError(
            f"{strange[0]!r} is no input of one program",
            why="a program without its model's other stages is fed named arrays",
            fix="--inputs arrays.npz, --inputs NAME=picture.png, or --inputs random",
        )
    path = Path(spec.source).expanduser()
    function = spec.options.get("function")
    return check_program(path, given, function=function, keep=keep, runs=runs, fresh=fresh, progress=progress).run
