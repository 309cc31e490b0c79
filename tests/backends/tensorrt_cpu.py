"""torch's CPU in the place of the GPU of ``workbench.backends.tensorrt_cuda.Cuda``: a stream that does nothing before somebody waits.

    device = Cpu()
    with device.working():
        buffer = device.empty(1024)          # at an address that is a multiple of 256, known to `memory` as long as it lives
        enqueue(device.handle, compute)      # as a stand-in for a runtime does; `compute` runs when the stream is waited for
    device.synchronize()

So what a GPU would punish now and then is punished here every time: a buffer that is freed or reused before the stream was waited for, an
output that is read too early, an address that is not aligned or nobody's.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import itertools
import threading
import time
import weakref

import numpy as np
import torch

from workbench.backends.tensorrt_cuda import ALIGNMENT, lost_or_refused, no_memory

_streams = {}
_numbers = itertools.count(7000)
_living = {}
"""Address -> bytes of what `Cpu.empty` and `Cpu.host` gave and somebody still holds."""


class Stream:
    """Work in order, done when waited for. ``recorded``: a list while a graph is captured. ``lost``: the error of every later wait."""

    def __init__(self):
        self.handle = next(_numbers)
        self.queue, self.recorded, self.lost = [], None, None
        _streams[self.handle] = weakref.ref(self)

    def put(self, function):
        (self.queue if self.recorded is None else self.recorded).append(function)

    def wait(self):
        if self.recorded is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        queue, self.queue = self.queue, []
        for function in queue:
            function()
        if self.lost is not None:
            raise RuntimeError(self.lost)


def enqueue(handle, function):
    """For a stand-in's ``execute_async_v3``: True, as the runtime says when work was taken."""
    _streams[handle]().put(function)
    return True


def recording(handle):
    """Is a graph being captured on the stream?"""
    return _streams[handle]().recorded is not None


def drain(handle):
    """For a stand-in whose callbacks need the values now, as the runtime's do."""
    _streams[handle]().wait()


def _of(address, size_bytes):
    """Is all of it in one piece of living memory?"""
    starts = sorted(_living)
    place = bisect.bisect_right(starts, address) - 1
    return place >= 0 and address + size_bytes <= starts[place] + _living[starts[place]]


def memory(address, size_bytes):
    """A numpy uint8 view of living memory; raises for any other."""
    if not _of(address, size_bytes):
        raise AssertionError(f"{size_bytes} bytes at {address:#x} are nobody's: freed, too small, or never taken")
    return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address)) if size_bytes else np.empty(0, np.uint8)


class Cpu:
    """As ``Cuda``, member by member. ``full``: the next that takes memory gets none."""

    kind = "cpu"

    def __init__(self):
        self.torch, self.device = torch, torch.device("cpu")
        self.stream, self.lock, self.full = Stream(), threading.RLock(), False

    @property
    def handle(self):
        return self.stream.handle

    @contextlib.contextmanager
    def working(self):
        yield

    def empty(self, size_bytes):
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        size = max(size_bytes, ALIGNMENT)
        owner = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        skip = -owner.ctypes.data % ALIGNMENT
        part = owner[skip : skip + size]
        address = part.ctypes.data
        _living[address] = size
        weakref.finalize(owner, _living.pop, address, None)
        return torch.from_numpy(part)

    host = empty

    def tensor(self, array):
        """What a user who works on the GPU has: a tensor there, at an address of the allocator."""
        array = np.ascontiguousarray(array)
        made = self.empty(array.nbytes)[: array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        made.copy_(torch.from_numpy(array.copy()))
        return made

    def holds(self, tensor):
        """Tensors in memory of `empty` are "on the device"; all others are the host's."""
        return _of(tensor.data_ptr(), tensor.element_size())

    def copy(self, target, source):
        """By address where it can be, so that the copy holds on to neither."""
        to, start, size = target.data_ptr(), source.data_ptr(), source.numel() * source.element_size()
        plain = target.is_contiguous() and source.is_contiguous() and target.dtype == source.dtype
        if not plain or not (_of(to, size) and _of(start, size)):
            self.stream.put(lambda: target.copy_(source))
            return

        def move():
            memory(to, size)[:] = memory(start, size)

        self.stream.put(move)

    def zero(self, target):
        to, size = target.data_ptr(), target.numel()
        self.stream.put(lambda: memory(to, size).fill(0))

    def view(self, address, size_bytes):
        return torch.from_numpy(memory(address, size_bytes))

    def from_dlpack(self, given):
        return torch.from_dlpack(given)

    def event(self):
        event = {}
        self.stream.put(lambda: event.setdefault("at", time.perf_counter()))
        return event

    def seconds(self, first, second):
        return second["at"] - first["at"]

    def synchronize(self, handle=None):
        (self.stream if handle is None else _streams[handle]()).wait()

    def capture(self, enqueue):
        self.stream.wait()
        self.stream.recorded = []
        try:
            enqueue()
        finally:
            recorded, self.stream.recorded = self.stream.recorded, None

        def replay():
            for function in recorded:
                self.stream.put(function)

        return replay

    def told(self, error, stage, log=""):
        if isinstance(error, torch.OutOfMemoryError):
            return no_memory(str(error).splitlines()[0])
        if not isinstance(error, RuntimeError) or "CUDA error" not in str(error):
            return None
        return lost_or_refused(self.synchronize, str(error).splitlines()[0], stage, log)
