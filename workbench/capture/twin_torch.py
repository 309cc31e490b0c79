"""Torch twins on the CPU: an exported program, a TorchScript file, or a factory of a module, each in its own precision and in float64.

Inner values are recorded under the names that a conversion gives them: the nodes of an exported graph, the values of a TorchScript
graph (coremltools names ``%input.3`` ``input_3`` and ``%26`` ``var_26``).
"""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.capture.tensor_entries import tensor_entry
from workbench.capture.torch_graphs import Graph, exported_graph, plain_graph, rewind, script_graph
from workbench.capture.twins import Values, matched_inputs, missing
from workbench.errors import UsageError
from workbench.fingerprint import of_file, of_json
from workbench.models.factories import call_factory, file_of
from workbench.run.layer_records import PRECISIONS

FIX = "pip install 'parity-workbench[torch]'"
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, AssertionError)
"""What a model of somebody's may raise when it is run, traced or converted."""


class TorchTwin:
    """``make(precision)`` gives a runnable graph; made once a precision."""

    backend, evidence, libraries = "torch", "host", ("torch", "numpy")
    label: str
    identity: dict[str, Any]
    held: Any
    exported = False

    def __init__(self) -> None:
        self.renamed: dict[str, str] = {}
        self.notes: list[str] = []
        self.graphs: dict[str, Graph] = {}

    def prepare(self) -> None:
        """Settle the precisions: the weights' own, and float64 where the model can be run in it."""
        own = dtype_of(self.held)
        self.precisions = [own] if own == "float64" else [own, "float64"]

    @property
    def inputs(self) -> list[str] | None:
        return self.graph(self.precisions[0]).inputs

    @property
    def counted(self) -> bool:
        """Were unnamed values counted by a trace made here, as a conversion made here would count them?"""
        return self.graph(self.precisions[0]).traced

    def make(self, precision: str) -> Graph:
        raise NotImplementedError

    def graph(self, precision: str) -> Graph:
        if precision not in self.graphs:
            self.graphs[precision] = self.make(precision)
        return self.graphs[precision]

    def tensors(self) -> dict[str, Any]:
        return {
            name: tensor_entry(raw(held), name_of(held)) for name, held in self.held.state_dict().items() if hasattr(held, "detach")
        }

    def run(self, arrays: Mapping[str, Any], precision: str) -> Values:
        import torch

        try:
            graph = self.graph(precision)
            names = matched_inputs(graph.inputs, arrays, self.renamed)
            ordered = graph.inputs or list(arrays)
            back = {twin: name for name, twin in names.items()}
            tensors = [tensor_of(arrays[back[name]], precision, graph.kinds.get(name)) for name in ordered]
            with torch.inference_mode():
                return graph.run(tensors)
        except FAILURES as error:
            raise UsageError(
                f"{self.label} failed on these inputs",
                why=f"{precision}: {told_by(error)}",
                fix="it is given the program's inputs by name, else in their order; name others with --map",
            ) from error


class ExportedTwin(TorchTwin):
    """``torch.export.save``'s file. It is data and a graph of known ops, but torch reads parts of it with pickle."""

    exported = True

    def __init__(self, path: Path):
        super().__init__()
        torch = import_torch()
        self.path, self.label = path, f"torch:{path.name}"
        try:
            self.program = torch.export.load(path)
            if getattr(self.program, "dialect", "ATEN") == "TRAINING":  # as coremltools does before it converts
                self.program = self.program.run_decompositions({})
            self.held = self.program.module()
        except Exception as error:  # torch's loaders raise what they like
            raise unreadable(path, error, "torch.export.save(program, 'MODEL.pt2')") from error
        self.identity = file_identity(path)
        self.prepare()

    def make(self, precision: str) -> Graph:
        return exported_graph(self.program, precision)


class ScriptTwin(TorchTwin):
    """``torch.jit.save``'s file: code that is run."""

    def __init__(self, path: Path):
        super().__init__()
        torch = import_torch()
        refuse_pickle(path)
        self.path, self.label = path, f"torch:{path.name}"
        try:
            self.held = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            raise unreadable(path, error, "torch.jit.save(torch.jit.trace(model, example), 'MODEL.pt')") from error
        self.identity = file_identity(path)
        self.prepare()

    def make(self, precision: str) -> Graph:
        import torch

        module = torch.jit.load(str(self.path), map_location="cpu").eval().to(getattr(torch, precision))
        return self.with_inner(module)

    def with_inner(self, module: Any) -> Graph:
        try:
            return script_graph(module)
        except FAILURES as error:
            self.note(f"only the outputs of {self.label} are compared: its graph cannot be opened ({brief(error)})")
            return plain_graph(module)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class ModuleTwin(ScriptTwin):
    """A module, or ``package.module:factory`` or ``file.py:factory``: called without arguments, it returns the module. Traced or
    exported, as the package's own conversion was, so that values have the names that the conversion gave them."""

    exported = True

    def __init__(self, text: Any, example: Mapping[str, Any], dialect: str):
        TorchTwin.__init__(self)
        torch = import_torch()
        self.example, self.dialect = dict(example), dialect
        named = isinstance(text, str)
        self.label = (
            f"torch:{Path(text.rpartition(':')[0]).name}:{text.rpartition(':')[2]}" if named else f"torch:{type(text).__name__}"
        )
        self.held = call_factory(text) if named else text
        if not isinstance(self.held, torch.nn.Module):
            raise UsageError(
                f"{text} returned {type(self.held).__name__}" if named else f"a {type(text).__name__} is no twin",
                why="a twin is a torch.nn.Module",
                fix="return a module" if named else "against=MODULE, or a file",
            )
        self.held = self.held if named else copy.deepcopy(self.held)  # the caller's stays where it is, in its mode
        self.held = self.held.eval().cpu()
        state = {name: held for name, held in self.held.state_dict().items() if hasattr(held, "detach")}
        self.identity = {
            "source": self.label.removeprefix("torch:"),
            "weights": of_json([[name, each] for name, each in sorted(self.tensors().items())]),
            "code": of_file(code) if named and (code := file_of(text)) is not None else None,
            "size_bytes": sum(each.numel() * each.element_size() for each in state.values()),
        }
        self.prepare()

    def make(self, precision: str) -> Graph:
        import torch

        module = copy.deepcopy(self.held).to(getattr(torch, precision))
        back = rewind(module)  # tracing runs it
        given = [tensor_of(array, precision, None) for array in self.example.values()]
        try:
            if self.dialect.startswith("TorchExport"):
                program = torch.export.export(module, tuple(given)).run_decompositions({})
                return exported_graph(program, precision)
            traced = torch.jit.trace(module, tuple(given), check_trace=False)
            back()
            return script_graph(traced, traced=True)
        except Exception as error:  # a model that cannot be traced can still be called
            self.note(f"only the outputs of {self.label} are compared: it cannot be traced ({brief(error)})")
            back()
            return plain_graph(module)


def import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise missing("torch", FIX) from error
    return torch


def refuse_pickle(path: Path) -> None:
    """Raises UsageError for a checkpoint without a program: reading one runs whatever its pickle says."""
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    if not any("/code/" in name for name in names):
        raise UsageError(
            f"{path.name} is no TorchScript file",
            why="it holds weights or a pickle and no program; a pickle is code, and is not loaded",
            fix="name a factory that loads it: --against file.py:factory",
        )


def unreadable(path: Path, error: Exception, how: str) -> UsageError:
    return UsageError(f"{path.name} cannot be loaded", why=f"{type(error).__name__}: {brief(error)}", fix=f"save it with {how}")


def brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def told_by(error: Exception) -> str:
    """What an op said: TorchScript puts its own traceback before it."""
    text = str(error).strip()
    if "Traceback of TorchScript" in text:
        return text.splitlines()[-1][:400]
    return f"{type(error).__name__}: {text}"[:400]


def file_identity(path: Path) -> dict[str, Any]:
    return {"source": path.name, "weights": of_file(path), "size_bytes": path.stat().st_size}


def dtype_of(module: Any) -> str:
    """The precision of the weights; of several the coarsest; float32 where there are none."""
    kinds = {name_of(held) for held in module.state_dict().values() if hasattr(held, "dtype")}
    return next((each for each in reversed(PRECISIONS) if each in kinds), "float32")


def name_of(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def raw(tensor: Any) -> Any:
    """As numpy; bfloat16, which numpy has not, as its bits."""
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def tensor_of(array: Any, precision: str, kind: str | None) -> Any:
    """``kind``: the dtype that an exported program was given for this input; floats follow the precision."""
    import numpy
    import torch

    tensor = torch.from_numpy(numpy.array(array, order="C"))  # a copy: a model may write into what it is given
    if tensor.is_floating_point():
        return tensor.to(getattr(torch, precision))
    return tensor.to(getattr(torch, kind)) if kind and hasattr(torch, kind) else tensor
