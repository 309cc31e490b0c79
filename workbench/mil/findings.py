"""What an examination says: one finding is a kind, one sentence or two, and the ops it is about.

Names come from the program and are foreign text: sentences quote them shortened and escaped (`shown`); ``ops`` holds them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("unsupported", "dynamic-shape", "neural-engine", "nan", "overflow", "underflow", "constant", "compression")


@dataclass(frozen=True)
class Finding:
    """``kind``: one of `KINDS`. ``ops``: names of the ops meant; empty where the finding is about inputs or states."""

    kind: str
    text: str
    ops: tuple[str, ...] = ()


def shown(name: str, most: int = 80) -> str:
    """A foreign name inside a sentence: quoted, control characters escaped, cut to ``most`` characters."""
    return repr(name if len(name) <= most else f"{name[: most - 3]}...")


def listed(names: Iterable[str], most: int = 3) -> str:
    """``'a', 'b', 'c' and 12 more``."""
    every = tuple(names)
    first = ", ".join(shown(name) for name in every[:most])
    return first if len(every) <= most else f"{first} and {len(every) - most:,} more"


def counted(number: int, noun: str) -> str:
    """``1 op``, ``2,000 ops``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
