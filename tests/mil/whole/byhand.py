"""Packages written straight through protobuf, as no converter of ours or Apple's would: the parts and the whole.

program = pb.Program(version=1)
block = function(program, {"x": kind("fp32", 2, 3)})
op(block, "add", {"y": kind("fp32", 2, 3)}, x="x", y=np.float32(1))     # a str names a value, an array is bound in place
block.outputs.append("y")
save(program, folder)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.libmilstoragepython import _BlobStorageWriter
from coremltools.proto import MIL_pb2 as pb
from coremltools.proto import Model_pb2

_NAMES = {"fp16": "FLOAT16", "fp32": "FLOAT32", "fp64": "FLOAT64", "bool": "BOOL", "string": "STRING"}
_OF = {"float16": "fp16", "float32": "fp32", "float64": "fp64"}
_BYTES = ("fp16", "int8", "uint8", "int16", "uint16")
"""Types whose values stand in the program as bytes."""


def kind(dtype: str, *shape: int | None, rank: bool = True) -> Any:
    """A ValueType. None: a dimension that is not known; ``rank=False``: not even how many there are."""
    made = pb.ValueType()
    made.tensorType.dataType = pb.DataType.Value(_NAMES.get(dtype, dtype.upper()))
    made.tensorType.rank = len(shape) if rank else -1
    for size in shape:
        dimension = made.tensorType.dimensions.add()
        if size is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size
    return made


def value(given: Any) -> Any:
    """An immediate Value of a numpy array, number, bool or str."""
    made = pb.Value()
    if isinstance(given, str):
        made.type.CopyFrom(kind("string"))
        made.immediateValue.tensor.strings.values.append(given)
        return made
    array = np.asarray(given)
    dtype = _OF.get(array.dtype.name, array.dtype.name)
    made.type.CopyFrom(kind(dtype, *array.shape))
    tensor = made.immediateValue.tensor
    if dtype in _BYTES:
        tensor.bytes.values = array.tobytes()
    else:
        field = {
            "fp32": tensor.floats,
            "fp64": tensor.doubles,
            "int32": tensor.ints,
            "int64": tensor.longInts,
            "bool": tensor.bools,
        }[dtype]
        field.values.extend(array.ravel().tolist())
    return made


def function(program: Any, inputs: Mapping[str, Any], *, name: str = "main", opset: str = "CoreML7") -> Any:
    """The block of a new function."""
    made = program.functions[name]
    made.opset = opset
    for label, each in inputs.items():
        made.inputs.add(name=label, type=each)
    return made.block_specializations[opset]


def op(block: Any, type: str, outputs: Mapping[str, Any], **inputs: Any) -> Any:
    """Append an operation. An input is a name, an array or Value to bind in place, or a list of these."""
    made = block.operations.add(type=type)
    for name, each in outputs.items():
        made.outputs.add(name=name, type=each)
    for parameter, given in inputs.items():
        for item in given if isinstance(given, list) else [given]:
            binding = made.inputs[parameter].arguments.add()
            if isinstance(item, str):
                binding.name = item
            else:
                binding.value.CopyFrom(item if isinstance(item, pb.Value) else value(item))
    return made


def const(block: Any, name: str, given: Any) -> None:
    """A const op with its value in the program; ``given`` may be a Value, as one in a file."""
    held = given if isinstance(given, pb.Value) else value(given)
    made = block.operations.add(type="const")
    made.outputs.add(name=name, type=held.type)
    made.attributes["val"].CopyFrom(held)


def filed(folder: Path, name: str, arrays: Iterable[np.ndarray]) -> list[Any]:
    """Values of fp32 and fp16 arrays in the weight file ``name`` of the package that `save` makes in ``folder``."""
    path = folder / "program.mlpackage" / "Data" / "any" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = _BlobStorageWriter(str(path))
    found = []
    for array in arrays:
        half = array.dtype == np.float16
        flat = np.ascontiguousarray(array).ravel()
        made = pb.Value(type=kind("fp16" if half else "fp32", *array.shape))
        made.blobFileValue.fileName = f"@model_path/{name}"
        made.blobFileValue.offset = writer.write_fp16_data(flat.view(np.uint16)) if half else writer.write_float_data(flat)
        found.append(made)
    del writer  # the header is written when it goes
    return found


def save(program: Any, folder: Path, outputs: Iterable[str] = ()) -> Path:
    """The package, its description naming ``outputs`` in that order and nothing else."""
    model = Model_pb2.Model(specificationVersion=8)
    model.mlProgram.CopyFrom(program)
    for name in outputs:
        model.description.output.add(name=name).type.multiArrayType.SetInParent()
    path = folder / "program.mlpackage"
    (path / "Data" / "any").mkdir(parents=True, exist_ok=True)
    (path / "Data" / "any" / "m.mlmodel").write_bytes(model.SerializeToString())
    entries = {"root": {"path": "any/m.mlmodel", "name": "m.mlmodel", "author": "nobody", "description": ""}}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": "root"}
    (path / "Manifest.json").write_text(json.dumps(manifest), "utf-8")
    return path
