"""Converted models looked into: the values of their programs under the project's layer names, so that they compare with torch's.

    run = capture_layers("demo:vlm@coreml", "demo", limit=2)     # chooses this; compare with capture_layers("demo:vlm@torch", ...)

The model's own loop runs its stages; each program is put behind a tap that asks for its layers. A picture's layers are joined with the
next one's, and a decoder that reads a token a call has its positions joined, as one pass over all of them would give. The programs also
run in further readings: on Core ML's reference executor ``float64`` has no rounding, so that what rounding makes can be told; beside what ONNX Runtime
optimises, ``pure`` is the graph as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
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
from workbench.run.layer_records import Record
from workbench.types import ModelSpec

EXACT, PURE = "float64", "pure"
READINGS = (EXACT, *HALF_READINGS, PURE)
ONE_CALL_A_POSITION = "step"
OBSERVED = (
    "what is recorded is a further output of its graph, which keeps ONNX Runtime from fusing the ops around it: the optimised reading is seen "
    "a little less optimised than it answers; the pass 'pure' is the graph as it is written"
)


class Tapped:
    """A program whose layers are asked for whenever it runs; all else is the program's."""

    def __init__(self, program: Any, layers: Mapping[str, StageLayer], tap: Callable[[str, Any], Any], logits: list[Any]):
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
        return EXACT if self.spec.options.get("reading") == EXACT else self.opened.stages.dtype

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
        """The further readings there are where the user chose none: of Core ML's reference executor, and of ONNX Runtime."""
        stages = self.opened.stages
        if self.spec.options.get("reading"):
            return ()
        if stages.runtime == "onnx":
            return (PURE,) if stages.evidence != "reference" else ()
        if stages.runtime != "coreml" or stages.evidence != "reference":
            return ()
        half = self.dtype != "float32" or any(
            layer.half for stage in self.converted.stages.values() for layer in known_layers(stage).values()
        )
        return (EXACT, *HALF_READINGS) if half else (EXACT,)


class ConvertedPasses(Passes):
    """Every pass that ``settings`` ask for over a converted model. ``also``: readings; ``auto`` is ``float64``, of ONNX Runtime ``pure``."""

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
        if PURE in self.model.readings:
            self.notes.append(OBSERVED)

    def _readings(self, asked: Sequence[str]) -> list[str]:
        known = self.model.readings
        wanted = [each for each in asked if each not in ("auto", "none", self.model.dtype)]
        for each in wanted:
            if each not in READINGS:
                raise UsageError(
                    f"unknown reading {each!r} of a converted program", why=f"known: {', '.join(READINGS)}", fix="leave --also out"
                )
            if each not in known:
                raise UsageError(f"the reading {each!r} is not to be had here", why=self._no_reading(), fix="leave --also out")
        if "auto" in asked:
            wanted += [each for each in (EXACT, PURE) if each in known and each not in wanted]
        return sorted(wanted, key=READINGS.index)

    def _no_reading(self) -> str:
        stages = self.model.opened.stages
        if self.model.spec.options.get("reading"):
            return f"?reading={self.model.spec.options['reading']} chose one"
        if stages.runtime == "coreml" and stages.evidence == "reference":
            return "every op of the program is float32 already"
        if stages.runtime == "coreml":
            return "the device's own arithmetic is what is recorded (?executor=reference has further readings)"
        there = ", ".join(self.model.readings)
        return f"of {stages.runtime} there is {there or 'one reading only'}"

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

    def _again(self, prepared: Prepared) -> Any:
        """Observed as before: a session with fewer outputs fuses more, and rounds elsewhere."""
        if PURE not in self.model.readings:
            return super()._again(prepared)
        return self._through(self.model.opened, prepared, lambda name, value: None)

    def _through(self, opened: Any, prepared: Prepared, tap: Callable[[str, Any], Any]) -> Any:
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
