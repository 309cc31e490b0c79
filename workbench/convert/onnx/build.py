"""A model as a folder of typed ONNX graphs with one file of weights, checked and with a manifest; whole or not there at all.

    done = build(subject_of("demo:vlm"), Path("vlm-onnx"), Recipe(precision="fp16"))
    done.artifact.stages["vision"].path            # vlm-onnx/vision.onnx, for ONNX Runtime and TensorRT alike
    done.kept["step"][0]                           # {"value": "val_112", "op": "Softmax", ..., "reason": "a softmax"}

Every stage is exported in float32 and held to torch first; then its types are changed or Q/DQ is put in, and the result is judged again, by
the pure reading of the graph.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.building import Built, Feeds, MakeFeeds, Say, check_patterns, existing, random_feeds, wanted, written
from workbench.convert.comparing import judged
from workbench.convert.feeds import INPUTS_OF, divided
from workbench.convert.onnx.graphs import StageGraph, check_opset, graph_of, require
from workbench.convert.onnx.placement import WEIGHTED
from workbench.convert.onnx.recipe import SAMPLES_LIMIT, Recipe
from workbench.convert.onnx.sizes import fitted, one_sequence, sized
from workbench.convert.reload import DifferentModel
from workbench.convert.subject import Subject
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.convert.stages.stage import Stage, StageSet

ROOM = 4
"""Times the weights in float32: a draft holds every graph in float32 and as asked, and folded weights beside those they come from."""
LOOKED_AT = 2
"""Calls of a stage on which fp16 overflow is looked for."""
NOT_WRITTEN = "nothing was written; --no-check writes it all the same, to look at it with workbench capture"


def build(
    subject: Subject,
    out: Path,
    recipe: Recipe,
    *,
    say: Say | None = None,
    check: bool = True,
    feeds: MakeFeeds | None = None,
    elsewhere: str = "--out FOLDER on another disk",
) -> Built:
    """Convert ``subject`` into the new folder ``out``. ``feeds(stages)``: inputs of the check and what they are in words (default: those of
    ``default_feeds``); int8 is calibrated with ``recipe.samples``. Without ``check``, ``feeds`` are looked at for overflow alone. ``elsewhere``:
    what a user types to write to another disk.

    Raises UsageError (``out`` is there and something else, cannot be written, the recipe does not fit), ModelError (an op without a
    translation, no valid ONNX, no space), DataError (samples that do not fit), RuntimeMissing, and DifferentModel (exit code 1) when the
    check fails: nothing is written then.
    """
    recipe = with_samples(subject, recipe.check())
    asked = wanted(subject, recipe, CONVERTER)
    if os.path.lexists(out):
        return Built(existing(out, asked, check), True)
    require()
    check_opset(recipe.written_opset)
    kept: dict[str, list[dict[str, Any]]] = {}

    def fill(folder: Path) -> tuple[StageSet, dict[str, Any]]:
        plain = subject.stages(recipe)
        stages = sized(plain, recipe)
        given, words = (feeds or default_feeds(subject, recipe))(plain) if check or feeds else ({}, "")
        made = _Made(subject, recipe, plain, stages, folder, say or (lambda text: None), fitted(stages, given), words, check)
        made.convert()
        kept.update(made.kept)
        return stages, made.manifest()

    artifact = written(out, subject, asked, runtime=CONVERTER.name, room=ROOM, elsewhere=elsewhere, fill=fill)
    return Built(artifact, False, kept)


def with_samples(subject: Subject, recipe: Recipe) -> Recipe:
    """The recipe with a demo model's own suite, where int8 has no samples. Raises UsageError for another model without."""
    if recipe.precision != "int8-qdq" or recipe.samples:
        return recipe
    if subject.name not in INPUTS_OF:
        raise UsageError(
            f"int8-qdq needs samples of what {subject.name} will be given",
            why="the scale of an activation is measured, and a measurement on noise is no calibration",
            fix="--calibrate TASK, or --calibrate inputs.npz for a module of your own",
        )
    return replace(recipe, samples=tuple(INPUTS_OF[subject.name]))


def default_feeds(subject: Subject, recipe: Recipe) -> MakeFeeds:
    """Inputs of a check that nobody named: seeded random ones; for int8, whose scales fit real inputs alone, requests of the calibration's
    sources that it did not see. Raises as ``with_samples``."""
    if recipe.precision != "int8-qdq":
        return random_feeds
    recipe = with_samples(subject, recipe)
    return divided(subject, recipe.samples, recipe.samples_limit or SAMPLES_LIMIT)[1]


def check_placed(name: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageError where no stage has a product with Q/DQ: that would be an fp32 model by the name of int8."""
    if any(report["placement"] for report in reports.values()):
        return
    left = Counter(row["reason"] for report in reports.values() for row in report["left"])
    raise UsageError(
        f"int8-qdq quantises nothing of {name}",
        why="; ".join(f"{count} × {why}" for why, count in left.most_common(3)) or f"it has none of {', '.join(WEIGHTED)}",
        fix="--precision fp16",
    )


class ONNX:
    """What ``workbench.convert.cache`` asks of a converter."""

    name = "onnx"
    words = "ONNX and TensorRT"
    number = 1
    """Raised whenever a change to the converter can change what it writes: older artifacts are then converted again."""
    libraries = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
    """What writes the graphs; onnxruntime quantises."""

    def build(self, subject: Subject, out: Path, recipe: Recipe, *, say: Say, elsewhere: str) -> Built:
        return build(subject, out, recipe, say=say, elsewhere=elsewhere)


CONVERTER = ONNX()


@dataclass
class _Made:
    """What grows while the stages are converted into ``folder``. ``plain``: the stages before their sizes were set."""

    subject: Subject
    recipe: Recipe
    plain: StageSet
    stages: StageSet
    folder: Path
    say: Say
    feeds: Feeds
    words: str
    check: bool
    graphs: dict[str, StageGraph] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quantized: dict[str, dict[str, Any]] = field(default_factory=dict)

    def convert(self) -> None:
        from workbench.convert.onnx.saving import save

        total = len(self.stages.stages)
        for number, stage in enumerate(self.stages, 1):
            self.say(f"converting {self.subject.name} for ONNX ({self.recipe.label}): {stage.name} ({number} of {total})")
            self.graphs[stage.name] = graph_of(stage, self.recipe.written_opset)
        for name, why in one_sequence(self.stages, self.recipe).items():
            self.say(f"{name} {why}")
        if self.recipe.precision == "fp32":
            save({name: graph.model for name, graph in self.graphs.items()}, self.folder)
        else:
            (self.folder / "fp32").mkdir()
            save({name: graph.model for name, graph in self.graphs.items()}, self.folder / "fp32")
            if self.recipe.precision == "int8-qdq":
                self._quantize()
            else:
                self._type()
            layers = [layer for graph in self.graphs.values() for layer in graph.layers]
            check_patterns(self.recipe.keep_fp32, self.kept, layers, "MatMul")
        if self.check:
            for stage in self.stages:
                self._check(stage)

    def manifest(self) -> dict[str, Any]:
        """The further fields of the manifest; the float32 graphs are gone afterwards."""
        from workbench.convert.onnx.describing import packages_of

        entries = {stage.name: self._describe(stage) for stage in self.stages}
        if self.recipe.precision != "fp32":
            shutil.rmtree(self.folder / "fp32")
        packages, shared = packages_of(self.folder)
        return {
            "stages": entries,
            "packages": packages,
            "shared": shared,
            "check": self.checks,
            "inputs": self.words,
            "opset": self.recipe.written_opset,
            "one_sequence": one_sequence(self.stages, self.recipe),
        }

    def _before(self, stage: str) -> Path:
        """The float32 graph of a stage."""
        return self.folder / ("" if self.recipe.precision == "fp32" else "fp32") / f"{stage}.onnx"

    def _type(self) -> None:
        from workbench.convert.onnx.saving import save
        from workbench.convert.onnx.typing import typed

        for name, graph in self.graphs.items():
            self.kept[name] = typed(
                graph.model, self.recipe.precision, self.recipe.keep_fp32, graph.origins, graph.layers, graph.stage.layers
            )
        save({name: graph.model for name, graph in self.graphs.items()}, self.folder)

    def _quantize(self) -> None:
        """Raises DataError for samples that do not fit."""
        import onnx_ir

        from workbench.convert.onnx.placement import About
        from workbench.convert.onnx.quantizing import quantize
        from workbench.convert.onnx.saving import save

        make, _ = divided(self.subject, self.recipe.samples, self.recipe.samples_limit or SAMPLES_LIMIT)
        samples, words = make(self.plain)
        samples = fitted(self.stages, samples)
        models = {}
        for stage in self.stages:
            self.say(f"calibrating {stage.name} ({self.recipe.calibration}) on {words}: {len(samples[stage.name]):,} calls")
            graph, path = self.graphs[stage.name], self.folder / "fp32" / f"{stage.name}-int8.onnx"
            about = About(graph.origins, stage.layers)
            report = quantize(self._before(stage.name), path, samples[stage.name], self.recipe, stage=stage.name, about=about)
            report["samples"] = {**report["samples"], "words": words}
            self.quantized[stage.name] = report
            for row in report["weights"]:  # the int8 copy of a tied table, as the product reads it
                if row["transposed"] and (source := graph.sources.get(row["source"])) is not None:
                    graph.sources.setdefault(row["name"], replace(source, how="transposed"))
            self.kept[stage.name] = [row for row in report["left"] if row.get("pattern")]
            models[stage.name] = onnx_ir.load(path)
        check_placed(self.subject.name, self.quantized)
        save(models, self.folder)

    def _check(self, stage: Stage) -> None:
        """Raises DifferentModel naming the output, and the layer where the difference begins."""
        from workbench.convert.onnx import checking

        feeds = self.feeds.get(stage.name) or []
        if not feeds:
            self.checks[stage.name] = None
            return
        self.say(f"checking {stage.name} against torch on {len(feeds)} calls")
        path, low = self.folder / f"{stage.name}.onnx", self.recipe.precision in ("fp16", "bf16")
        if self.recipe.precision == "int8-qdq":
            seen = checking.check_stage(stage, self._before(stage.name), feeds, replace(self.recipe, precision="fp32"))
        else:
            before = self._before(stage.name) if low else None
            seen = checking.check_stage(stage, path, feeds, self.recipe, self.kept.get(stage.name, ()), before)
        if not seen["same"]:
            raise self._different(stage, feeds, seen)
        if self.recipe.precision == "int8-qdq":
            seen["compressed"] = self._measured(stage, path, feeds)
            seen["precision"] = checking.precision_of(path, self.recipe.precision)
        self.checks[stage.name] = seen

    def _different(self, stage: Stage, feeds: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> DifferentModel:
        from workbench.convert.onnx import checking

        graph = self.graphs[stage.name]
        early = any(not row["same"] for row in (seen.get("before") or {}).values()) or self.recipe.precision == "int8-qdq"
        path = self._before(stage.name) if early else self.folder / f"{stage.name}.onnx"
        wrong = checking.differences(stage.name, seen)
        precision = "fp32" if early else self.recipe.precision
        where = checking.first_departing(stage, path, feeds[0], graph.layers, graph.origins, precision, graph.exported)
        wrong += [where] if where else []
        return DifferentModel(
            f"the conversion of {self.subject.name} is not the model: {wrong[0]}",
            why="; ".join(wrong[1:]) or "no layer departs by more than ten times torch's own error",
            fix=NOT_WRITTEN,
        )

    def _measured(self, stage: Stage, path: Path, feeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What quantising adds is measured and not judged. Raises DifferentModel where it makes values that are no numbers."""
        from workbench.convert.onnx import checking

        rows = {name: judged(error, math.inf) for name, error in checking.measure(stage, path, feeds).items()}
        if broken := [name for name, row in rows.items() if "not_finite_on_one_side" in row]:
            raise DifferentModel(
                f"int8 breaks {self.subject.name}: {stage.name}: {broken[0]} has values that are no numbers",
                why="it has none in fp32",
                fix="--calibration max, or --keep-fp32 LAYER; nothing was written",
            )
        return {name: {"relative_l2": row["relative_l2"]} for name, row in rows.items()}

    def _describe(self, stage: Stage) -> dict[str, Any]:
        from workbench.convert.onnx.describing import arrays_of, checked, ops_of, types_of, values_of
        from workbench.convert.onnx.readiness import readiness_of
        from workbench.convert.onnx.weights import weight_report

        graph, path = self.graphs[stage.name], self.folder / f"{stage.name}.onnx"
        proto = checked(path)
        there = values_of(proto)
        layers = {layer: value for layer, value in graph.layers.items() if value in there}
        if lost := [layer for layer in graph.layers if layer not in layers]:
            self.say(
                f"{stage.name} has no value of its own for {', '.join(lost)}: captures leave {'it' if len(lost) == 1 else 'them'} out"
            )
        feeds = (self.feeds.get(stage.name) or [])[:LOOKED_AT]
        quantized = self.quantized.get(stage.name)
        return {
            "package": path.name,
            "function": None,
            **arrays_of(proto),
            "layers": layers,
            "origins": {name: origin for name, origin in graph.origins.items() if name in there},
            "ops": ops_of(proto),
            "types": types_of(proto),
            "kept_fp32": self.kept.get(stage.name, []),
            "weights": weight_report(path, graph, self.recipe, quantized),
            "quantized": quantized,
            "readiness": readiness_of(path, None, feeds or None, fp32=self._before(stage.name), inputs=self.words),
        }
