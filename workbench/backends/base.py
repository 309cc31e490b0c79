"""What a runtime has to say about itself.

>>> get_backend("torch").available()
Availability(ok=True, reason='torch 2.13.0', fix=None)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
        """``{"name", "kind": "cpu"|"cuda"|"mps"|"metal"|"server", "memory_bytes"}`` of the device that runs will use."""
        ...

    def evidence(self, options: dict[str, str]) -> Evidence: ...

    def synchronize(self) -> None:
        """Wait until queued work is done."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """Peak since ``reset_peak_memory``; None where the runtime cannot tell."""
        ...

    def reset_peak_memory(self) -> None: ...
