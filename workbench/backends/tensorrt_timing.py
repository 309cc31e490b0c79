"""What a call of an engine takes: on the device between two events of its stream, and for the caller from arrays to arrays.

    clock = Clock(device)
    with clock.call():
        ...                                # copies in
        with clock.engine():
            place.enqueue()
        ...                                # copies out, and the wait for the stream
    clock.describe()["device"]["last_seconds"] < clock.describe()["host"]["last_seconds"]

The two are kept apart: the device's time leaves out the copies and most of Python; the host's holds all of it. Where the host hands work
over more slowly than the device does it, the device waits between two kernels, and that waiting is in its time: ``enqueue`` tells, which is
then about as long, and ``cuda_graph=true`` takes it away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Lap:
    """Seconds of many calls. The first one, in which a device prepares itself, is not in the mean."""

    calls: int = 0
    first: float | None = None
    last: float | None = None
    later: float = 0.0
    least: float | None = None

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.last = seconds
        if self.first is None:
            self.first = seconds
            return
        self.later += seconds
        self.least = seconds if self.least is None else min(self.least, seconds)

    def describe(self) -> dict[str, float | int | None]:
        return {
            "calls": self.calls,
            "first_seconds": self.first,
            "last_seconds": self.last,
            "steady_seconds": self.later / (self.calls - 1) if self.calls > 1 else None,
            "least_seconds": self.least,
        }


class Clock:
    """Of one program. A call that fails is not counted, nor is one that recorded a graph."""

    def __init__(self, device: Any):
        self.device_object, self.host, self.device, self.enqueue = device, Lap(), Lap(), Lap()
        self._events: tuple[Any, Any] | None = None
        self._enqueued, self._discarded = 0.0, False

    def discard(self) -> None:
        """The call in progress did something that later ones do not."""
        self._discarded = True

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around everything; at its end the stream has been waited for."""
        self._events, self._discarded = None, False
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        if self._events is None or self._discarded:
            return
        self.host.add(took)
        self.enqueue.add(self._enqueued)
        self.device.add(self.device_object.seconds(*self._events))
        self._events = None

    @contextlib.contextmanager
    def engine(self) -> Iterator[None]:
        """Around what the engine itself is asked to do."""
        first, began = self.device_object.event(), time.perf_counter()
        yield
        self._enqueued = time.perf_counter() - began
        self._events = (first, self.device_object.event())

    def describe(self) -> dict[str, Any]:
        """``host``: arrays in to arrays out. ``device``: between two events around the engine's work. ``enqueue``: the host's part of
        handing that work over."""
        return {"host": self.host.describe(), "device": self.device.describe(), "enqueue": self.enqueue.describe()}
