"""CUDA graphs of an engine: the work of a call recorded once and put to the GPU again as a whole.

    graphs = Graphs(make_place, device)
    place, run = graphs.ready(key, arrays)     # fed; run() is an eager call at first, then a replay
    graphs.describe()                          # {"captured": 1, "replayed": 41, "dropped": 0, "eager": 1, "why_not": None}

A graph holds the addresses and shapes it was recorded with, and the state of the context it was recorded from
(docs.nvidia.com/deeplearning/tensorrt, best practices, "CUDA Graphs"). So each set of input shapes has a context and buffers of its own,
which stay; inputs are copied into them, and what is to be kept on the device is copied out of them. The first call with new shapes is an
ordinary one, for lazy initialisation cannot be recorded. What cannot be recorded is run as ever, and ``why_not`` says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.backends.tensorrt_context import Place
from workbench.errors import ItemError

MOST = 8
"""Shapes whose graphs are kept; each holds a context. The least recently used goes first."""


@dataclass(eq=False)
class Recorded:
    """The graph of one set of shapes. ``ran``: eagerly, with success; ``replay`` is None before that and before the next call."""

    place: Place
    addresses: dict[str, int]
    ran: bool = False
    replay: Callable[[], None] | None = None


class Graphs:
    """Of one program. ``make_place(profile)``: a `Place` with fixed addresses."""

    def __init__(self, make_place: Callable[[int], Place], device: Any):
        self.make_place, self.device = make_place, device
        self.kept: OrderedDict[Hashable, Recorded] = OrderedDict()
        self.captured = self.replayed = self.dropped = self.eager = 0
        self.why_not: str | None = None

    def ready(self, profile: int, key: Hashable, arrays: Mapping[str, Any]) -> tuple[Place, Callable[[], None]] | None:
        """A fed place and what runs it; None where this engine's work cannot be recorded. ``key``: shapes, and values of shape inputs."""
        if self.why_not is not None:
            return None
        found = self.kept.get((profile, key))
        if found is None:
            return self._first(profile, key, arrays)
        self.kept.move_to_end((profile, key))
        found.place.feed(arrays)
        if found.addresses != found.place.addresses:  # nothing may move under a graph
            self.dropped += found.replay is not None
            found.replay, found.ran, found.addresses = None, False, found.place.addresses
        if not found.ran:
            return found.place, self._eagerly(found)
        if found.replay is None:
            found.replay = self._capture(found.place)
            if found.replay is None:
                return None
        return found.place, self._replaying(found.replay)

    def _first(self, profile: int, key: Hashable, arrays: Mapping[str, Any]) -> tuple[Place, Callable[[], None]] | None:
        try:
            place = self.make_place(profile)
        except ItemError as error:
            if error.reason != "memory":
                raise
            self.drop()  # each graph holds a context; without them the calls that are not recorded have room
            self.why_not = "the GPU's memory is not enough for a context of each shape"
            return None
        place.feed(arrays)
        if place.depends_on_data:
            self.device.synchronize()  # it is at work on memory that goes with the place
            self.why_not = f"the shape of {', '.join(place.depends_on_data)} is known only when it is computed"
            return None
        while len(self.kept) >= MOST:
            self.kept.popitem(last=False)
            self.dropped += 1
        found = self.kept[profile, key] = Recorded(place, place.addresses)
        return place, self._eagerly(found)

    def _eagerly(self, found: Recorded) -> Callable[[], None]:
        def run() -> None:
            found.place.enqueue()
            found.ran = True
            self.eager += 1

        return run

    def _replaying(self, replay: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            replay()
            self.replayed += 1

        return run

    def _capture(self, place: Place) -> Callable[[], None] | None:
        self.device.synchronize()
        try:
            replay = self.device.capture(place.enqueue)
        except (RuntimeError, ItemError) as error:
            if (told := self.device.told(error, "run")) is not None and not _of_capture(error):
                raise told from error
            self.drop()
            self.why_not = f"its work cannot be recorded: {getattr(error, 'why', None) or str(error).splitlines()[0]}"
            return None
        self.captured += 1
        return replay

    def drop(self) -> None:
        """Forget all graphs: the engine's weights changed, or the program closes."""
        self.dropped += sum(item.replay is not None for item in self.kept.values())
        self.kept.clear()

    def describe(self) -> dict[str, Any]:
        return {
            "captured": self.captured,
            "replayed": self.replayed,
            "dropped": self.dropped,
            "eager": self.eager,
            "why_not": self.why_not,
        }


def _of_capture(error: BaseException) -> bool:
    """Does CUDA say that the recording, and nothing else, went wrong? (cudaErrorStreamCapture..., CUDA Runtime API, error types)"""
    text = str(error).lower()
    return "captur" in text or "dependency created on uncaptured work" in text
