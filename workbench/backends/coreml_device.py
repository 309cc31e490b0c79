"""A Core ML program on a Mac's own runtime, in the subprocess of its compute unit, behind the interface of all converted programs.

    program = DeviceProgram("decoder.mlpackage", "step", "CPU_AND_NE")
    program.describe()["timing"]     # {"compile_seconds", "load_seconds", "first_seconds", "last_seconds"}
    program.plan()                   # [{"op": "linear", "outputs": ["linear_3"], "device": "Neural Engine", ...}, ...]

Compiling, loading and the first prediction (where a device prepares itself) are measured apart, inside the worker; callers time the
later calls. ``last_seconds`` is Core ML's own part of the last call, without the way to the worker and back.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import coreml_observe, coreml_package, coreml_process
from workbench.backends.arrays import stays
from workbench.backends.base import Evidence, TensorSpec
from workbench.backends.coreml_process import TIMEOUT_SECONDS, DeviceError
from workbench.errors import ItemError, ModelError


class DeviceState:
    """The states of one request, which lie in the worker."""

    def __init__(self, program: DeviceProgram, number: int):
        self.program, self.number = program, number
        self._drop = weakref.finalize(self, program.dropped.append, number)

    def read(self, name: str) -> np.ndarray:
        spec = self._spec(name)
        _, arrays = self.program.ask_of_item({"op": "read_state", "state": self.number, "name": name}, stage="state")
        return _declared(arrays["value"], spec)

    def write(self, name: str, array: np.ndarray) -> None:
        spec, given = self._spec(name), np.asarray(array)
        if tuple(given.shape) != spec.shape or given.dtype.kind not in "fiub":
            raise ItemError(
                f"state {name!r} is given {given.dtype} {list(given.shape)}",
                reason="model",
                why=f"the program declares {spec.dtype} {list(spec.shape)}",
            )
        value = given.astype(spec.dtype, copy=False)
        self.program.ask_of_item({"op": "write_state", "state": self.number, "name": name}, {"value": value}, stage="state")

    def copy(self) -> DeviceState:
        return self.program.new_state(like=self)

    def _spec(self, name: str) -> TensorSpec:
        for spec in self.program.states:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in self.program.states)
        raise ItemError(f"there is no state {name!r}", reason="model", why=f"states: {names or 'none'}")


class DeviceProgram:
    """Follows ``workbench.backends.base.TensorProgram``. Made by ``CoreMLBackend.open``."""

    def __init__(
        self,
        path: str | Path,
        function: str | None,
        units: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        runtime: str = "coremltools",
    ):
        self.head = coreml_package.read(path, function)
        self.head.check_system()
        self.units, self.timeout_seconds = units, timeout_seconds
        self.evidence: Evidence = "host" if units == "CPU_ONLY" else "device"
        self.inputs, self.outputs, self.states = self.head.inputs, self.head.outputs, self.head.states
        self.dropped: list[int] = []
        self._kept: dict[str, np.ndarray] = {}
        self._observing: dict[frozenset[str], tuple[int, Path]] = {}
        self.first_seconds: float | None = None
        self.last_seconds: float | None = None
        self.process = coreml_process.lend(units, runtime)
        self._closed = False
        try:
            opened = self._open(Path(path).resolve())
        except BaseException:
            self.close()
            raise
        self.number: int = opened["model"]
        self.compile_seconds: float = opened["compile_seconds"]
        self.load_seconds: float = opened["load_seconds"]

    def _open(self, path: Path) -> dict[str, Any]:
        request = {
            "op": "open",
            "path": str(path),
            "changed": self.head.package.model_file.stat().st_mtime_ns,
            "function": self.head.function if self.head.several else None,
        }
        try:
            return self._ask(request, stage="load")[0]
        except DeviceError as error:
            raise ModelError(
                f"Core ML cannot load {self.head.path.name} with units={self.units}",
                why=str(error),
                fix="?units=CPU_ONLY" if self.units != "CPU_ONLY" else f"workbench mil check {self.head.path.name}",
            ) from error

    def _ask(self, request: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, *, stage: str, **more: Any):
        return self.process.ask(request, arrays, stage=stage, seconds=self.timeout_seconds, **more)

    def ask_of_item(self, request: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, *, stage: str, **more: Any):
        """As `_ask`; what Core ML refuses is the item's error."""
        try:
            return self._ask(request, arrays, stage=stage, **more)
        except DeviceError as error:
            raise ItemError(
                f"Core ML refused {stage} of {self.head.path.name} ({self.head.function})", reason="model", why=str(error)
            ) from error

    def __call__(self, arrays: Mapping[str, np.ndarray], state: DeviceState | None = None) -> dict[str, np.ndarray]:
        found = self._predict(self.number, arrays, state, self._kept)
        return {spec.name: self._output(found, spec) for spec in self.outputs}

    def _predict(
        self, model: int, arrays: Mapping[str, np.ndarray], state: DeviceState | None, kept: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        self.head.check_names(arrays)
        self._check_state(state)
        self._drop_states()
        given, marks, new = {}, {}, {}
        for name, array in arrays.items():
            fixed = kept is not None and stays(array)
            if fixed and kept.get(name) is array:
                given[name], marks[name] = array, "same"
                continue
            given[name] = self.head.tensor(name, array).numpy()
            if fixed:
                marks[name], new[name] = "keep", array
        if kept is not None:
            kept.update(new)  # the worker keeps them as soon as it has them, whatever becomes of the prediction
        request = {"op": "predict", "model": model, "state": None if state is None else state.number}
        answer, found = self.ask_of_item(request, given, stage="predict", marks=marks)
        self.last_seconds = answer["seconds"]
        if model == self.number and self.first_seconds is None:
            self.first_seconds = self.last_seconds
        return found

    def _output(self, found: Mapping[str, np.ndarray], spec: TensorSpec) -> np.ndarray:
        if spec.name not in found:
            raise ModelError(
                f"Core ML gave no output {spec.name!r}",
                why=f"{self.head.path.name} declares {', '.join(item.name for item in self.outputs)}; it gave {', '.join(found) or 'none'}",
                fix="?executor=reference",
            )
        return _declared(found[spec.name], spec)

    def _check_state(self, state: DeviceState | None) -> None:
        if state is None and self.states:
            names = ", ".join(spec.name for spec in self.states)
            raise ItemError(f"the program has states: {names}", reason="model", why="none was given; make_state() makes one")
        if state is not None and getattr(state, "program", None) is not self:
            raise ItemError("the state is of another program", reason="model", why="states belong to the program that made them")

    def make_state(self) -> DeviceState:
        coreml_package.refuse_stateless(self.head)
        return self.new_state()

    def new_state(self, like: DeviceState | None = None) -> DeviceState:
        self._drop_states()
        return DeviceState(self, self._new_state(self.number, like))

    def _new_state(self, model: int, like: DeviceState | None) -> int:
        names = [spec.name for spec in self.states]
        request = {"op": "make_state", "model": model, "like": None if like is None else like.number, "names": names}
        return self.ask_of_item(request, stage="state")[0]["state"]

    def _drop_states(self) -> None:
        """States that nobody holds any more leave the worker with the next request."""
        if self.dropped:
            gone = [self.dropped.pop() for _ in range(len(self.dropped))]
            self.ask_of_item({"op": "drop_states", "states": gone}, stage="state")

    def observe(
        self, arrays: Mapping[str, np.ndarray], names: Iterable[str], state: DeviceState | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By a copy of the package with more outputs. Its numbers are the device's, whose fusions more outputs may change."""
        wanted = list(dict.fromkeys(names))
        key = frozenset(wanted)
        if key not in self._observing:
            folder = Path(tempfile.mkdtemp(dir=self.process.folder))
            self._observing[key] = (self._open(coreml_observe.with_outputs(self.head, wanted, folder))["model"], folder)
        model = self._observing[key][0]
        found = self._predict(model, arrays, None) if state is None else self._observe_with_state(model, arrays, state)
        values = {}
        for name in wanted:
            dtype = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "int32": "int32"}.get(self.head.values.get(name, ""))
            values[name] = self._output(
                found, next((s for s in self.outputs if s.name == name), TensorSpec(name, dtype or "float32", ()))
            )
        return {spec.name: self._output(found, spec) for spec in self.outputs}, values

    def _observe_with_state(self, model: int, arrays: Mapping[str, np.ndarray], state: DeviceState) -> dict[str, np.ndarray]:
        """A state works with the model that made it only, so the copy gets its own, and what it wrote goes back."""
        self._check_state(state)
        lent = DeviceState(self, self._new_state(model, state))
        found = self._predict(model, arrays, lent)
        names = [spec.name for spec in self.states]
        self.ask_of_item({"op": "copy_state", "state": state.number, "like": lent.number, "names": names}, stage="state")
        return found

    def plan(self) -> list[dict[str, Any]]:
        """The device Core ML prefers for each operation, those that could run it, and its estimate of the cost (macOS 14.4).

        Raises ModelError where this system does not offer it.
        """
        try:
            return self._ask({"op": "plan", "model": self.number, "function": self.head.function}, stage="plan")[0]["rows"]
        except DeviceError as error:
            raise ModelError("Core ML tells no compute plan here", why=str(error), fix="it needs macOS 14.4 or newer") from error

    def describe(self) -> dict[str, Any]:
        return {
            "executor": f"Core ML through coremltools {self.process.version}",
            "units": self.units,
            "function": self.head.function,
            "opset": self.head.opset,
            "timing": {
                "compile_seconds": self.compile_seconds,
                "load_seconds": self.load_seconds,
                "first_seconds": self.first_seconds,
                "last_seconds": self.last_seconds,
            },
        }

    def close(self) -> None:
        """Leave the worker; the last program's leaving ends it."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.process.failure is None and self.process.users > 1 and hasattr(self, "number"):
                for model in (self.number, *(model for model, _ in self._observing.values())):
                    with contextlib.suppress(DeviceError, coreml_process.DeviceFailure):
                        self._ask({"op": "close_model", "model": model}, stage="close")
        finally:
            for _, folder in self._observing.values():
                shutil.rmtree(folder, ignore_errors=True)
            coreml_process.give_back(self.process)


def _declared(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """In the declared type: the binding gives fp16 as float32, which loses nothing on the way back."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(spec.dtype, copy=False)
