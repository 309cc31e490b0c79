"""Saved packages changed afterwards, as damage or malice would."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coremltools.proto import Model_pb2


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weight_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def edit(package: Path, change: Callable[[Any], Any]) -> Path:
    """The package, its ``Model`` changed by ``change(spec)``."""
    spec = Model_pb2.Model.FromString(model_file(package).read_bytes())
    change(spec)
    model_file(package).write_bytes(spec.SerializeToString())
    return package


def body(spec: Any, name: str = "main") -> Any:
    """The block of a function."""
    function = spec.mlProgram.functions[name]
    return function.block_specializations[function.opset]


def op_of(spec: Any, kind: str) -> Any:
    """The first op of a type in ``main``."""
    return next(op for op in body(spec).operations if op.type == kind)


def constant_of(op: Any, parameter: str, spec: Any) -> Any:
    """The value that is bound to a parameter, or that the const op it names holds."""
    argument = op.inputs[parameter].arguments[0]
    if argument.WhichOneof("binding") == "value":
        return argument.value
    found = next(item for item in body(spec).operations if item.outputs and item.outputs[0].name == argument.name)
    return found.attributes["val"]


@contextmanager
def small_memory(spare: int = 256 << 20) -> Iterator[None]:
    """Refuses this process more than ``spare`` further bytes: an allocation that should not be tried fails."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
