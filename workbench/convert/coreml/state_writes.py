"""A repair of coremltools 9.0 for programs with two states or more, while it converts or compresses.

    with state_writes():
        coremltools.convert(...)

Its pass ``common::canonicalize_inplace_pattern`` moves every write of a state to where the value is made. It looks for that place in a list
of ops made before it began to move any, so where the values of two states are made one after the other at a program's end, the place is an
op that is gone: ``KeyError`` (converters/mil/mil/passes/defs/optimize_state.py). Here each move looks at the ops as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

METHOD = "_try_match_and_transform_pattern"


@contextmanager
def state_writes() -> Iterator[None]:
    """Nothing is changed where the pass is not the one that is known."""
    from coremltools.converters.mil.mil.passes.defs import optimize_state

    kind = getattr(optimize_state, "canonicalize_inplace_pattern", None)
    original = getattr(kind, METHOD, None)
    if original is None:
        yield
        return

    def with_ops_as_they_are(self: Any, op: Any, block: Any, _: Any) -> None:
        if self._try_find_child_coreml_update_state_ops(op):
            original(self, op, block, list(block.operations))

    setattr(kind, METHOD, with_ops_as_they_are)
    try:
        yield
    finally:
        setattr(kind, METHOD, original)
