"""The edge to Apple's runtime: every member of coremltools that running a program needs, and nothing else of it.

    platform = Platform(importlib.import_module("coremltools"))
    compiled = platform.compile("vision.mlpackage", folder)
    model = platform.load(compiled, None, "CPU_AND_NE")
    platform.predict(model, {"pixel_values": pixels}, None)

What coremltools' binding takes and gives (apple/coremltools 9.0, coremlpython/CoreMLPythonArray.mm and CoreMLPythonUtils.mm): arrays of
int32, float32 and float64 whose memory may be written, never fp16; fp16 outputs and states come back as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DEVICES = {"MLCPUComputeDevice": "CPU", "MLGPUComputeDevice": "GPU", "MLNeuralEngineComputeDevice": "Neural Engine"}
"""Classes of ``coremltools.models.compute_device``."""

FED = {"float16": "float32", **dict.fromkeys(("bool", "int8", "uint8", "int16", "uint16", "uint32", "int64"), "int32")}
"""Types that the binding does not take -> the one they are handed over as; Core ML converts to what the program declares."""


class State(Protocol):
    """``coremltools.models.model.MLState``."""

    def read_state(self, name: str) -> np.ndarray: ...
    def write_state(self, name: str, value: np.ndarray) -> None: ...


class Model(Protocol):
    """``coremltools.models.CompiledMLModel``."""

    def predict(self, data: dict[str, Any], state: State | None = None) -> dict[str, Any]: ...
    def make_state(self) -> State: ...


class Plan(Protocol):
    """``coremltools.models.compute_plan.MLComputePlan``."""

    model_structure: Any

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any: ...
    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any: ...


class Coremltools(Protocol):
    """The module. ``ComputeUnit``: an enum with the members of ``workbench.backends.coreml.UNITS``; ``models``: ``CompiledMLModel``,
    ``utils.compile_model``, ``compute_plan.MLComputePlan``."""

    __version__: str
    ComputeUnit: Any
    models: Any


class Platform:
    """What the worker asks for, in coremltools' words."""

    def __init__(self, module: Coremltools):
        self.module = module

    def compile(self, package: str | Path, folder: str | Path) -> str:
        """Compile a package into ``folder``; the path of the ``.mlmodelc``."""
        destination = Path(folder) / f"{Path(package).stem}.mlmodelc"
        return str(self.module.models.utils.compile_model(str(package), str(destination)))

    def load(self, compiled: str, function: str | None, units: str) -> Model:
        """``function`` is for packages of several only: naming one needs macOS 15."""
        return self.module.models.CompiledMLModel(
            compiled, compute_units=getattr(self.module.ComputeUnit, units), function_name=function
        )

    def predict(self, model: Model, arrays: Mapping[str, np.ndarray], state: State | None) -> dict[str, Any]:
        fed = {name: handed(array) for name, array in arrays.items()}
        return model.predict(fed) if state is None else model.predict(fed, state=state)

    def make_state(self, model: Model) -> State:
        return model.make_state()

    def read_state(self, state: State, name: str) -> np.ndarray:
        return np.asarray(state.read_state(name=name))

    def write_state(self, state: State, name: str, value: np.ndarray) -> None:
        state.write_state(name=name, value=handed(value))

    def plan(self, compiled: str, function: str, units: str) -> list[dict[str, Any]]:
        """One row an operation that runs: ``{"op", "outputs", "device", "supported", "cost"}``; needs macOS 14.4.

        ``device`` is None where Core ML does not tell; ``cost`` is its estimate of the operation's share, 0 to 1.
        """
        plan: Plan = self.module.models.compute_plan.MLComputePlan.load_from_path(
            compiled, compute_units=getattr(self.module.ComputeUnit, units)
        )
        program = plan.model_structure.program
        if program is None:
            return []
        rows: list[dict[str, Any]] = []
        self._rows(plan, program.functions[function].block, rows)
        return rows

    def _rows(self, plan: Plan, block: Any, rows: list[dict[str, Any]]) -> None:
        for operation in block.operations:
            if operation.operator_name == "const":
                continue
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
            rows.append(
                {
                    "op": operation.operator_name,
                    "outputs": [item.name for item in operation.outputs],
                    "device": None if usage is None else device_name(usage.preferred_compute_device),
                    "supported": [] if usage is None else [device_name(item) for item in usage.supported_compute_devices],
                    "cost": None if cost is None else float(cost.weight),
                }
            )
            for inner in operation.blocks:
                self._rows(plan, inner, rows)


def device_name(device: Any) -> str:
    """CPU, GPU, Neural Engine; a kind that is not known by its class."""
    return DEVICES.get(type(device).__name__, type(device).__name__)


def handed(array: np.ndarray) -> np.ndarray:
    """As the binding takes it: one of its three types, in one piece, writable. An array that is so already is not copied."""
    wanted = FED.get(array.dtype.name, array.dtype.name)
    return np.require(array, dtype=wanted, requirements=("C", "W"))
