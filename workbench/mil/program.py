"""Load an ML Program and run it.

program = load("encoder.mlpackage")
program.predict({"mel": mel})["hidden"]                     # numpy in, numpy out, as MLModel.predict
state = program.make_state()                                # a stateful program
program.predict({"token": token}, state=state)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.mil.arrays import from_value, to_tensor
from workbench.mil.errors import InputError, MilError, PackageError, UnsupportedError
from workbench.mil.graph import Function, Op, all_constants, read_functions, walk
from workbench.mil.interface import Feature, describe_function
from workbench.mil.package import Package, read_package
from workbench.mil.plan import CompiledBlock, Engine
from workbench.mil.support import unsupported
from workbench.mil.types import StateType, TensorType, torch_dtype

PRECISIONS = ("native", "emulate", "fp16-weights", "float64")
"""How floats are read. native: torch computes in the declared types (on a CPU, products of fp16 in fp32, rounded once). emulate: each
fp16 op in fp32, its result rounded to fp16. fp16-weights: only the stored values are fp16, all else is fp32. None of these is the
arithmetic of a particular device; together they are a band. float64: the stored values as they are and all arithmetic in float64, so
what rounding alone changes can be told."""

_HALVES = {"native": torch.float16, "emulate": torch.float32, "fp16-weights": torch.float32, "float64": torch.float64}


class State:
    """What a stateful program remembers between predictions; `read` and `write` copy."""

    def __init__(self, cells: dict[str, StateCell]):
        self._cells = cells

    @property
    def names(self) -> list[str]:
        return list(self._cells)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A copy of one state, [shape as declared]. Raises InputError when there is no such state."""
        cell = self._cell(name)
        return np.array(cell.value.detach().cpu().to(torch_dtype(cell.dtype)).numpy())

    def write(self, name: str, value: Any) -> None:
        """Replace one state. Raises InputError when the name, the shape or the type is not right."""
        cell = self._cell(name)
        feature = Feature(name, "state", cell.dtype, tuple(cell.value.shape))
        kind = TensorType(cell.dtype, feature.shape)
        cell.value = to_tensor(feature, kind, value, cell.value.dtype, cell.value.device, allow_nan=True)

    def copy(self) -> State:
        """Another state of the same contents. Cheap: a write replaces a value, so the two may share what neither has written."""
        return State({name: StateCell(cell.dtype, cell.value) for name, cell in self._cells.items()})

    def _cell(self, name: str) -> StateCell:
        if name not in self._cells:
            raise InputError(f"there is no state {name!r}", why=f"states: {', '.join(self._cells) or 'none'}")
        return self._cells[name]


class StateCell:
    """One state's current value; writes replace it, so a value that was read stays as it was."""

    def __init__(self, dtype: str, value: torch.Tensor):
        self.dtype, self.value = dtype, value


class Program:
    """A loaded function of an ML Program. Make one with `load`."""

    def __init__(self, package: Package, functions: dict[str, Function], name: str, engine: Engine, precision: str, fuse: bool):
        self.package, self.function_name, self.precision = package, name, precision
        self.functions = list(functions)
        self.function = functions[name]
        self._engine = engine
        self.inputs: list[Feature]
        self.outputs: list[Feature]
        self.inputs, self.outputs, self.states = describe_function(package, self.function)
        self._kinds = dict(self.function.inputs)
        self._outputs = {item.name: item for item in self.outputs}
        self._refuse_absurd()
        self._refuse_unsupported()
        self.fused: list[str] = []
        """Attention that runs as one op: the names of the softmax ops it replaces."""
        block = self.function.block
        if fuse:
            from workbench.mil.fuse import fuse_attention

            block, self.fused = fuse_attention(block, half_too=not engine.rounds and engine.half is not torch.float16)
        self._plain = None if block is not self.function.block else CompiledBlock(block, engine)
        self._block = self._plain or CompiledBlock(block, engine)

    @property
    def opset(self) -> str:
        return self.function.opset

    @property
    def metadata(self) -> dict[str, str]:
        """What the converter wrote about itself."""
        return dict(self.package.spec.description.metadata.userDefined)

    def make_state(self) -> State:
        """A fresh state, all zeros."""
        cells = {}
        for feature in self.states:
            kind = self._kinds[feature.name].wrapped
            dtype = torch_dtype(kind.dtype, self._engine.half)
            cells[feature.name] = StateCell(kind.dtype, torch.zeros(kind.shape, dtype=dtype, device=self._engine.device))
        return State(cells)

    def predict(self, inputs: Mapping[str, Any], state: State | None = None, *, allow_nan: bool = False) -> dict[str, Any]:
        """Outputs by name: numpy arrays, pictures (PIL), labels, dictionaries.

        Raises InputError naming the input that is missing, unknown, misshaped, of the wrong type or not a number, and
        ExecutionError naming the op that could not be computed.
        """
        results = self.run(self.tensors(inputs, allow_nan=allow_nan), state)
        return {feature.name: from_value(feature, results[feature.name]) for feature in self.outputs}

    def tensors(
        self, inputs: Mapping[str, Any], *, allow_nan: bool = False, held: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """The inputs as the program takes them, checked. ``held``: those that came out of here before and are taken as they are."""
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs are given as {type(inputs).__name__}", why=self._expected(), fix="predict({name: array})")
        known = {feature.name for feature in self.inputs}
        for name in inputs:
            if name not in known:
                raise InputError(f"there is no input {name!r}", why=self._expected(), fix=self._meant(name))
        found = {}
        for feature in self.inputs:
            if held and feature.name in held:
                found[feature.name] = held[feature.name]
                continue
            kind = self._kinds[feature.name]
            given = inputs.get(feature.name)
            if given is None:
                if not feature.optional and feature.default is None:
                    raise InputError(f"input {feature.name!r} is missing", why=self._expected())
                given = np.full(feature.default_shape(), feature.default or 0)
            found[feature.name] = to_tensor(feature, kind, given, self._engine.half, self._engine.device, allow_nan)
            if self._engine.rounds and kind.dtype == "fp16":
                found[feature.name] = found[feature.name].half().float()
        return found

    def _expected(self) -> str:
        return f"inputs: {'; '.join(map(str, self.inputs)) or 'none'}"

    def _meant(self, name: Any) -> str | None:
        if name in {item.name for item in self.states}:
            return f"{name!r} is a state: state = program.make_state(); predict(inputs, state=state)"
        near = get_close_matches(str(name), [item.name for item in self.inputs], n=1)
        return f"did you mean {near[0]!r}?" if near else None

    def run(self, tensors: Mapping[str, torch.Tensor], state: State | None = None) -> dict[str, Any]:
        """As `predict`, with torch tensors in and out: no copies, and no checks of the inputs but by the ops themselves."""
        return self._run(self._block, tensors, state)

    def observe(
        self, inputs: Mapping[str, Any], callback: Callable[[Op, tuple[Any, ...]], None], state: State | None = None
    ) -> dict[str, Any]:
        """As `predict`, op by op and nothing fused: ``callback(op, results)`` sees every op's tensors as they are made, but for ops
        of constants alone, which are computed once."""
        if self._plain is None:
            self._plain = CompiledBlock(self.function.block, self._engine, like=self._block)
        self._engine.observer = callback
        try:
            results = self._run(self._plain, self.tensors(inputs), state)
        finally:
            self._engine.observer = None
        return {feature.name: from_value(feature, results[feature.name]) for feature in self.outputs}

    def _run(self, block: CompiledBlock, tensors: Mapping[str, torch.Tensor], state: State | None) -> dict[str, Any]:
        self._check_state(state)
        given = []
        for name in block.parameters:
            given.append(state._cell(name) if isinstance(self._kinds[name], StateType) and state is not None else tensors[name])
        self._engine.generator.manual_seed(0)
        before = [(item, item.value) for item in given if isinstance(item, StateCell)]
        try:
            # TF32 is not what the program declares; only CUDA has it.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                results = block(*given)
        except BaseException:  # what failed half-way leaves no half-written state
            for cell, value in before:
                cell.value = value
            raise
        return dict(zip(self.function.block.outputs, results, strict=True))

    def _check_state(self, state: State | None) -> None:
        if state is None:
            if not self.states:
                return
            raise InputError(
                f"the program has states: {', '.join(item.name for item in self.states)}",
                fix="state = program.make_state(); predict(inputs, state=state)",
            )
        if not isinstance(state, State):
            raise InputError(f"the state is {type(state).__name__}", fix="state = program.make_state()")
        if not self.states:
            raise InputError("the program has no states, and was given one", fix="predict(inputs)")
        for feature in self.states:
            cell = state._cell(feature.name)
            held = (cell.value.dtype, tuple(cell.value.shape), cell.value.device.type)
            wanted = (torch_dtype(feature.dtype, self._engine.half), feature.shape, self._engine.device.type)
            if held != wanted:
                why = f"it holds {held[0]} {list(held[1])} on {held[2]}, the program's is {wanted[0]} {list(feature.shape or ())} on {wanted[2]}"
                raise InputError(f"state {feature.name!r} is of another program", why=why, fix="state = program.make_state()")

    def _refuse_absurd(self) -> None:
        """Shapes the program itself declares, before anything is allocated."""
        for name, constant in all_constants(self.function.block):
            self._fits(name, constant.type)
        for name, kind in self.function.inputs:
            self._fits(name, kind.wrapped if isinstance(kind, StateType) else kind)
        for feature in self.inputs:
            self._fits(feature.name, TensorType(feature.dtype, feature.default_shape()))
        for op in walk(self.function.block):
            for name, kind in op.outputs:
                self._fits(name, kind)

    def _refuse_unsupported(self) -> None:
        """Every op type that cannot be run, at once."""
        rows = unsupported(self.function)
        if rows:
            raise UnsupportedError(
                f"{self.package.path}: {len(rows)} op {'type' if len(rows) == 1 else 'types'} cannot be run: "
                + ", ".join(repr(row.type) for row in rows),
                why="; ".join(f"{row.type!r}, {row.count} times, first in op {row.example!r}: {row.reason}" for row in rows),
                fix="see `workbench mil check PACKAGE`; a newer release may know them",
            )

    def _fits(self, name: str, kind: Any) -> None:
        if isinstance(kind, TensorType) and (kind.bytes or 0) > self._engine.budget:
            raise PackageError(
                f"{self.package.path}: value {name!r} is declared as {kind}: {kind.bytes:,} bytes",
                why=f"one value may take {self._engine.budget:,} bytes here",
                fix="load(..., memory_bytes=N) if it is meant",
            )


def load(
    path: str | Path,
    function: str | None = None,
    precision: str = "native",
    *,
    device: str = "cpu",
    fuse: bool = True,
    memory_bytes: int | None = None,
) -> Program:
    """Load a ``.mlpackage`` or ``.mlmodel`` of the ML Program kind.

    ``function``: which one of a multifunction package (default: its default function, or its only one). ``precision``: one of
    `PRECISIONS`. ``device``: a torch device. ``fuse``: compute attention written as matmul, softmax, matmul in one op where that
    changes nothing but rounding (fp32 only). ``memory_bytes``: the most that one value may take (default: this machine's memory).

    Raises PackageError (damaged, unsafe, not there), UnsupportedError (another kind of model, an op that is not known).
    """
    if precision not in PRECISIONS:
        raise MilError(f"precision {precision!r} is not known", why=f"known: {', '.join(PRECISIONS)}")
    package = read_package(path)
    functions = read_functions(package)
    name = _choose(package, functions, function)
    where = _device(device)
    engine = Engine(
        opset=functions[name].opset,
        half=_HALVES[precision],
        rounds=precision == "emulate",
        device=where,
        generator=torch.Generator(device=where),
        budget=memory_bytes or _machine_bytes(),
    )
    return Program(package, functions, name, engine, precision, fuse)


def _choose(package: Package, functions: dict[str, Function], wanted: str | None) -> str:
    name = wanted or package.spec.description.defaultFunctionName or ("main" if "main" in functions else None)
    if name is None and len(functions) == 1:
        (name,) = functions
    if name not in functions:
        asked = (
            f"there is no function {name!r} in {package.path}" if name else f"{package.path} has several functions and no default"
        )
        raise MilError(asked, why=f"functions: {', '.join(functions)}", fix=f"load(path, function={next(iter(functions))!r})")
    return name


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MilError(
            f"{name!r} is no torch device", why=str(error).splitlines()[0], fix="device='cpu' or device='cuda'"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MilError("there is no CUDA device here", fix="device='cpu'")
    if device.type not in ("cpu", "cuda"):
        raise UnsupportedError(f"device {name!r} is not supported", fix="device='cpu' or device='cuda'")
    return device


def _machine_bytes() -> int:
    """This machine's memory, or what of it a container may use."""
    import os

    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on every system
        found = 16 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return found
