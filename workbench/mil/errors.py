"""Errors of the reference executor: what happened, why, and what to do.

The package stands alone, so these do not derive from the workbench's own errors; the command line translates them.
"""

from __future__ import annotations


class MilError(Exception):
    """Base of all: ``what`` happened, ``why`` (optional), ``fix``: what to type or do next (optional)."""

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None):
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  try: {self.fix}")
        return "\n".join(lines)


class PackageError(MilError):
    """The file or package cannot be read as an ML Program: damaged, unsafe, or another kind of model."""


class UnsupportedError(MilError):
    """The program holds an op, type or feature that this executor does not know."""


class InputError(MilError):
    """An input given to ``predict`` does not fit: missing, unknown, wrong shape, wrong type, not finite."""


class ExecutionError(MilError):
    """An op could not be computed; names the op, its type and the shapes it was given."""


class ShapeWarning(UserWarning):
    """An op gave another shape than the program declares: converters declare some shapes wrongly, so the run goes on."""
