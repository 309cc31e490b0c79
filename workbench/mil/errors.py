"""Errors of the reference executor: what happened, why, and what to do.

The package stands alone, so these do not derive from the workbench's own errors; the command line translates them.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 20_000
"""Of one part of a message."""
_LONG_WORD = re.compile(r"(\S{200})\S{200,}(\S{60})")


class MilError(Exception):
    """Base of all: ``what`` happened, ``why`` (optional), ``fix``: what to type or do next (optional).

    All three may quote names from a foreign file: what cannot be printed is escaped, what is very long is shortened.
    """

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None):
        self.what = printable(what)
        self.why = None if why is None else printable(why)
        self.fix = None if fix is None else printable(fix)
        super().__init__(self.what)

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


def printable(text: str) -> str:
    """``text`` on one line for a terminal: control characters and the like escaped, words and text of absurd length shortened."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else (" " if c == "\n" else ascii(c)[1:-1]) for c in text[: 10 * MOST_CHARACTERS])
    text = _LONG_WORD.sub(r"\1...\2", text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
