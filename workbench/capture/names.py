"""Which layers a capture records: patterns over their names (``workbench.models.layer_names``) or over module paths.

    chosen({"model.layers.0": "text.block.0", "model.layers.0.mlp": "text.block.0.mlp"}, COARSE)    # {"model.layers.0": "text.block.0"}

In a pattern ``#`` stands for a number and ``~`` for a name without a dot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from workbench.models.layer_names import RENAMES, Renames, layer_name, names_of

__all__ = ["COARSE", "FINE", "RENAMES", "Renames", "chosen", "first_blocks", "layer_name", "matches", "names_of"]

COARSE = ("*embeddings", "*.norm", "*.block.#", "projector", "logits", "*.input")
"""Recorded by default; ``#`` stands for a number."""
FINE = (*COARSE, "*.block.#.~", "projector.~")
"""What the zoo records: also the parts of each block; ``~`` stands for a name without a dot."""


def chosen(names: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """The paths whose name, or whose path itself, matches one of ``patterns``."""
    return {path: name for path, name in names.items() if matches(name, patterns) or matches(path, patterns)}


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    if "#" not in pattern and "~" not in pattern:
        return fnmatchcase(name, pattern)
    expression = "".join({"*": ".*", "#": r"\d+", "~": r"[^.]+"}.get(each, re.escape(each)) for each in pattern)
    return re.fullmatch(expression, name) is not None


def first_blocks(names: Mapping[str, str]) -> dict[str, str]:
    """``{path of the first block of each stack: name of its input}``: what a tower really begins with, embeddings merged."""
    found: dict[str, str] = {}
    for path, name in names.items():
        match = re.fullmatch(r"(.+)\.block\.0", name)
        if match:
            found[path] = f"{match[1]}.input"
    return found
