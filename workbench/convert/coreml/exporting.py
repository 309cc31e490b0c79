"""A stage exported by torch, and the questions that are settled before coremltools sees it.

    exported = export(stage)                     # torch.export.ExportedProgram in core ATen ops
    with quiet():                                # no bars, no lines of imports
        coremltools = import_coremltools()

Names, types, sizes that vary and states are checked in the user's words: coremltools' own messages come from deep inside its passes.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.decompositions import decompositions
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError, RuntimeMissing, UsageError

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FRAME = re.compile(r'File "(.*?)", line (\d+)')


@contextmanager
def quiet() -> Iterator[None]:
    """coremltools and torch.export without progress bars, warnings and log lines."""
    from tqdm import tqdm

    def not_of_coremltools(record: logging.LogRecord) -> bool:  # some of its modules log through the root logger
        return "coremltools" not in record.pathname

    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in ("coremltools", "torch")]
    levels, start = [logger.level for logger in loggers], tqdm.__init__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            root.addFilter(not_of_coremltools)
            tqdm.__init__ = partialmethod(start, disable=True)  # type: ignore[method-assign,assignment]
            yield
        finally:
            tqdm.__init__ = start  # type: ignore[method-assign]
            root.removeFilter(not_of_coremltools)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
    """The stage as a graph of core ATen ops, checked for what Core ML can hold.

    Raises UsageError (a size without bounds, names, types or states that do not fit) and ModelError naming the line of the model that
    torch.export could not follow.
    """
    import torch

    check_inputs(stage)
    sizes = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in stage.bounds.items()}
    shapes = {name: {axis: sizes[size] for axis, size in stage.dynamic.get(name, {}).items()} or None for name in stage.example}
    stage.module.eval()
    try:
        # torch prints the graph before it raises
        with quiet(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), torch.no_grad():
            exported = torch.export.export(
                stage.module, tuple(stage.example.values()), dynamic_shapes=tuple(shapes.values()), strict=False
            ).run_decompositions(decompositions())
    except Exception as error:  # torch.export raises its own errors and whatever the model's code does with a symbolic shape
        raise _refused(stage, error) from error
    check_exported(stage, exported)
    return exported


def check_inputs(stage: Stage) -> None:
    """Names, types and sizes of a stage. Raises UsageError saying what to write."""
    import torch

    if not stage.example:
        raise UsageError(f"stage {stage.name!r} has no inputs", why="a Core ML program needs at least one")
    for name in [*stage.example, *stage.outputs, *stage.states]:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(
                f"stage {stage.name!r}: {name!r} is no name of an input, output or state",
                why="letters, digits and _ only, no digit first",
                fix="name it otherwise, such as 'hidden_states'",
            )
    for name in stage.outputs:
        if name in stage.example or list(stage.outputs).count(name) > 1:
            raise UsageError(
                f"stage {stage.name!r}: the name {name!r} is given twice", why="inputs and outputs need names of their own"
            )
    for name, value in stage.example.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"input {name!r} is {type(value).__name__}", why="inputs are tensors", fix=f"torch.as_tensor({name})")
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
    for name, axes in stage.dynamic.items():
        if name not in stage.example:
            raise UsageError(f"there is no input {name!r}, and its size is to vary", why=f"inputs: {', '.join(stage.example)}")
        for axis, size in axes.items():
            if not 0 <= axis < stage.example[name].dim():
                raise UsageError(f"input {name!r} has no axis {axis}", why=f"its shape is {list(stage.example[name].shape)}")
            _check_bounds(stage, name, axis, size)


def _check_bounds(stage: Stage, name: str, axis: int, size: str) -> None:
    low, high = stage.bounds.get(size, (2, None))  # type: ignore[assignment]
    held = stage.example[name].shape[axis]
    if high is None or isinstance(high, float):
        raise UsageError(
            f"size {size!r} of input {name!r} (axis {axis}) has no upper bound",
            why="Core ML reserves memory for the largest shape; an open size runs on the CPU at best",
            fix=f'say its least and greatest value: bounds={{"{size}": (2, {max(512, held)})}}',
        )
    if not 1 <= low < high:
        raise UsageError(f"size {size!r} is to lie in {low}..{high}", why="the least is at least 1 and smaller than the greatest")
    if not low <= held <= high:
        raise UsageError(f"input {name!r} of the example has {size} = {held}", why=f"{size} lies in {low}..{high}")


def check_exported(stage: Stage, exported: torch.export.ExportedProgram) -> None:
    """Outputs and states of the exported graph are those the stage names. Raises UsageError."""
    signature = exported.graph_signature
    count = len(signature.user_outputs)
    if count != len(stage.outputs):
        named = f"{len(stage.outputs)} named: {', '.join(stage.outputs) or 'none'}"
        raise UsageError(
            f"stage {stage.name!r} gives {count} outputs, {named}",
            why="every output needs a name",
            fix="outputs=(...), one name each",
        )
    given = dict(zip(signature.user_inputs, stage.example, strict=True))
    seen: dict[Any, str] = {}
    for name, value in zip(stage.outputs, signature.user_outputs, strict=True):
        if seen.setdefault(value, name) != name:
            raise UsageError(
                f"outputs {seen[value]!r} and {name!r} are one value", why="a value has one name", fix=f"leave {name!r} out"
            )
        if not isinstance(value, str):
            raise UsageError(f"output {name!r} is the constant {value!r}", why="it depends on no input", fix="leave it out")
        if value in given:
            raise UsageError(f"output {name!r} is the input {given[value]!r} itself", fix="leave it out, the caller has it")
    if signature.user_inputs_to_mutate:
        names = ", ".join(repr(given.get(each, each)) for each in signature.user_inputs_to_mutate.values())
        raise UsageError(
            f"the module writes to its input {names}",
            why="inputs are read only",
            fix="write to a clone, or to a buffer named in states",
        )
    written = list(dict.fromkeys(signature.buffers_to_mutate.values()))
    if set(written) != set(stage.states):
        raise UsageError(
            f"stage {stage.name!r} writes the buffers {', '.join(written) or 'none'}; its states are {', '.join(stage.states) or 'none'}",
            why="what a module writes is a state, and what it only reads is a weight",
            fix=f"states={tuple(written)!r}",
        )
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


def source_line(stack: str | None) -> str | None:
    """``modeling_clip.py:345`` of a torch stack trace: the innermost line that is not torch's own."""
    frames = [(Path(name), number) for name, number in _FRAME.findall(stack or "")]
    own = [frame for frame in frames if not _inside_torch(frame[0])]
    path, number = (own or frames or [(None, 0)])[-1]
    return f"{path.name}:{number}" if path is not None else None


def _inside_torch(path: Path) -> bool:
    import torch

    return path.is_relative_to(Path(torch.__file__).parent)


def _refused(stage: Stage, error: Exception) -> ModelError:
    """What torch.export said, with the line of the model it stopped at."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _inside_torch(Path(frame.filename))]
    frames = [frame for frame in frames if Path(frame.filename).is_file() and Path(frame.filename) != Path(__file__)]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why, fix = " ".join(lines[:1]), "run the module on the example inputs; torch.export must be able to follow all of it"
    if "Constraints violated" in why:
        why, fix = " ".join(lines[:4]), "give the size the bounds that torch suggests, or leave it fixed"
    elif "data-dependent" in why:
        fix = "write it without a Python branch on a tensor's values: torch.where, or a mask given as input"
    return ModelError(
        f"torch.export cannot follow stage {stage.name!r}{where}", why=f"{type(error).__name__}: {why[:600]}".rstrip(": "), fix=fix
    )
