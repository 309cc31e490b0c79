"""A model as a folder of Core ML programs that runs alone on another machine, checked and with a manifest; whole or not there at all.

    done = build(subject_of("demo:vlm"), Path("vlm-coreml"), Recipe(precision="fp16", quantize="int8").check())
    done.artifact.stages["vision"].weights[0]      # {"name": ..., "compressed": True, ...}

``converted.json`` (read by ``workbench.models.converted``) says what the folder was made from; one that is there already is used again only
when all of that is what was asked for.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.building import Built, Feeds, MakeFeeds, Say, check_patterns, existing, random_feeds, wanted, written
from workbench.convert.comparing import judged
from workbench.convert.coreml.check import check_stage, differences, measure
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.reload import DifferentModel
from workbench.convert.subject import Subject
from workbench.errors import RuntimeMissing
from workbench.fingerprint import of_file
from workbench.models.converted import MODEL_FILE, WEIGHT_FILE, package_bytes

if TYPE_CHECKING:
    from workbench.convert.stages.stage import Stage, StageSet

ROOM = 3
"""Times the weights in float32: a draft holds every program as converted and, for a moment, as compressed."""
MEASURED = 4
"""Calls of a stage on which each of its layers' costs is measured, at most."""

Explain = Callable[["Stage", Any, Path, str | None, Sequence[Mapping[str, Any]]], list[str]]
"""(stage, its conversion, package, function, feeds) -> more words about a difference that the check found."""


def build(
    subject: Subject,
    out: Path,
    recipe: Recipe,
    *,
    say: Say | None = None,
    check: bool = True,
    sensitive: bool = False,
    feeds: MakeFeeds | None = None,
    explain: Explain | None = None,
    elsewhere: str = "--out FOLDER on another disk",
) -> Built:
    """Convert ``subject`` into the new folder ``out``. ``feeds(stages)``: inputs of the check and what they are in words (default: seeded
    random ones). ``sensitive``: also measure which layers cost most when they alone are compressed (``coreml.sensitivity``).
    ``elsewhere``: what a user types to write to another disk.

    Raises UsageError (``out`` is there and something else, cannot be written, or the recipe does not fit), ModelError (an op that cannot be
    converted, no space), RuntimeMissing, and DifferentModel (exit code 1) when the check fails: nothing is written then.
    """
    recipe.check()
    asked = wanted(subject, recipe, CONVERTER)
    if os.path.lexists(out):
        return Built(existing(out, asked, check), True)
    require()
    kept: dict[str, list[dict[str, Any]]] = {}

    def fill(folder: Path) -> tuple[StageSet, dict[str, Any]]:
        stages = subject.stages(recipe)
        given, words = (feeds or random_feeds)(stages) if check or sensitive else ({}, "")
        made = _Made(subject, recipe, stages, folder, say or (lambda text: None), given, check, sensitive, explain)
        made.convert()
        kept.update(made.kept)
        return stages, {
            "stages": made.entries,
            "packages": _packages(folder),
            "check": made.checks,
            "inputs": words,
            "sensitivity": made.sensitivity,
        }

    artifact = written(out, subject, asked, runtime=CONVERTER.name, room=ROOM, elsewhere=elsewhere, fill=fill)
    return Built(artifact, False, kept)


class CoreML:
    """What ``workbench.convert.cache`` asks of a converter."""

    name = "coreml"
    words = "Core ML"
    number = 2
    """Raised whenever a change to the converter can change what it writes: older artifacts are then converted again."""
    libraries = ("coremltools", "torch", "transformers", "numpy", "scikit-learn")
    """What writes the programs; scikit-learn finds palettes."""

    def build(self, subject: Subject, out: Path, recipe: Recipe, *, say: Say, elsewhere: str) -> Built:
        return build(subject, out, recipe, say=say, elsewhere=elsewhere)


CONVERTER = CoreML()


def require() -> None:
    """Raises RuntimeMissing where nothing can be converted."""
    from importlib.util import find_spec

    missing = [name for name in ("coremltools", "torch", "transformers") if find_spec(name) is None]
    if missing:
        raise RuntimeMissing(
            "Core ML programs are not made here",
            why=f"{missing[0]} is not installed",
            fix="pip install 'parity-workbench[torch,coreml]', or convert elsewhere and copy the folder",
        )


@dataclass
class _Made:
    """What grows while the stages are converted into ``folder``."""

    subject: Subject
    recipe: Recipe
    stages: StageSet
    folder: Path
    say: Say
    feeds: Feeds
    check: bool
    sensitive: bool
    explain: Explain | None
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def convert(self) -> None:
        from workbench.convert.coreml.compress import compress
        from workbench.convert.coreml.programs import convert_stage

        converted = {}
        total = len(self.stages.stages)
        for number, stage in enumerate(self.stages, 1):
            self.say(f"converting {self.subject.name} for Core ML ({self.recipe.label}): {stage.name} ({number} of {total})")
            found = convert_stage(stage, self.recipe, every_pattern=total == 1)
            package = self.folder / f"{stage.name}.mlpackage"
            save(found.mlmodel, package)
            if self.check:
                self._check(stage, found, package)
            if self.recipe.quantize:
                dense = package.with_name(f"{stage.name}-dense.mlpackage")
                os.rename(package, dense)
                save(compress(found.mlmodel, self.recipe), package)
                if self.sensitive:
                    self._measure(stage, found, dense, package)
                shutil.rmtree(dense)
            found.mlmodel = None  # the weights are on the disk
            self.kept[stage.name] = found.kept
            converted[stage.name] = found
        layers = [layer for each in converted.values() for layer in each.layers]
        check_patterns(self.recipe.keep_fp32, self.kept, layers, "softmax")
        places = self._merged()
        for stage in self.stages:
            self._describe(stage, converted[stage.name], *places[stage.name])

    def _check(self, stage: Stage, found: Any, package: Path) -> None:
        """Raises DifferentModel naming the output, and the op where ``explain`` finds it."""
        feeds = self.feeds.get(stage.name) or []
        if not feeds:
            self.checks[stage.name] = None
            return
        self.say(f"checking {stage.name} against torch on {len(feeds)} calls")
        if self.recipe.precision == "fp16":
            self._check_single(stage, found, feeds[:2])
        self.checks[stage.name] = self._judge(stage, found, package, feeds, self.recipe)

    def _check_single(self, stage: Stage, found: Any, feeds: list[dict[str, Any]]) -> None:
        """fp16 rounds so much that a wrong op can hide in it: the same conversion in fp32 is held to fp32's limit first."""
        from workbench.convert.coreml.programs import convert_stage

        recipe = replace(self.recipe, precision="fp32", keep_fp32=())
        package = self.folder / f"{stage.name}-single.mlpackage"
        single = convert_stage(stage, recipe, exported=found.exported)
        save(single.mlmodel, package)
        self._judge(stage, single, package, feeds, recipe)
        shutil.rmtree(package)

    def _judge(self, stage: Stage, found: Any, package: Path, feeds: list[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
        seen = check_stage(stage, package, None, feeds, recipe, found.kept)
        if seen["same"]:
            return seen
        wrong = differences(stage.name, seen)
        wrong += self.explain(stage, found, package, None, feeds) if self.explain else []
        also = " (converted in fp32 too, to tell rounding from other ops)" if recipe != self.recipe else ""
        raise DifferentModel(
            f"the conversion of {self.subject.name} is not the model{also}: {wrong[0]}",
            why="; ".join(wrong[1:]) or "judged before any compression, so precision and compression are not the reason",
            fix="nothing was written; --no-check writes it all the same, to look at it with workbench mil check and workbench capture",
        )

    def _measure(self, stage: Stage, found: Any, dense: Path, package: Path) -> None:
        from workbench.convert.coreml.sensitivity import stage_sensitivity

        if feeds := self.feeds.get(stage.name):
            feeds = feeds[:: -(-len(feeds) // MEASURED)]
            self.say(f"measuring what each layer of {stage.name} costs")
            self.sensitivity += stage_sensitivity(found, dense, package, feeds)

    def _measure_compressed(self, stage: Stage, package: Path, function: str | None) -> None:
        """What compression adds is measured. Raises DifferentModel where it makes values that are no numbers."""
        errors = measure(stage, package, function, self.feeds[stage.name])
        rows = {name: judged(error, math.inf) for name, error in errors.items()}
        self.checks[stage.name]["compressed"] = {name: {"relative_l2": row["relative_l2"]} for name, row in rows.items()}
        if broken := [name for name, row in rows.items() if "not_finite_on_one_side" in row]:
            raise DifferentModel(
                f"{self.recipe.quantize} breaks {self.subject.name}: {stage.name}: {broken[0]} has values that are no numbers",
                why="it has none before the weights are compressed",
                fix="another --quantize; nothing was written",
            )

    def _merged(self) -> dict[str, tuple[Path, str | None]]:
        """Stage -> (package, function), after stages that share weights were put into one package where the target allows it."""
        places: dict[str, tuple[Path, str | None]] = {
            each.name: (self.folder / f"{each.name}.mlpackage", None) for each in self.stages
        }
        if self.recipe.target != "iOS18" or not self.stages.shared:
            return places
        from workbench.convert.coreml.multifunction import merge

        for names in self.stages.shared:
            target = self.folder / "decoder.mlpackage"
            merge({name: places[name][0] for name in names}, target)
            for name in names:
                shutil.rmtree(places[name][0])
                places[name] = (target, name)
        return places

    def _describe(self, stage: Stage, found: Any, package: Path, function: str | None) -> None:
        from workbench.convert.coreml.weights import weight_report

        settled = found.settle(package, function)
        if self.recipe.quantize and self.check and self.checks.get(stage.name):
            self._measure_compressed(stage, package, function)
        self.entries[stage.name] = {
            "package": package.name,
            "function": function,
            **arrays_of(package, function),
            "layers": settled.layers,
            "origins": settled.origins,
            "ops": settled.ops,
            "kept_fp32": found.kept,
            "weights": weight_report(package, function, found),
        }


def save(mlmodel: Any, package: Path) -> None:
    """Write a package of the same bytes for the same model, without what coremltools keeps for its own debugger."""
    from workbench.convert.coreml.saving import save_package

    save_package(mlmodel, package)


def arrays_of(package: Path, function: str | None) -> dict[str, list[dict[str, Any]]]:
    """``{"inputs", "outputs", "states"}`` of one function of a package, as a manifest holds them."""
    from workbench.mil.graph import read_functions
    from workbench.mil.interface import describe_function
    from workbench.mil.package import read_package

    read = read_package(package)
    functions = read_functions(read)
    described = describe_function(read, functions[function or next(iter(functions))])
    return {
        part: [
            {
                "name": each.name,
                "dtype": each.dtype,
                "shape": list(each.shape),
                "range": [list(pair) for pair in each.ranges] if each.ranges else None,
            }
            for each in features
        ]
        for part, features in zip(("inputs", "outputs", "states"), described, strict=True)
    }


def _packages(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for package in sorted(folder.glob("*.mlpackage")):
        weights = package / WEIGHT_FILE
        found[package.name] = {
            "bytes": package_bytes(package),
            "model": of_file(package / MODEL_FILE),
            "weights": of_file(weights) if weights.is_file() else None,
        }
    return found
