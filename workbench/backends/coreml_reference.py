"""A Core ML program on the reference executor (``workbench.mil``), behind the interface of all converted programs.

    program = ReferenceProgram("vision.mlpackage")
    program({"pixel_values": pixels})["image_features"]

It runs anywhere and settles whether a conversion is faithful; how fast a device is it cannot say, so it has no timing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import coreml_package
from workbench.backends.arrays import stays
from workbench.backends.base import Evidence
from workbench.errors import ItemError

READINGS = ("native", "emulate", "fp16-weights", "float64")
"""How floats are computed: ``workbench.mil.program.PRECISIONS``."""


class ReferenceState:
    """The states of one request."""

    def __init__(self, inner: Any):
        self.inner = inner

    def read(self, name: str) -> np.ndarray:
        with coreml_package.told_of_item():
            return self.inner.read(name)

    def write(self, name: str, array: np.ndarray) -> None:
        with coreml_package.told_of_item():
            self.inner.write(name, array)

    def copy(self) -> ReferenceState:
        """Cheap: the values are shared until one side writes, for a write makes a new value."""
        return ReferenceState(self.inner.copy())


class ReferenceProgram:
    """Follows ``workbench.backends.base.TensorProgram``. Made by ``CoreMLBackend.open``."""

    evidence: Evidence = "reference"

    def __init__(self, path: str | Path, function: str | None = None, reading: str = "native"):
        self.head = coreml_package.read(path, function)
        self.reading = reading
        with coreml_package.told():
            from workbench.mil.program import load

            self.program = load(path, self.head.function, reading)
        self.inputs, self.outputs, self.states = self.head.inputs, self.head.outputs, self.head.states
        self._kept: dict[str, tuple[np.ndarray, Any]] = {}

    def __call__(self, arrays: Mapping[str, np.ndarray], state: ReferenceState | None = None) -> dict[str, np.ndarray]:
        from workbench.mil.arrays import from_value

        tensors = self._tensors(arrays)
        with coreml_package.told_of_item():
            results = self.program.run(tensors, self._inner(state))
            return {item.name: np.asarray(from_value(item, results[item.name])) for item in self.program.outputs}

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Checked, in the program's types. What stays as it is was checked when it first came."""
        held = {name: self._kept[name][1] for name, given in arrays.items() if self._is_kept(name, given)}
        with coreml_package.told_of_item():
            fresh = self.program.tensors(arrays, held=held)
        for name, given in arrays.items():
            if name not in held and name in fresh and stays(given):
                self._kept[name] = (given, fresh[name])
        return fresh

    def _is_kept(self, name: str, given: Any) -> bool:
        return name in self._kept and self._kept[name][0] is given and stays(given)

    def _inner(self, state: ReferenceState | None) -> Any:
        if state is not None and not isinstance(state, ReferenceState):
            raise ItemError(f"the state is {type(state).__name__}, of another executor", reason="model")
        return None if state is None else state.inner

    def make_state(self) -> ReferenceState:
        coreml_package.refuse_stateless(self.head)
        return ReferenceState(self.program.make_state())

    def observe(
        self, arrays: Mapping[str, np.ndarray], names: Iterable[str], state: ReferenceState | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Op by op and nothing fused; only the values asked for are kept. They come in the type they were computed in."""
        wanted = list(dict.fromkeys(names))
        self.head.check_observed(wanted)
        asked, seen = set(wanted), {}

        def keep(op: Any, results: tuple[Any, ...]) -> None:
            for (name, _), value in zip(op.outputs, results, strict=True):
                if name in asked:
                    seen[name] = _array(value)

        with coreml_package.told_of_item():
            outputs = self.program.observe(arrays, keep, self._inner(state))
        found = {name: np.asarray(value) for name, value in outputs.items()}
        lost = [name for name in wanted if name not in seen and name not in found]
        seen |= {name: found[name] for name in wanted if name not in seen and name in found}
        if lost:
            raise coreml_package.not_seen(self.head, lost, "it depends on constants alone and is computed once, at load")
        return found, {name: seen[name] for name in wanted}

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "executor": "workbench.mil",
            "reading": self.reading,
            "function": self.head.function,
            "opset": self.head.opset,
            "fused": len(self.program.fused),
            "threads": torch.get_num_threads(),
            "timing": None,
        }

    def close(self) -> None:
        """Drop the weights."""
        self._kept.clear()
        self.program = None


def _array(value: Any) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    return np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy())
