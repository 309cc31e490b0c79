"""Golden cases: one op, one opset, inputs, and what an independent source says the result is.

A family's test file lists its `Case` objects in ``CASES`` and runs each through `check`; ``test_coverage.py`` counts the op types of
all these lists, so what is counted is what is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.mil.building import opset, save
from workbench.mil import ShapeWarning, load
from workbench.mil.graph import walk


@dataclass(frozen=True, eq=False)
class Case:
    """``build(**vars)`` makes the op in MIL from the inputs' Vars; ``expected(**arrays)`` gives the array, or the tuple of arrays, that
    ``source`` (torch, numpy, scipy, value_inference, onnx, or a definition written out) computes from the same arrays."""

    op: str
    opset: str
    build: Callable[..., Any]
    inputs: Mapping[str, np.ndarray]
    expected: Callable[..., Any]
    source: str
    label: str = ""
    tolerance: float = 2e-6
    """Largest difference allowed, relative to the largest magnitude expected; integers and booleans must be equal."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}" + (f"-{self.label}" if self.label else "")


def check(case: Case, folder: Path) -> None:
    """Build, save, load, run twice (compiled, replayed), compare; the op itself must be in the program at that opset."""
    program = load(save(case.build, case.inputs, folder, since=case.opset), **case.options)
    assert program.opset == case.opset
    assert case.op in {op.type for op in walk(program.function.block)}, "the builder left the op out"
    wanted = case.expected(**case.inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ShapeWarning)  # what coremltools declares is a witness too
            found = list(program.predict(case.inputs).values())
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, np.asarray(other), case.tolerance)


def close(found: Any, wanted: Any, tolerance: float) -> None:
    """Shapes equal; integers and booleans equal; floats within ``tolerance`` of the largest finite magnitude; NaN and infinities alike."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if wanted.dtype.kind in "iub":
        np.testing.assert_array_equal(found.astype(np.int64), wanted.astype(np.int64))
        return
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite].astype(found.dtype))
    scale = np.abs(wanted[finite]).max(initial=0.0) or 1.0
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=tolerance * scale)


def inferred(build: Callable[..., Any], since: str = "iOS15") -> Callable[..., Any]:
    """An ``expected`` from coremltools' own ``value_inference`` at that opset: the same ``build``, called with constants."""

    def expected(**arrays: np.ndarray) -> Any:
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function

        with Function({}, opset_version=opset(since)):
            made = build(**{name: mb.const(val=value) for name, value in arrays.items()})
        values = tuple(var.val for var in (made if isinstance(made, tuple | list) else (made,)))
        assert all(value is not None for value in values), "the op has no value_inference"
        return values if len(values) > 1 else values[0]

    return expected
