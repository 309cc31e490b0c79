"""Errors a user meets: what happened, why, and the next command to type.

Every error carries the exit code that the command line ends with::

    raise UsageError("unknown task 'mmmuu'", why="no task or suite has that name", fix="workbench list tasks")
"""

from __future__ import annotations

from typing import Any

EXIT_OK = 0
EXIT_DIFFERENT = 1
EXIT_USAGE = 2
EXIT_NO_RUNTIME = 3
EXIT_INCONCLUSIVE = 4
EXIT_INCOMPARABLE = 5
EXIT_ITEM_ERRORS = 6
EXIT_INTERRUPTED = 130


class WorkbenchError(Exception):
    """Base of all errors shown to a user without a traceback.

    ``what`` happened, ``why`` (optional) and ``fix``: the next command to type (optional).
    """

    exit_code = EXIT_USAGE

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


class UsageError(WorkbenchError):
    """Something the user named or gave is wrong: a task, a file, a column, an option."""


class DataError(UsageError):
    """A data set, card or predictions file does not hold what it must."""


class ModelError(UsageError):
    """A model folder or hub id cannot be loaded as what it was named."""


class BundleError(UsageError):
    """A run bundle cannot be written, continued or read."""


class RuntimeMissing(WorkbenchError):
    """The runtime asked for is not installed here or cannot run on this machine."""

    exit_code = EXIT_NO_RUNTIME

    def record(self) -> dict[str, Any]:
        """What a bundle keeps of it."""
        return {"what": self.what, "why": self.why}


class ItemError(WorkbenchError):
    """One item cannot be answered (image, audio, context, memory); recorded with the item, and the run goes on.

    ``reason`` is a short machine-readable word: ``image``, ``audio``, ``context``, ``memory``, ``model``.
    """

    exit_code = EXIT_ITEM_ERRORS

    def __init__(self, what: str, *, reason: str, why: str | None = None, fix: str | None = None):
        super().__init__(what, why=why, fix=fix)
        self.reason = reason
