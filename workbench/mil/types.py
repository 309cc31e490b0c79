"""Types of MIL values and what carries them in torch and numpy.

The names are those of MIL's own text form (``fp16``, ``int32``, ``uint4``). torch has no usable arithmetic for uint16 and
uint32, so these are held in the next wider signed type; sub-byte integers are held one to a byte.

    parse_type(value_type)   # TensorType("fp32", (1, 3, None, 8)): None is a dimension known at run time only
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.mil.errors import UnsupportedError

# Names: MIL.proto, enum DataType (coremltools 9.0, mlmodel/format/MIL.proto).
_PROTO_NAMES = {
    "BOOL": "bool",
    "STRING": "string",
    "FLOAT8E4M3FN": "fp8e4m3fn",
    "FLOAT8E5M2": "fp8e5m2",
    "FLOAT16": "fp16",
    "FLOAT32": "fp32",
    "FLOAT64": "fp64",
    "BFLOAT16": "bf16",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}

BITS = {
    "bool": 8,
    "fp8e4m3fn": 8,
    "fp8e5m2": 8,
    "fp16": 16,
    "bf16": 16,
    "fp32": 32,
    "fp64": 64,
    **{f"{sign}int{bits}": bits for sign in ("", "u") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}

NUMPY = {
    "bool": np.bool_,
    "fp16": np.float16,
    "fp32": np.float32,
    "fp64": np.float64,
    **{f"int{bits}": np.int8 for bits in (1, 2, 3, 4, 6, 8)},
    **{f"uint{bits}": np.uint8 for bits in (1, 2, 3, 4, 6, 8)},
    **{f"{sign}int{bits}": getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (16, 32, 64)},
}
"""One element a cell; sub-byte integers are held one to a byte."""

FLOATS = frozenset({"fp8e4m3fn", "fp8e5m2", "fp16", "bf16", "fp32", "fp64"})
INTEGERS = frozenset(name for name in BITS if "int" in name)


@dataclass(frozen=True)
class TensorType:
    """``shape``: () for a scalar; a dimension is None when only known at run time; ``shape`` None: the rank is unknown."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        inside = "..." if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype}[{inside}]"

    @property
    def bytes(self) -> int | None:
        """Bytes of a value; None where a dimension is not known."""
        if self.dtype == "string" or self.shape is None or None in self.shape:
            return None
        return math.prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class ListType:
    """``length`` None: known at run time only."""

    element: Any
    length: int | None


@dataclass(frozen=True)
class StateType:
    wrapped: TensorType


@dataclass(frozen=True)
class DictionaryType:
    key: TensorType
    value: TensorType


@dataclass(frozen=True)
class TupleType:
    elements: tuple[Any, ...]


def parse_type(spec: Any) -> TensorType | ListType | StateType | DictionaryType | TupleType:
    """A ``MIL_pb2.ValueType`` as one of the types above. Raises UnsupportedError for a kind or a data type that is not known."""
    kind = spec.WhichOneof("type")
    if kind == "tensorType":
        tensor = spec.tensorType
        name = _enum_name(tensor)
        if name not in _PROTO_NAMES:
            raise UnsupportedError(f"data type {name} is not known", fix="a newer release may know it")
        if tensor.rank < 0:
            return TensorType(_PROTO_NAMES[name], None)
        shape = tuple(_dimension(item) for item in tensor.dimensions)
        if tensor.rank != len(shape):
            raise UnsupportedError(f"a tensor type says rank {tensor.rank} and lists {len(shape)} dimensions")
        return TensorType(_PROTO_NAMES[name], shape)
    if kind == "listType":
        return ListType(parse_type(spec.listType.type), _dimension(spec.listType.length))
    if kind == "stateType":
        return StateType(parse_type(spec.stateType.wrappedType))
    if kind == "dictionaryType":
        return DictionaryType(parse_type(spec.dictionaryType.keyType), parse_type(spec.dictionaryType.valueType))
    if kind == "tupleType":
        return TupleType(tuple(parse_type(item) for item in spec.tupleType.types))
    raise UnsupportedError(f"a value of type {kind!r} is not known")


def _enum_name(tensor: Any) -> str:
    values = tensor.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return values[tensor.dataType].name if tensor.dataType in values else f"number {tensor.dataType}"


def _dimension(spec: Any) -> int | None:
    return int(spec.constant.size) if spec.WhichOneof("dimension") == "constant" else None


def torch_dtype(name: str, half: Any = None) -> Any:
    """The torch dtype that carries values of MIL type ``name``; ``half`` is what carries fp16 in the reading at hand (float64 carries
    fp32 too)."""
    import torch

    if half is not None and (name == "fp16" or (name in ("fp32", "bf16") and half is torch.float64)):
        return half
    held = {
        "bool": torch.bool,
        "fp8e4m3fn": torch.float8_e4m3fn,
        "fp8e5m2": torch.float8_e5m2,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "fp64": torch.float64,
        "int16": torch.int16,
        "uint16": torch.int32,
        "int32": torch.int32,
        "uint32": torch.int64,
        "int64": torch.int64,
        "uint64": torch.int64,
    }
    if name in held:
        return held[name]
    if name in BITS:
        return torch.uint8 if name.startswith("u") else torch.int8
    raise UnsupportedError(f"values of type {name} cannot be computed with")
