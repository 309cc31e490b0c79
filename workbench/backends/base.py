"""What a runtime has to say about itself.

>>> get_backend("torch").available()
Availability(ok=True, reason='torch 2.13.0', fix=None)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

Evidence = Literal["device", "host", "reference", "server"]
"""``device``: the vendor's runtime on its own accelerator. ``host``: the vendor's runtime on this CPU. ``reference``: a reference executor.
``server``: answers over HTTP from a runtime and hardware we do not see; timings include the network and the server's queue."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Is a runtime here? ``reason`` says what was found or what is missing, ``fix`` what to type."""

    ok: bool
    reason: str
    fix: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


class Backend(Protocol):
    """A runtime. Its module may be imported without the runtime being installed; heavy imports happen in the methods."""

    name: str
    distributions: tuple[str, ...]
    """Libraries that make the answers; their versions are part of the run key."""

    def available(self) -> Availability: ...

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Set the runtime up before its first use in this process; returns what was done, for the bundle."""
        ...

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """``{"name", "kind": "cpu"|"cuda"|"mps"|"metal"|"coreml"|"reference"|"server", "memory_bytes"}`` of the device that runs
        will use. ``coreml``: the processors among which Core ML chooses itself. ``reference``: a reference executor, on this CPU."""
        ...

    def evidence(self, options: dict[str, str]) -> Evidence: ...

    def synchronize(self) -> None:
        """Wait until queued work is done."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """Peak since ``reset_peak_memory``; None where the runtime cannot tell."""
        ...

    def reset_peak_memory(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input, output or state of a program. ``dtype`` is numpy's name; a size that is None may vary."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class TensorState(Protocol):
    """What a stateful program remembers between calls; a fresh one is all zeros."""

    def read(self, name: str) -> np.ndarray:
        """A copy of one state, in the shape and type declared."""
        ...

    def write(self, name: str, array: np.ndarray) -> None:
        """Replace one state. Raises ItemError when name, shape or type is not right."""
        ...

    def copy(self) -> TensorState:
        """Another state of the same contents; what is written to one does not change the other."""
        ...


class TensorProgram(Protocol):
    """A loaded program of numpy arrays in and out, whatever runs it.

        program = get_backend("coreml").open("decoder.mlpackage", {}, function="step")
        state = program.make_state()
        logits = program({"tokens": tokens, "mask": mask, "positions": positions}, state)["logits"]

    An array that is read-only and owns its memory (``array.setflags(write=False)``) is taken to stay as it is: given again under the
    same name, it is neither checked nor sent again. That is for what a loop hands over at every step, such as a sound's encoding.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    evidence: Evidence

    def __call__(self, arrays: Mapping[str, np.ndarray], state: TensorState | None = None) -> dict[str, np.ndarray]:
        """Outputs by name, in the types declared; NaN where the program computed NaN. ``state`` is changed.

        Raises ItemError(reason="model") for arrays that do not fit and for an op that could not be computed; RuntimeMissing when the
        runtime itself ended (``workbench.backends.coreml_process.DeviceFailure``).
        """
        ...

    def make_state(self) -> TensorState:
        """A fresh state. Raises UsageError where the program has none."""
        ...

    def observe(
        self, arrays: Mapping[str, np.ndarray], names: Iterable[str], state: TensorState | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The outputs, and the values ``names`` inside the program. Raises ModelError naming what is not there to be seen."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs it, for the bundle: ``{"executor", "function", "opset", "timing": {"load_seconds", "first_seconds", ...} | None}``."""
        ...

    def close(self) -> None: ...


class TensorBackend(Backend, Protocol):
    """A runtime that opens converted programs."""

    def open(self, path: str | Path, options: Mapping[str, str], function: str | None = None) -> TensorProgram:
        """Load ``function`` (None: the default, or the only one) of the file at ``path``.

        Raises ModelError (not there, damaged, too new, an op that is not known), UsageError (options) and RuntimeMissing.
        """
        ...
