"""The model that a Core ML program was converted from, run on the same arrays: ONNX through ONNX Runtime, or torch.

    twin = open_twin("encoder.onnx", example, dialect="")
    twin.run(arrays, "float32")       # Values(outputs={"hidden": ...}, inner={"/layer.0/Add_output_0": ...})

A twin is a file or a factory that the user named: TorchScript and exported programs hold code, and a factory is code. Pickled
checkpoints without a program are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workbench.errors import RuntimeMissing, UsageError

KINDS = "MODEL.onnx, MODEL.pt2 (torch.export.save), MODEL.pt (torch.jit.save), package.module:factory or file.py:factory"


@dataclass
class Values:
    """What one run gave: ``outputs`` in the twin's order, ``inner`` in order of execution. Arrays of numpy."""

    outputs: dict[str, Any]
    inner: dict[str, Any] = field(default_factory=dict)


class Twin(Protocol):
    """``precisions``: the twin's own first. ``notes``: what was left out and why. ``renamed``: the user's names of inputs. ``counted``:
    do unnamed values have the numbers that a conversion made now would give them? ``exported``: may values have the names of the nodes of an
    exported program?"""

    label: str
    backend: str
    evidence: str
    libraries: tuple[str, ...]
    identity: dict[str, Any]
    precisions: list[str]
    notes: list[str]
    renamed: Mapping[str, str]
    counted: bool
    exported: bool

    @property
    def inputs(self) -> list[str] | None:
        """Names of the inputs; None where a model takes what it is given, in order."""

    def tensors(self) -> dict[str, Any]:
        """The weights, as ``artifact.json`` lists them."""

    def run(self, arrays: Mapping[str, Any], precision: str) -> Values: ...


def open_twin(text: Any, example: Mapping[str, Any], dialect: str = "") -> Twin:
    """``text``: a file or a factory (`KINDS`), or a torch module itself. ``example``: arrays of the first item by the program's names, for twins that are traced. ``dialect``: what the package says it was
    converted from (``TorchScript``, ``TorchExport::ATEN``). Raises UsageError, RuntimeMissing."""
    if not isinstance(text, str | Path):
        from workbench.capture.twin_torch import ModuleTwin

        return ModuleTwin(text, example, dialect)
    path, text = Path(text), str(text)
    if path.suffix == ".onnx":
        from workbench.capture.twin_onnx import OnnxTwin

        return OnnxTwin(existing(path))
    from workbench.capture import twin_torch

    if path.suffix == ".pt2":
        return twin_torch.ExportedTwin(existing(path))
    if path.suffix in (".pt", ".ts", ".pth", ".torchscript", ".jit"):
        return twin_torch.ScriptTwin(existing(path))
    if ":" in text:
        return twin_torch.ModuleTwin(text, example, dialect)
    raise UsageError(f"{text!r} is no model to compare with", why=f"it may be {KINDS}", fix="--against MODEL.onnx")


def existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", fix=f"--against {KINDS}")
    return path


def matched_inputs(
    wanted: list[str] | None, arrays: Mapping[str, Any], renamed: Mapping[str, str], shapes: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """``{program's input: twin's input}``: by ``renamed`` (the user's), by name, by the name without what converters change, and the one
    that is left over. Raises UsageError naming what is left."""
    from workbench.capture.program_names import normal

    if wanted is None:
        return {name: name for name in arrays}
    found = {name: renamed[name] for name in arrays if name in renamed}
    for name, other in found.items():
        if other not in wanted:
            raise UsageError(f"the twin has no input {other!r}", why=f"its inputs: {', '.join(wanted)}", fix=f"--map {name}=NAME")
    for rule in (lambda name: name, normal, lambda name: normal(name).removeprefix("serving_default_")):
        for name in arrays:
            free = [each for each in wanted if each not in found.values() and rule(each) == rule(name)]
            if name not in found and len(free) == 1:
                found[name] = free[0]
    left = [name for name in arrays if name not in found], [name for name in wanted if name not in found.values()]
    if len(left[0]) == len(left[1]) == 1:
        found[left[0][0]] = left[1][0]
    elif left[0] or left[1]:
        raise UsageError(
            "the inputs of the two have other names",
            why=f"the program's {', '.join(left[0]) or '(none left)'}; the twin's {', '.join(left[1]) or '(none left)'}",
            fix=f"--map {(left[0] or ['NAME'])[0]}={(left[1] or ['NAME'])[0]}",
        )
    return found


def missing(name: str, fix: str) -> RuntimeMissing:
    return RuntimeMissing(f"{name} is not installed", why="the twin runs on it", fix=fix)
