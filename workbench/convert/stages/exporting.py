"""A stage exported by torch, and the questions that are settled before a converter sees it.

    exported = export(stage)                     # torch.export.ExportedProgram
    source_line(node.meta["stack_trace"])        # "modeling_clip.py:345"

Names, sizes that vary, outputs and states are checked in the user's words: converters' own messages come from deep inside their passes.
What one runtime alone asks of inputs (types, bounds) is its converter's to check.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FRAME = re.compile(r'File "(.*?)", line (\d+)')


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """torch.export and the named ``libraries`` without progress bars, warnings and log lines."""
    from tqdm import tqdm

    def of_others(record: logging.LogRecord) -> bool:  # some modules log through the root logger
        return not any(library in record.pathname for library in libraries)

    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in (*libraries, "torch")]
    levels, start = [logger.level for logger in loggers], tqdm.__init__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            root.addFilter(of_others)
            tqdm.__init__ = partialmethod(start, disable=True)  # type: ignore[method-assign,assignment]
            yield
        finally:
            tqdm.__init__ = start  # type: ignore[method-assign]
            root.removeFilter(of_others)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def export(stage: Stage, decompositions: Callable[[], Mapping[Any, Any] | None] | None = None) -> torch.export.ExportedProgram:
    """The stage as a graph: of ATen ops, or decomposed by what ``decompositions()`` gives (None: core ATen).

    Raises UsageError (names, sizes or outputs that do not fit) and ModelError naming the line of the model that torch.export could not
    follow.
    """
    import torch

    check_names(stage)
    sizes = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in stage.bounds.items()}
    shapes = {name: {axis: sizes[size] for axis, size in stage.dynamic.get(name, {}).items()} or None for name in stage.example}
    stage.module.eval()
    try:
        # torch prints the graph before it raises
        with quiet(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), torch.no_grad():
            exported = torch.export.export(
                stage.module, tuple(stage.example.values()), dynamic_shapes=tuple(shapes.values()), strict=False
            )
            if decompositions is not None:
                exported = exported.run_decompositions(decompositions())
    except Exception as error:  # torch.export raises its own errors and whatever the model's code does with a symbolic shape
        raise _refused(stage, error) from error
    check_exported(stage, exported)
    return exported


def check_names(stage: Stage) -> None:
    """Names, kinds and varying axes of a stage's arrays. Raises UsageError saying what to write."""
    import torch

    if not stage.example:
        raise UsageError(f"stage {stage.name!r} has no inputs", why="a program needs at least one")
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
            why="a runtime reserves memory for the largest shape, or cannot build for an open size at all",
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
    _check_written(stage, list(dict.fromkeys(signature.buffers_to_mutate.values())))


def _check_written(stage: Stage, written: Sequence[str]) -> None:
    if set(written) != set(stage.states):
        raise UsageError(
            f"stage {stage.name!r} writes the buffers {', '.join(written) or 'none'}; its states are {', '.join(stage.states) or 'none'}",
            why="what a module writes is a state, and what it only reads is a weight",
            fix=f"states={tuple(written)!r}",
        )


def module_path(node: Any) -> str:
    """The path of the module that a node of an exported graph was computed in; empty at the top."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


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
