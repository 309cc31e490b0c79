"""The part of torch's CUDA that an engine needs: one stream, memory, events and graphs, behind one object.

    device = Cuda(0)
    with device.working():
        buffer = device.empty(1024)
        context.execute_async_v3(device.handle)
    device.synchronize()

An engine is given addresses and a stream, and torch has both, so no other CUDA binding is needed. All programs of a GPU share its
stream: what one wrote, the next one reads in order, without a word between them. Tests put torch's CPU in the place of this object.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from workbench.errors import ItemError, RuntimeMissing

ALIGNMENT = 256
"""Bytes, of every address an engine is given (NVIDIA/TensorRT include/NvInferRuntime.h at a892d22, ``setTensorAddress``)."""

_shared: dict[int, tuple[Any, threading.RLock]] = {}
_sharing = threading.Lock()


class DeviceLost(RuntimeMissing):
    """The GPU stopped answering, or its context is broken for the rest of this process. ``stage``: load, run, refit. ``log``: what
    TensorRT said last."""

    def __init__(self, what: str, *, why: str, stage: str, log: str = ""):
        super().__init__(what, why=why, fix="start again in a new process; nvidia-smi tells whether the GPU is there")
        self.stage, self.log = stage, log

    def record(self) -> dict[str, Any]:
        """As `RuntimeMissing.record`; a bundle takes paths and names out of ``stderr`` before it keeps it."""
        return {**super().record(), "stage": self.stage, "how": "lost", "stderr": self.log}


class Cuda:
    """One GPU, by torch's number. Raises RuntimeMissing where torch has none of that number."""

    kind = "cuda"

    def __init__(self, index: int = 0):
        from workbench.backends.torch import import_torch, resolve_device

        self.torch = import_torch()
        self.device = resolve_device({"device": f"cuda:{index}"})
        with _sharing:
            if index not in _shared:
                _shared[index] = self.torch.cuda.Stream(self.device), threading.RLock()
        self.stream, self.lock = _shared[index]

    @property
    def handle(self) -> int:
        """The stream as the runtime takes it."""
        return self.stream.cuda_stream

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Memory that is taken inside belongs to the stream, and what the caller's own stream was doing comes first."""
        self.stream.wait_stream(self.torch.cuda.current_stream(self.device))
        with self.torch.cuda.stream(self.stream):
            yield

    def empty(self, size_bytes: int) -> Any:
        """Uninitialised memory on the GPU: a flat uint8 tensor, never of no size, for an address must not be null."""
        return self.torch.empty(max(size_bytes, ALIGNMENT), dtype=self.torch.uint8, device=self.device)

    def host(self, size_bytes: int) -> Any:
        """The same in page-locked memory of the host, between which and the GPU copies need not wait."""
        return self.torch.empty(max(size_bytes, ALIGNMENT), dtype=self.torch.uint8, pin_memory=True)

    def holds(self, tensor: Any) -> bool:
        return tensor.device == self.device

    def copy(self, target: Any, source: Any) -> None:
        """In the stream's order; done when the stream is."""
        target.copy_(source, non_blocking=True)

    def zero(self, target: Any) -> None:
        target.zero_()

    def view(self, address: int, size_bytes: int) -> Any:
        """Memory that is not torch's, as a flat uint8 tensor over it."""
        return self.torch.as_tensor(_Memory(address, size_bytes), device=self.device)

    def from_dlpack(self, given: Any) -> Any:
        """Its producer makes this stream wait for what it still does."""
        return self.torch.from_dlpack(given)

    def event(self) -> Any:
        """Recorded in the stream, now."""
        event = self.torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event

    def seconds(self, first: Any, second: Any) -> float:
        """Between two events that are done."""
        return first.elapsed_time(second) / 1000.0

    def synchronize(self, handle: int | None = None) -> None:
        """Wait for the stream; or for another one, by what the runtime calls it."""
        if handle is None or handle == self.handle:
            self.stream.synchronize()
        else:
            self.torch.cuda.ExternalStream(handle, device=self.device).synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what ``enqueue`` puts into the stream; returns what puts all of it there again. Raises RuntimeError where something in
        it cannot be recorded."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            enqueue()
        return graph.replay

    def told(self, error: BaseException, stage: str, log: str = "") -> Exception | None:
        """``error`` as one of the workbench's: no memory is an item's, a broken CUDA context is everybody's. None for others."""
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, self.torch.OutOfMemoryError) or "CUDA error: out of memory" in text:
            return no_memory(text)
        if not isinstance(error, RuntimeError) or "CUDA error" not in text:
            return None
        return lost_or_refused(self.synchronize, text, stage, log)


def lost_or_refused(synchronize: Callable[[], None], text: str, stage: str, log: str) -> Exception:
    """Errors that break a CUDA context come again at every call (CUDA Runtime API, "cudaGetLastError"), so it is asked once more."""
    try:
        synchronize()
    except RuntimeError:
        return DeviceLost("the GPU stopped working", why=text, stage=stage, log=log)
    return ItemError("CUDA refused what was asked of it", reason="model", why="; ".join(each for each in (text, log) if each))


def no_memory(why: str) -> ItemError:
    """The error of one item that the GPU has no memory for."""
    return ItemError(
        "the GPU's memory is not enough", reason="memory", why=why, fix="end other programs on the GPU, or give smaller inputs"
    )


class _Memory:
    """The protocol by which torch takes foreign memory of a GPU: numba.readthedocs.io, "CUDA Array Interface (Version 3)"."""

    def __init__(self, address: int, size_bytes: int):
        self.__cuda_array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address if size_bytes else 0, False),
            "version": 3,
        }
