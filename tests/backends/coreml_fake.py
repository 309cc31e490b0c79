"""A stand-in for coremltools on a Mac: the members that the platform edge uses, as strict as the real binding, on ``workbench.mil``.

It is imported by name in a worker (``runtime="tests.backends.coreml_fake"``). The file that ``WORKBENCH_FAKE_COREML`` names says where
and how it misbehaves: ``load=abort``, ``predict=hang``, ``predict=nan``, ``predict=names``, ``state=old`` ... Nothing heavy is imported
before a model really predicts, so a worker that dies young costs little.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np

__version__ = "9.0, played by the tests"


def deed_at(stage: str) -> str:
    control = Path(os.environ["WORKBENCH_FAKE_COREML"])
    asked, _, deed = control.read_text().partition("=") if control.exists() else ("", "", "")
    return deed if asked == stage else ""


def misbehave(stage: str) -> None:
    deed = deed_at(stage)
    if deed == "abort":
        print("MPSGraph: failed assertion `no such luck'", file=sys.stderr, flush=True)
        os.abort()
    if deed == "crash":
        ctypes.string_at(0)
    if deed == "exit":
        os._exit(3)
    if deed == "hang":  # as a native call does: signals from the terminal are ignored, Python's lock is held
        ctypes.PyDLL(None).sleep(60)
    if deed == "raise":
        raise RuntimeError("Error compiling model: unsupported operation 'frobnicate'")
    if deed == "old":
        raise RuntimeError(f"{stage} is only available on macOS >= 15.0")


misbehave("start")


class ComputeUnit(Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


def as_the_binding_gives(array: np.ndarray) -> np.ndarray:
    """fp16 as float32; rows that do not lie one after the other, as a device's padded buffers."""
    array = array.astype(np.float32) if array.dtype == np.float16 else array
    if array.ndim == 0:
        return array
    padded = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    padded[..., : array.shape[-1]] = array
    return padded[..., : array.shape[-1]]


def as_the_binding_takes(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype not in (np.int32, np.float32, np.float64):
        raise RuntimeError(f"Unsupported array type: {getattr(array, 'dtype', type(array))}")
    if not array.flags.writeable:
        raise ValueError("array is not writeable")
    return array


class MLState:
    def __init__(self, proxy, model):
        self.proxy, self.model = proxy, model

    def read_state(self, name: str) -> np.ndarray:
        return as_the_binding_gives(self.proxy.read(name))

    def write_state(self, name: str, value: np.ndarray):
        self.proxy.write(name, as_the_binding_takes(value))


class CompiledMLModel:
    def __init__(self, path, compute_units=ComputeUnit.ALL, function_name=None, optimization_hints=None, asset=None):
        misbehave("load")
        if not isinstance(compute_units, ComputeUnit):
            raise TypeError('The "compute_units" parameter must be of type: "coremltools.ComputeUnit".')
        self.units, self.source, self.function = compute_units, next(Path(path).iterdir()), function_name

    @cached_property
    def program(self):
        from workbench import mil
        from workbench.mil.graph import read_functions
        from workbench.mil.package import read_package

        if self.function is not None and len(read_functions(read_package(self.source))) == 1:
            raise RuntimeError("a function was named for a model of one function")
        return mil.load(self.source, self.function)

    def predict(self, data, state=None):
        misbehave("predict")
        if type(data) is not dict:
            raise TypeError('"data" parameter must be either a dict or list of dict')
        given = {name: as_the_binding_takes(array) for name, array in data.items()}
        if state is not None and state.model is not self:
            raise RuntimeError("the state is of another model")
        found = self.program.predict(given, None if state is None else state.proxy)
        if deed_at("predict") == "nan":
            found = {name: np.full_like(array, np.nan) for name, array in found.items()}
        if deed_at("predict") == "names":
            found = {f"var_{number}": array for number, array in enumerate(found.values())}
        return {name: as_the_binding_gives(array) for name, array in found.items()}

    def make_state(self):
        misbehave("state")
        return MLState(self.program.make_state(), self)


def compile_model(model, destination_path=None):
    misbehave("compile")
    if not model.endswith((".mlpackage", ".mlmodel")) or not destination_path.endswith(".mlmodelc"):
        raise ValueError(f"Invalid model file path: '{model}'.")
    if Path(model).is_dir():
        shutil.copytree(model, Path(destination_path) / Path(model).name)
    else:
        Path(destination_path).mkdir()
        shutil.copy(model, destination_path)
    return destination_path


class MLCPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


class MLComputePlan:
    def __init__(self, path):
        from workbench import mil
        from workbench.mil.graph import read_functions
        from workbench.mil.package import read_package

        source = next(Path(path).iterdir())
        functions = {
            name: SimpleNamespace(block=self._block(mil.load(source, name).function.block))
            for name in read_functions(read_package(source))
        }
        self.model_structure = SimpleNamespace(program=SimpleNamespace(functions=functions))

    def _block(self, block):
        operations = [SimpleNamespace(operator_name="const", outputs=[], blocks=[])]
        for op in block.ops:
            outputs = [SimpleNamespace(name=name) for name, _ in op.outputs]
            inner = [self._block(item) for item in op.blocks]
            operations.append(SimpleNamespace(operator_name=op.type, outputs=outputs, blocks=inner))
        return SimpleNamespace(operations=operations)

    @classmethod
    def load_from_path(cls, path, compute_units=ComputeUnit.ALL):
        misbehave("plan")
        if compute_units not in ComputeUnit:
            raise ValueError(compute_units)
        return cls(path)

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        if operation.operator_name == "add":
            return None
        devices = [MLCPUComputeDevice(), MLNeuralEngineComputeDevice()]
        return SimpleNamespace(preferred_compute_device=devices[1], supported_compute_devices=devices)

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        return None if operation.operator_name == "add" else SimpleNamespace(weight=0.25)


models = SimpleNamespace(
    CompiledMLModel=CompiledMLModel,
    utils=SimpleNamespace(compile_model=compile_model),
    compute_plan=SimpleNamespace(MLComputePlan=MLComputePlan),
)
