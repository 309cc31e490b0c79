"""A finding: the cause of a divergence, kept as an executable proof. While its patch is entered, one operation is replaced, and parity returns.

One small file a finding, in ``workbench/capture/zoo/findings/``::

    FINDING = Finding("llava-next-unpad", ("llava_next",), "port", "what is wrong, in one sentence", "file: function", patch)

The zoo measures first and knows no finding; a row that differs is then measured again with each finding of its family, and says which
one brings it back. A finding that proves nothing any more (the library was repaired) changes no row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """``patch(model)`` is a context manager; it is given the model of ``side``, loaded, and puts everything back when left."""

    name: str
    families: tuple[str, ...]
    side: Literal["port", "reference"]
    title: str
    """What is wrong and what the patch does instead, in one sentence."""
    where: str
    """The library's file and function."""
    patch: Callable[[Any], AbstractContextManager[Any]]
    layouts: tuple[str, ...] = ("hub", "v5")


def findings_of(family: str, layout: str) -> list[Finding]:
    """Those of one family, by name."""
    from workbench.capture.zoo import findings as package

    every = [import_module(f"{package.__name__}.{module.name}").FINDING for module in iter_modules(package.__path__)]
    return sorted((each for each in every if family in each.families and layout in each.layouts), key=lambda each: each.name)
