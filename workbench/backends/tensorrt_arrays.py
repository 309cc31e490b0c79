"""Arrays on the way to an engine and back: checked, converted to the engine's types, counted when copied.

    kept = program({"tokens": tokens, ...})["new_keys"]     # after program.keep_on_device(["new_keys"])
    kept.shape, kept.pointer, kept.numpy()
    program({"tokens": tokens, "keys": kept, ...})          # taken by its address

What is counted is what a decoding loop must not do: a cache that travels through the host at every token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.backends.arrays import checked, described
from workbench.backends.base import TensorSpec
from workbench.backends.tensorrt_cuda import ALIGNMENT
from workbench.errors import ItemError, ModelError

TYPES = {
    "FLOAT": ("float32", "float32"),
    "HALF": ("float16", "float16"),
    "BF16": ("bfloat16", "float32"),
    "INT8": ("int8", "int8"),
    "UINT8": ("uint8", "uint8"),
    "INT32": ("int32", "int32"),
    "INT64": ("int64", "int64"),
    "BOOL": ("bool", "bool"),
}
"""``tensorrt.DataType`` by name -> (torch's type, numpy's). numpy has no bfloat16: float32 holds each of its values."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of an engine. ``kind`` is torch's type on the device; ``on_host``: its address is one of the host's, as those
    of shapes are."""

    spec: TensorSpec
    kind: Any
    is_input: bool
    on_host: bool

    @property
    def name(self) -> str:
        return self.spec.name

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.kind.itemsize


def type_of(trt_type: Any, name: str) -> tuple[Any, str]:
    """(torch's type, numpy's name) of a ``tensorrt.DataType``. Raises ModelError for those that no array can have."""
    import torch

    kind = getattr(trt_type, "name", str(trt_type))
    if kind not in TYPES:
        raise ModelError(f"the engine's {name!r} is {kind}, which no array holds", why=f"known: {', '.join(TYPES)}")
    return getattr(torch, TYPES[kind][0]), TYPES[kind][1]


@dataclass
class Copies:
    """How often each array was copied, by name: ``to_device`` from the host, ``to_host`` from the device, ``on_device`` within it."""

    to_device: Counter = field(default_factory=Counter)
    to_host: Counter = field(default_factory=Counter)
    on_device: Counter = field(default_factory=Counter)

    def describe(self) -> dict[str, dict[str, int]]:
        return {"to_device": dict(self.to_device), "to_host": dict(self.to_host), "on_device": dict(self.on_device)}


class DeviceArray:
    """What an engine put out, still on its device; nothing writes to it again. ``numpy()`` and ``np.asarray`` copy it to the host."""

    __slots__ = ("copies", "device", "name", "tensor")

    def __init__(self, tensor: Any, device: Any, name: str, copies: Copies):
        self.tensor, self.device, self.name, self.copies = tensor, device, name, copies

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    @property
    def dtype(self) -> np.dtype:
        """That of ``numpy()``."""
        text = str(self.tensor.dtype).removeprefix("torch.")
        return np.dtype("float32" if text == "bfloat16" else text)

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        return self.tensor.data_ptr()

    def numpy(self) -> np.ndarray:
        """A copy on the host, which is counted."""
        self.copies.to_host[self.name] += 1
        return as_numpy(self.tensor.cpu())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a device becomes one of numpy's only by a copy")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __dlpack__(self, **asked: Any) -> Any:
        return self.tensor.__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()

    def padded(self, shape: tuple[int, ...]) -> DeviceArray:
        """An array of ``shape``, no axis shorter than here: this one at its beginning, zeros after it. Copied within the device."""
        if len(shape) != self.ndim or any(wanted < here for wanted, here in zip(shape, self.shape, strict=True)):
            raise ItemError(f"{list(self.shape)} does not fit into {list(shape)}", reason="model")
        with self.device.lock, self.device.working():
            made = zeros(self.device, shape, self.tensor.dtype)
            self.device.copy(made[tuple(slice(size) for size in self.shape)], self.tensor)
            self.device.synchronize()
        self.copies.on_device[self.name] += 1
        return DeviceArray(made, self.device, self.name, self.copies)

    def __repr__(self) -> str:
        return f"DeviceArray({self.name!r}, {self.dtype} {list(self.shape)} on {self.tensor.device})"


def zeros(device: Any, shape: tuple[int, ...], kind: Any) -> Any:
    """A tensor of zeros on the device, to be used inside ``device.working()``."""
    whole = math.prod(shape) * kind.itemsize
    made = device.empty(whole)
    device.zero(made)
    return shaped(made, kind, shape)


def shaped(flat: Any, kind: Any, shape: tuple[int, ...]) -> Any:
    """The beginning of a flat uint8 tensor, as one of ``kind`` and ``shape``."""
    return flat[: math.prod(shape) * kind.itemsize].view(kind).view(shape)


def as_numpy(tensor: Any) -> np.ndarray:
    """A tensor of the host as a numpy array of its own memory, bfloat16 as float32."""
    import torch

    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


class Buffer:
    """Memory for one input or output that stays where it is until something larger comes. ``held``: the array that was copied into it
    last, if that stays as it is."""

    def __init__(self, allocate: Any):
        self.allocate, self.flat, self.held = allocate, None, None

    def take(self, tensor: Tensor, shape: tuple[int, ...]) -> Any:
        """As a tensor of ``shape``; what it held is gone where it had to grow."""
        wanted = tensor.size_bytes(shape)
        if self.flat is None or self.flat.numel() < wanted:
            self.flat, self.held = self.allocate(wanted), None
        return shaped(self.flat, tensor.kind, shape)


def check_names(inputs: Mapping[str, Tensor], arrays: Mapping[str, Any]) -> None:
    """Raises ItemError for an input that is missing or unknown."""
    lost, extra = [name for name in inputs if name not in arrays], [name for name in arrays if name not in inputs]
    if lost or extra:
        what = f"there is no input {extra[0]!r}" if extra else f"input {lost[0]!r} is missing"
        raise ItemError(
            what, reason="model", why=f"inputs: {'; '.join(described(item.spec) for item in inputs.values()) or 'none'}"
        )


def on_device(tensor: Tensor, given: Any, device: Any) -> Any | None:
    """``given`` as a torch tensor where it lies on the engine's device already, else None; also for whole numbers of another size, which
    are looked at first. Raises ItemError for another shape. Values are not: NaN are taken from here as they are."""
    import torch

    if isinstance(given, DeviceArray):
        given = given.tensor
    elif not isinstance(given, torch.Tensor):
        if isinstance(given, np.ndarray) or not hasattr(given, "__dlpack__"):
            return None
        given = device.from_dlpack(given)
    spec = tensor.spec
    float_both = given.is_floating_point() and tensor.kind.is_floating_point
    if not device.holds(given) or tensor.on_host or not (float_both or given.dtype == tensor.kind):
        return None
    same_rank = given.ndim == len(spec.shape)
    if not same_rank or any(want not in (None, size) for want, size in zip(spec.shape, given.shape, strict=True)):
        raise ItemError(
            f"input {spec.name!r} has the shape {list(given.shape)}", reason="model", why=f"declared: {described(spec)}"
        )
    return given.detach()


def fits(tensor: Tensor, given: Any) -> bool:
    """Can the engine read ``given`` where it is: its type, without gaps, at an address it takes?"""
    return given.dtype == tensor.kind and given.is_contiguous() and given.numel() > 0 and given.data_ptr() % ALIGNMENT == 0


def on_host(tensor: Tensor, given: Any) -> np.ndarray:
    """``given`` as a numpy array of the declared type, by the rules of all programs (``workbench.backends.arrays``). Raises ItemError."""
    import torch

    if isinstance(given, DeviceArray):
        given = given.numpy()
    elif hasattr(given, "__dlpack__") and not hasattr(given, "__array__"):
        given = torch.from_dlpack(given)
    return checked(tensor.spec, given)
