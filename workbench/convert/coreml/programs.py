"""One stage as an ML Program: exported by torch, converted by coremltools, with the origin of every value.

    converted = convert_stage(stage, Recipe(precision="fp16").check())
    save_package(converted.mlmodel, Path("vision.mlpackage"))
    settled = converted.settle(Path("vision.mlpackage"))       # origins and layers that the saved program really has

Inputs and outputs are fp32 (and int32) whatever the precision, so that stages fit each other; an fp16 program casts inside.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.exporting import check_target, export, fresh_names, import_coremltools, quiet
from workbench.convert.coreml.keeping import Keeper
from workbench.convert.coreml.origins import layers_of, operations, origins_of
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.sources import Source, sources_of
from workbench.convert.coreml.state_writes import state_writes
from workbench.convert.stages.exporting import module_path, source_line
from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError

if TYPE_CHECKING:
    import torch


@dataclass
class ConvertedStage:
    """``mlmodel``: coremltools' model, not compressed. ``origins``: MIL value -> {op, node, module, line, result}. ``layers``: the
    project's layer -> MIL value. ``sources``: constant -> the torch parameter it is. ``kept``: the ops that ``keep_fp32`` kept."""

    stage: Stage
    recipe: Recipe
    mlmodel: Any
    exported: torch.export.ExportedProgram
    origins: dict[str, dict[str, Any]]
    layers: dict[str, str]
    sources: dict[str, Source]
    kept: list[dict[str, Any]] = field(default_factory=list)

    def settle(self, path: Path, function: str | None = None) -> Settled:
        """What of the origins and layers the saved program at ``path`` really has, as the reference executor reads it.

        Raises ModelError when the program has lost a layer's value: nothing would be recorded under its name.
        """
        from workbench.mil.graph import read_functions, walk
        from workbench.mil.package import read_package
        from workbench.mil.program import _choose

        package = read_package(path)
        functions = read_functions(package)
        body = functions[_choose(package, functions, function)].block
        ops = list(walk(body))
        there = {name for op in ops for name, _ in op.outputs}
        lost = {layer: value for layer, value in self.layers.items() if value not in there}
        if lost:
            layer, value = next(iter(lost.items()))
            raise ModelError(
                f"{path.name} has lost {len(lost)} of {len(self.layers)} layers",
                why=f"layer {layer!r} was the value {value!r}, which a later pass took away",
            )
        origins = {name: origin for name, origin in self.origins.items() if name in there}
        return Settled(origins, dict(self.layers), dict(Counter(op.type for op in ops if not op.type.startswith("constexpr_"))))


@dataclass(frozen=True)
class Settled:
    """What a saved program has: see ``ConvertedStage``; ``ops``: op type -> count."""

    origins: dict[str, dict[str, Any]]
    layers: dict[str, str]
    ops: dict[str, int]


def convert_stage(
    stage: Stage, recipe: Recipe, *, every_pattern: bool = True, exported: torch.export.ExportedProgram | None = None
) -> ConvertedStage:
    """Convert ``stage`` as ``recipe`` says, all but the compression (``compress``). ``every_pattern``: each of ``keep_fp32`` must keep an
    op of this stage (of a model's several stages, one is enough: the caller looks at ``kept``). ``exported``: of an earlier conversion.

    Raises UsageError (names, sizes without bounds, a pattern that keeps nothing) and ModelError naming the op that coremltools cannot
    convert and the line of the model it came from.
    """
    recipe.check()
    check_target(stage, recipe)
    coremltools = import_coremltools()
    exported = exported or export(stage)
    keeper = Keeper(recipe.keep_fp32, exported, stage.layers)
    mlmodel = _convert(coremltools, stage, recipe, exported, keeper)
    if every_pattern:
        keeper.check()
    origins = origins_of(mlmodel, exported)
    layers = layers_of(exported, origins, stage.layers)
    if "logits" in stage.outputs:  # a language model's outputs are a layer of every report
        layers["logits"] = "logits"
    single = {output.name for op, _ in operations(mlmodel) for output in op.outputs if output.is_tensor_or_scalar_of(dtype="fp32")}
    kept = [row for row in keeper.kept if row["value"] in single]  # others were whole numbers, or a pass took them away
    return ConvertedStage(stage, recipe, mlmodel, exported, origins, layers, sources_of(mlmodel, exported), kept)


def _convert(coremltools: Any, stage: Stage, recipe: Recipe, exported: Any, keeper: Keeper) -> Any:
    from coremltools.models.ml_program.experimental.torch.debugging_utils import convert_and_retrieve_op_mapping

    half = recipe.precision == "fp16"
    if half and keeper.patterns:
        precision = coremltools.transform.FP16ComputePrecision(op_selector=keeper.may_be_half)
    else:
        precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    settings = {
        "minimum_deployment_target": getattr(coremltools.target, recipe.target),
        "compute_precision": precision,
        "skip_model_load": True,
    }
    try:
        with quiet(), state_writes():
            fresh_names()
            inputs, outputs = _inputs(coremltools, stage), _outputs(coremltools, stage, exported)
            return convert_and_retrieve_op_mapping(exported, inputs=inputs, outputs=outputs, **settings)[0]
    except Exception as error:  # coremltools raises many kinds, mostly from the function of one op
        raise _unconvertible(stage, exported, error) from error


def _inputs(coremltools: Any, stage: Stage) -> list[Any]:
    ranges = {
        name: coremltools.RangeDim(lower_bound=low, upper_bound=high, default=min(max(low, _held(stage, name)), high))
        for name, (low, high) in stage.bounds.items()
    }
    found = []
    for name, value in stage.example.items():
        axes = stage.dynamic.get(name, {})
        shape = tuple(ranges[axes[axis]] if axis in axes else size for axis, size in enumerate(value.shape))
        found.append(coremltools.TensorType(name=name, shape=shape, dtype=_dtype(value.dtype)))
    return found


def _held(stage: Stage, size: str) -> int:
    """What the example has of a size that varies."""
    for name, axes in stage.dynamic.items():
        for axis, each in axes.items():
            if each == size:
                return int(stage.example[name].shape[axis])
    return 1


def _outputs(coremltools: Any, stage: Stage, exported: Any) -> list[Any]:
    import numpy as np

    values = {node.name: node.meta.get("val") for node in exported.graph_module.graph.nodes}
    found = []
    for name, node in zip(stage.outputs, exported.graph_signature.user_outputs, strict=True):
        floats = values[node].dtype.is_floating_point
        found.append(coremltools.TensorType(name=name, dtype=np.float32 if floats else np.int32))
    return found


def _dtype(dtype: Any) -> Any:
    import numpy as np

    return {"torch.float32": np.float32, "torch.float16": np.float16, "torch.int32": np.int32}[str(dtype)]


def _unconvertible(stage: Stage, exported: Any, error: Exception) -> ModelError:
    """The op at which coremltools stopped, and the line of the model it came from."""
    said = " ".join(str(error).split())[:400] or type(error).__name__
    told = re.search(r"Unsupported fx node (\S+), kind (\S+)", said) or re.search(r'Layer "(\S+?)", with type "(\S+?)"', said)
    name, kind = (told.group(1).removesuffix("_cast_fp16"), told.group(2)) if told else (None, None)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        held = frame.f_locals.get("node")
        if frame.f_code.co_name == "convert_single_node" and held is not None:
            name, kind = held.name, held.kind
    node = next((each for each in exported.graph_module.graph.nodes if each.name == name), None)
    if kind is None:
        return ModelError(f"coremltools cannot convert stage {stage.name!r}", why=f"{type(error).__name__}: {said}")
    line, path = (source_line(node.meta.get("stack_trace")), module_path(node)) if node is not None else (None, "")
    where = f", which comes from {line}" if line else ""
    where += f" (module {path})" if path else ""
    missing = isinstance(error, NotImplementedError)
    return ModelError(
        f"coremltools cannot convert the op {kind!r} of stage {stage.name!r}{where}",
        why="it knows no such op" if missing else f"{type(error).__name__}: {said}",
        fix="write that line with other torch ops, or register the op (coremltools.converters.mil.register_torch_op)",
    )
