"""One execution context of an engine, and the memory that its tensors have.

    place = Place(engine, api, device, tensors, profile=0, kept=lambda: {"new_keys"}, copies=copies)
    place.feed(arrays)          # shapes, addresses, copies towards the device
    place.enqueue()
    place.fetch()               # copies towards the host
    device.synchronize()
    place.results()             # {name: numpy array or DeviceArray}

Inputs and outputs that cross the host have buffers that stay; what is kept on the device gets memory of its own at every call, so the next
call cannot overwrite what somebody still holds. With ``fixed`` every address stays the same, as the graphs of ``tensorrt_graphs`` need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from workbench.backends import tensorrt_arrays as given_arrays
from workbench.backends.arrays import stays
from workbench.backends.tensorrt_api import Api, ICudaEngine, worst
from workbench.backends.tensorrt_arrays import Buffer, Copies, DeviceArray, Tensor
from workbench.backends.tensorrt_cuda import no_memory
from workbench.errors import ItemError

MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "failed to allocate",
    "could not allocate",
    "requested size was",
)
"""Of TensorRT's messages about memory, in lower case."""


class Place:
    """See above. Use it within ``device.working()`` and the program's lock."""

    def __init__(
        self,
        engine: ICudaEngine,
        api: Api,
        device: Any,
        tensors: Mapping[str, Tensor],
        *,
        profile: int,
        kept: Callable[[], frozenset[str]],
        copies: Copies,
        fixed: bool = False,
    ):
        self.engine, self.api, self.device, self.profile = engine, api, device, profile
        self.inputs = {name: tensor for name, tensor in tensors.items() if tensor.is_input}
        self.outputs = {name: tensor for name, tensor in tensors.items() if not tensor.is_input}
        self.kept, self.copies, self.fixed = kept, copies, fixed
        with api.listening() as messages:
            self.context = engine.create_execution_context()
            if self.context is None:
                raise refused("TensorRT made no context for the engine", messages, "load")
            if profile:
                self._switch(messages)
        self.buffers = {name: Buffer(device.host if tensor.on_host else device.empty) for name, tensor in tensors.items()}
        self.staging = {name: Buffer(device.host) for name in tensors}
        self.allocators: dict[str, Any] = {}
        self._nothing = device.empty(0)  # where empty tensors are: torch says 0, and an address must not be null
        self._shapes: Any = None
        self._addresses: dict[str, int] = {}
        self._found: dict[str, Any] = {}
        self._fetched: dict[str, Any] = {}

    def _switch(self, messages: list[dict[str, str]]) -> None:
        """To the profile of this place. The bindings raise where the library says no."""
        try:
            switched = self.context.set_optimization_profile_async(self.profile, self.device.handle)
        except RuntimeError as error:
            raise refused(f"TensorRT does not take profile {self.profile}", messages, "load", str(error)) from error
        if not switched:
            raise refused(f"TensorRT does not take profile {self.profile}", messages, "load")
        self.device.synchronize()

    @property
    def depends_on_data(self) -> list[str]:
        """Outputs whose shape is known only when they are computed; asked after ``feed``."""
        return list(self.allocators)

    @property
    def addresses(self) -> dict[str, int]:
        """What the context was given last."""
        return dict(self._addresses)

    def feed(self, arrays: Mapping[str, Any]) -> None:
        """Give every input its shape and address, and queue the copies that this needs. ``arrays``: numpy's, or tensors of the
        device; whoever gives them holds them until the stream was waited for. Raises ItemError."""
        fed = {name: self._placed(tensor, arrays[name]) for name, tensor in self.inputs.items()}
        shapes = {name: tuple(value.shape) for name, value in fed.items()}
        values = {name: fed[name].numpy().tobytes() for name, tensor in self.inputs.items() if tensor.on_host}
        changed = self._shapes != (shapes, values)
        with self.api.listening() as messages:
            if changed:
                self._shapes, self._addresses = None, {}
                for name, shape in shapes.items():
                    if not self.context.set_input_shape(name, shape):
                        raise refused(f"TensorRT does not take {name!r} of the shape {list(shape)}", messages, "run")
            for name, value in fed.items():
                self._address(name, value, messages)
            if changed:
                self._infer(messages)
                self._shapes = (shapes, values)
            self._place_outputs(messages)

    def _placed(self, tensor: Tensor, given: Any) -> Any:
        """The tensor whose address the engine gets."""
        name, buffer = tensor.name, self.buffers[tensor.name]
        if isinstance(given, np.ndarray):
            target = buffer.take(tensor, given.shape)
            if buffer.held is given:
                return target
            buffer.held = None
            staged = target if tensor.on_host else self.staging[name].take(tensor, given.shape)
            _write(staged, given)
            if not tensor.on_host:
                self.device.copy(target, staged)
                self.copies.to_device[name] += 1
            buffer.held = given if stays(given) else None
            return target
        if not self.fixed and given_arrays.fits(tensor, given):
            return given
        target = buffer.take(tensor, tuple(given.shape))
        buffer.held = None
        self.device.copy(target, given)
        self.copies.on_device[name] += 1
        return target

    def _infer(self, messages: list[dict[str, str]]) -> None:
        """What the shapes of the inputs make of the outputs; an allocator for those that only the data tells."""
        try:
            lacking = self.context.infer_shapes()
        except RuntimeError as error:
            raise refused("the shapes of these inputs do not go together", messages, "run", str(error)) from error
        if lacking:
            raise refused(f"TensorRT still lacks the shape or the values of {', '.join(lacking)}", messages, "run")
        self.output_shapes = {name: tuple(int(size) for size in self.context.get_tensor_shape(name)) for name in self.outputs}
        for name, shape in self.output_shapes.items():
            if any(size < 0 for size in shape) and name not in self.allocators:
                allocator = output_allocator(self.api, self.device)
                if not self.context.set_output_allocator(name, allocator):
                    raise refused(f"TensorRT takes no allocator for {name!r}", messages, "run")
                self.allocators[name] = allocator

    def _place_outputs(self, messages: list[dict[str, str]]) -> None:
        self._found = {}
        for name, tensor in self.outputs.items():
            if name in self.allocators:
                self.allocators[name].fresh()
                continue
            shape = self.output_shapes[name]
            if name in self.kept() and not self.fixed and not tensor.on_host:
                value = given_arrays.shaped(self.device.empty(tensor.size_bytes(shape)), tensor.kind, shape)
            else:
                value = self.buffers[name].take(tensor, shape)
            self._found[name] = value
            self._address(name, value, messages)

    def _address(self, name: str, value: Any, messages: list[dict[str, str]]) -> None:
        address = value.data_ptr() if value.numel() else self._nothing.data_ptr()
        if self._addresses.get(name) == address:
            return
        if not self.context.set_tensor_address(name, address):
            raise refused(f"TensorRT does not take the address of {name!r}", messages, "run")
        self._addresses[name] = address

    def enqueue(self) -> None:
        """Raises ItemError where TensorRT says no."""
        with self.api.listening() as messages:
            taken = self.context.execute_async_v3(self.device.handle)
            for allocator in self.allocators.values():
                if allocator.error is not None:
                    raise allocator.error
            if not taken:
                raise refused("TensorRT could not run the engine", messages, "run")

    def fetch(self) -> None:
        """Queue the copies of the outputs that go to the host."""
        self._fetched = {}
        for name, allocator in self.allocators.items():
            tensor = self.outputs[name]
            self._found[name] = given_arrays.shaped(allocator.memory, tensor.kind, allocator.shape)
        for name, value in self._found.items():
            tensor = self.outputs[name]
            if tensor.on_host:
                self._fetched[name] = value
            elif name not in self.kept():
                self._fetched[name] = self.staging[name].take(tensor, tuple(value.shape))
                self.device.copy(self._fetched[name], value)
                self.copies.to_host[name] += 1
            elif self.fixed:
                made = given_arrays.shaped(
                    self.device.empty(tensor.size_bytes(tuple(value.shape))), tensor.kind, tuple(value.shape)
                )
                self.device.copy(made, value)
                self.copies.on_device[name] += 1
                self._found[name] = made

    def results(self) -> dict[str, Any]:
        """The outputs of the call whose stream was waited for: arrays of numpy with memory of their own, and those kept on the device."""
        found = {}
        for name in self.outputs:
            if name in self._fetched:
                found[name] = given_arrays.as_numpy(self._fetched[name])
            else:
                found[name] = DeviceArray(self._found[name], self.device, name, self.copies)
        self.let_go()
        return found

    def let_go(self) -> None:
        """Of what only the call needed; the stream was waited for."""
        self._found, self._fetched = {}, {}


def _write(staged: Any, array: np.ndarray) -> None:
    import torch

    if staged.dtype == torch.bfloat16:
        staged.copy_(torch.from_numpy(np.array(array)))
    else:
        np.copyto(staged.numpy(), array)


def refused(what: str, messages: list[dict[str, str]], stage: str, why: str | None = None) -> ItemError:
    """TensorRT's no as the item's error, with what it said; ``memory`` where that was about memory."""
    said = "; ".join(text for text in (worst(messages), why) if text)
    if any(word in said.lower() for word in MEMORY_WORDS):
        return no_memory(said)
    return ItemError(what, reason="model", why=said or f"it gave no reason ({stage})")


def output_allocator(api: Api, device: Any) -> Any:
    """An ``IOutputAllocator`` that keeps what it gave: ``memory`` (flat uint8), ``shape``, and ``error`` of one that had to say no.

    ``fresh()`` comes before each call. Exceptions may not leave it: the bindings print them and go on.
    """
    base = api.module.IOutputAllocator

    class Growing(base):  # type: ignore[misc, valid-type]
        def __init__(self):
            base.__init__(self)
            self.memory, self.shape, self.error = None, (), None

        def fresh(self) -> None:
            """What it gave before is the output's, which may be kept."""
            self.memory, self.shape, self.error = None, (), None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            try:
                if self.memory is None or self.memory.numel() < size:
                    self.memory = device.empty(size)
                return self.memory.data_ptr()
            except Exception as error:  # noqa: BLE001  it crosses a library that would swallow it
                self.error = device.told(error, "run") or error
                return 0

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(size) for size in shape)

    return Growing()
