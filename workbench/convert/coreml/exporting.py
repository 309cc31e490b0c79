"""A stage exported by torch for coremltools, checked for what Core ML can hold.

exported = export(stage)                     # torch.export.ExportedProgram in core ATen ops
with quiet():                                # no bars, no lines of imports
    coremltools = import_coremltools()
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.decompositions import decompositions
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.stages import exporting
from workbench.convert.stages.stage import Stage
from workbench.errors import RuntimeMissing, UsageError

if TYPE_CHECKING:
    import torch


def quiet() -> AbstractContextManager[None]:
    """coremltools and torch.export without progress bars, warnings and log lines."""
    return exporting.quiet("coremltools")


def import_coremltools() -> Any:
    """The library, imported without the lines that its import prints. Raises RuntimeMissing."""
    try:
        with quiet():
            import coremltools
    except ImportError as error:
        raise RuntimeMissing(
            "coremltools cannot be imported here", why=str(error), fix="pip install 'parity-workbench[coreml]'"
        ) from error
    return coremltools


def fresh_names() -> None:
    """coremltools numbers the values that it makes, and begins anew only after a conversion that succeeded (9.0, converters/mil/converter.py,
    ``_reset_conversion_state``): after one that failed, or a compression, the same model would be other bytes."""
    from coremltools.converters.mil.mil import Builder

    Builder.name_count.clear()


def export(stage: Stage) -> torch.export.ExportedProgram:
    """The stage as a graph of core ATen ops, checked for what Core ML can hold. Raises as ``stages.exporting.export``."""
    exporting.check_names(stage)
    _check_held(stage)
    exported = exporting.export(stage, decompositions)
    _check_states(stage)
    return exported


def _check_held(stage: Stage) -> None:
    """Shapes and types of a stage's inputs. Raises UsageError saying what to write."""
    import torch

    for name, value in stage.example.items():
        if value.dim() == 0:
            raise UsageError(
                f"input {name!r} is a scalar", why="Core ML has no inputs without a dimension", fix="give it the shape (1,)"
            )
        if value.dtype not in (torch.float32, torch.float16, torch.int32):
            fix = {"torch.int64": "torch.int32", "torch.bool": "torch.int32 and compare inside", "torch.float64": "torch.float32"}
            raise UsageError(
                f"input {name!r} is {value.dtype}",
                why="Core ML's inputs are float32, float16 and int32",
                fix=f"give it as {fix.get(str(value.dtype), 'torch.float32')}",
            )


def _check_states(stage: Stage) -> None:
    held = dict(stage.module.named_buffers())
    for name in stage.states:
        if str(held[name].dtype) != "torch.float16":
            raise UsageError(
                f"state {name!r} is {held[name].dtype}",
                why="Core ML keeps states in float16 only",
                fix="register the buffer as torch.float16",
            )


def check_target(stage: Stage, recipe: Recipe) -> None:
    """A stage's states against the target. Raises UsageError."""
    if stage.states and recipe.target != "iOS18":
        raise UsageError(
            f"stage {stage.name!r} keeps states, and {recipe.target} has none",
            why="states exist from iOS18 on",
            fix="target=iOS18 or stateful=false",
        )
