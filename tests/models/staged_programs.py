"""Stages run by torch behind the interface of converted programs: the loops over them are tested without any converter or runtime."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy

from workbench.convert.stages import stages_of
from workbench.models import checkpoint, options
from workbench.models.converted import ConvertedStage, Feature, package_bytes
from workbench.models.loading import read_json
from workbench.models.program_stages import open_stages
from workbench.models.source import Resolved
from workbench.types import ModelSpec


class TorchState:
    def __init__(self, arrays: dict[str, Any]):
        self.arrays = arrays

    def read(self, name: str) -> Any:
        return self.arrays[name].copy()

    def write(self, name: str, array: Any) -> None:
        assert array.shape == self.arrays[name].shape and array.dtype == self.arrays[name].dtype
        self.arrays = {**self.arrays, name: array}

    def copy(self) -> TorchState:
        return TorchState(dict(self.arrays))


class TorchProgram:
    """One stage. ``failing``: the call (from 1) that raises what a runtime might."""

    def __init__(self, stage: Any, evidence: str):
        self.stage, self.evidence, self.calls, self.failing, self.closed = stage, evidence, 0, None, False

    def __call__(self, arrays: Any, state: TorchState | None = None) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.failing:
            raise RuntimeError("error code: -1, computing the program")
        assert set(arrays) == set(self.stage.example) and (state is not None) == bool(self.stage.states)
        own = {name: array if array.flags.writeable else array.copy() for name, array in arrays.items()}  # torch wants them so
        found, after = self.stage.run({**own, **({} if state is None else state.arrays)})
        if state is not None:
            state.arrays = after
        return found

    def make_state(self) -> TorchState:
        return TorchState({name: numpy.zeros_like(getattr(self.stage.module, name).numpy()) for name in self.stage.states})

    def describe(self) -> dict[str, Any]:
        return {"executor": "torch", "timing": None}

    def close(self) -> None:
        self.closed = True


class TorchStages:
    """The backend: ``open`` gives the stage that the file is named after."""

    name = "coreml"

    def __init__(self, cut: Any, evidence: str):
        self.cut, self.evidence, self.opened = cut, evidence, []

    def open(self, path: Path, given: Any, function: str | None = None) -> TorchProgram:
        self.opened.append(TorchProgram(self.cut[path.stem], self.evidence))
        return self.opened[-1]


def manifest_of(folder: Path, cut: Any, stateful: bool) -> Any:
    """What ``Converted`` reads of an artifact, of stages that torch runs."""

    def features(names: Any) -> tuple[Feature, ...]:
        return tuple(Feature(name, "fp32", ()) for name in names)

    stages = {}
    for stage in cut:
        given = tuple(Feature(name, "fp32", tuple(value.shape)) for name, value in stage.example.items())
        stages[stage.name] = ConvertedStage(
            stage.name, folder / f"{stage.name}.mlpackage", None, given, features(stage.outputs), features(stage.states)
        )
    return SimpleNamespace(
        folder=folder,
        name=folder.name,
        runtime="coreml",
        runs_on=("coreml",),
        family=cut.family,
        architecture=cut.architecture,
        sizes=dict(cut.sizes),
        recipe={"precision": "fp32", "quantize": None, "target": "iOS18", "stateful": stateful, "keep_fp32": []},
        label="fp32 iOS18",
        versions={"converter": 1},
        size_bytes=1,
        manifest={"stages": {name: {} for name in stages}},
        stages=stages,
        stage=stages.__getitem__,
    )


def opened(
    kind: Any, folder: Path, *, stateful: bool, context: int | None = None, evidence: str = "reference", **given: str
) -> Any:
    """The model class ``kind`` over the stages of a checkpoint."""
    cut = stages_of(folder, stateful=stateful, context=context)
    stages = open_stages(manifest_of(folder, cut, stateful), TorchStages(cut, evidence), {}, cut.family)
    config, generation = checkpoint.read_config(folder), read_json(folder / "generation_config.json")
    chosen = options.read("coreml", given, cut.family)
    return kind(ModelSpec.parse("coreml:tiny"), Resolved(folder, "tiny"), stages, config, generation, chosen)


def write_artifact(folder: Path, **changes: Any) -> Path:
    """A folder that ``Converted`` takes for an artifact; its one program is no program."""
    package = folder / "step.mlpackage"
    program = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    program.parent.mkdir(parents=True)
    program.write_bytes(b"no program")
    root = {"rootModelIdentifier": "1", "itemInfoEntries": {"1": {"path": "com.apple.CoreML/model.mlmodel"}}}
    (package / "Manifest.json").write_text(json.dumps(root))
    digest = hashlib.sha256(b"no program").hexdigest()
    made = {
        "format": 1,
        "runtime": "coreml",
        "family": "vision-language",
        "architecture": "llava",
        "source": {"name": "ORG/NAME", "revision": "r1", "weights": "0", "config": "0"},
        "recipe": {"precision": "fp32", "quantize": None, "target": "iOS18", "stateful": True, "keep_fp32": [], "context": None},
        "versions": {"converter": 1},
        "sizes": {name: 8 for name in ("layers", "heads", "head_size", "hidden", "vocabulary", "context", "image_token")},
        "stages": {"step": {"package": "step.mlpackage", "function": None, "inputs": [], "outputs": [], "states": []}},
        "packages": {"step.mlpackage": {"bytes": package_bytes(package), "model": digest, "weights": None}},
        **changes,
    }
    (folder / "converted.json").write_text(json.dumps(made))
    return folder
