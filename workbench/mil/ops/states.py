"""States: memory that outlives one prediction (a key-value cache). A value read is never changed by a later write."""

from __future__ import annotations

from typing import Any

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Family, Tensor

states = Family("states")


@states.op("read_state", since="iOS18", pure=False, moves=True)
def read_state(input: Any) -> Tensor:
    """The value that the last write left."""
    return input.value


@states.op("write_state", since="iOS18", pure=False, moves=True)
def write_state(input: Any, data: Tensor) -> tuple[()]:
    """How ``coreml_update_state`` is stored: coremltools converters/mil/backend/mil/load.py, translate_coreml_update_state_op."""
    if data.shape != input.value.shape:
        raise ExecutionError(f"a state of shape {list(input.value.shape)} is given {list(data.shape)}")
    input.value = data
    return ()
