"""A reference executor for Core ML programs: runs a saved ML Program op by op on torch, on any machine.

    from workbench.mil import load

    program = load("encoder.mlpackage")
    program.predict({"mel": mel})

It answers whether a conversion is faithful. It is no device: the arithmetic of the Neural Engine and the GPU is not public, and
nothing here says how fast a device is. Needs torch, numpy and coremltools (for the file format) and nothing else of the workbench.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.mil.errors import ExecutionError, InputError, MilError, PackageError, ShapeWarning, UnsupportedError

if TYPE_CHECKING:
    from workbench.mil.program import Program, State, load

__all__ = [
    "ExecutionError",
    "InputError",
    "MilError",
    "PackageError",
    "Program",
    "ShapeWarning",
    "State",
    "UnsupportedError",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in ("Program", "State", "load"):  # torch is imported when it is used
        from workbench.mil import program

        return getattr(program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
