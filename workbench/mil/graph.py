"""The program as plain data: functions, blocks, ops, constants. Nothing is computed and no weight is read here.

functions = read_functions(package)          # {"main": Function(...)}
functions["main"].block.ops[0]               # Op("conv", "x_3", {"x": ["image"], "weight": ["w"]}, ...)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from workbench.mil.blob import WeightFile, unpack
from workbench.mil.errors import PackageError, UnsupportedError
from workbench.mil.package import Package
from workbench.mil.registry import OPSET_OF
from workbench.mil.types import BITS, NUMPY, DictionaryType, ListType, TensorType, parse_type


@dataclass(eq=False)
class Constant:
    """A value in the program or in a weight file; `value` reads it."""

    type: Any
    _immediate: Any = None
    _file: WeightFile | None = None
    _offset: int = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes it takes in a weight file; 0 for a value in the program itself."""
        return math.prod(self.type.shape) * BITS[self.type.dtype] // 8 if self._file is not None else 0

    @property
    def place(self) -> Any:
        """Equal for constants that are one stored value: a weight file names its values by offset."""
        return id(self) if self._file is None else (self._file.path, self._offset)

    def value(self) -> Any:
        """numpy array (bf16 and fp8: raw bits), str, list or dict. Arrays from a weight file are views of it."""
        if self._file is None:
            return self._immediate
        count = math.prod(self.type.shape)
        return self._file.read(self._offset, self.type.dtype, count).reshape(self.type.shape)


@dataclass(frozen=True, eq=False)
class Op:
    """``inputs``: parameter -> its arguments, each the name of a value or a Constant. ``name``: unique enough for messages."""

    type: str
    name: str
    inputs: dict[str, tuple[str | Constant, ...]]
    outputs: tuple[tuple[str, Any], ...]
    blocks: tuple[Block, ...] = ()

    def references(self) -> Iterator[str]:
        """Names of the values it reads, those inside its blocks apart."""
        for arguments in self.inputs.values():
            yield from (argument for argument in arguments if isinstance(argument, str))


@dataclass(frozen=True, eq=False)
class Block:
    inputs: tuple[tuple[str, Any], ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Constant] = field(default_factory=dict)

    def free_names(self) -> tuple[str, ...]:
        """Values that the block reads and neither defines before nor receives, in order of first use."""
        return self._free_names

    @cached_property
    def _free_names(self) -> tuple[str, ...]:
        known = {name for name, _ in self.inputs} | set(self.constants)
        found: dict[str, None] = {}
        for op in self.ops:
            inner = [name for block in op.blocks for name in block.free_names()]
            found.update(dict.fromkeys(name for name in (*op.references(), *inner) if name not in known))
            known.update(name for name, _ in op.outputs)
        found.update(dict.fromkeys(name for name in self.outputs if name not in known))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Function:
    name: str
    inputs: tuple[tuple[str, Any], ...]
    opset: str
    block: Block


def walk(block: Block) -> Iterator[Op]:
    """Every op, those of nested blocks after the op that holds them."""
    for op in block.ops:
        yield op
        for inner in op.blocks:
            yield from walk(inner)


def all_constants(block: Block) -> Iterator[tuple[str, Constant]]:
    """Every named constant of a block and its nested blocks."""
    yield from block.constants.items()
    for op in block.ops:
        for inner in op.blocks:
            yield from all_constants(inner)


def read_functions(package: Package) -> dict[str, Function]:
    """The functions of a package's program, by name. Raises PackageError or UnsupportedError naming the op or value."""
    return _Reader(package).functions()


class _Reader:
    def __init__(self, package: Package):
        self.package = package
        self._files: dict[str, WeightFile] = {}

    def functions(self) -> dict[str, Function]:
        program = self.package.spec.mlProgram
        if not program.functions:
            raise PackageError(f"{self.package.path} holds a program without functions")
        return {name: self.function(name, spec) for name, spec in program.functions.items()}

    def function(self, name: str, spec: Any) -> Function:
        if spec.opset not in OPSET_OF:
            raise UnsupportedError(
                f"function {name!r} is of opset {spec.opset!r}",
                why=f"known: {', '.join(OPSET_OF)}",
                fix="a newer release may know it",
            )
        if spec.opset not in spec.block_specializations:
            raise PackageError(f"function {name!r} has no block for its opset {spec.opset!r}", why="the package is damaged")
        inputs = tuple((item.name, parse_type(item.type)) for item in spec.inputs)
        block = self.block(spec.block_specializations[spec.opset], inputs)
        missing = block.free_names()
        if missing:
            raise PackageError(
                f"function {name!r} uses values that nothing defines: {', '.join(missing[:5])}", why="damaged program"
            )
        return Function(name, inputs, OPSET_OF[spec.opset], block)

    def block(self, spec: Any, inputs: tuple[tuple[str, Any], ...]) -> Block:
        constants: dict[str, Constant] = {}
        ops = []
        names = [name for name, _ in inputs] + [output.name for item in spec.operations for output in item.outputs]
        if len(set(names)) != len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise PackageError(f"value {twice!r} is defined twice in one block", why="the program is damaged")
        for item in spec.operations:
            if item.type == "const" and len(item.outputs) == 1 and "val" in item.attributes:
                constants[item.outputs[0].name] = self.constant(item.attributes["val"], item.outputs[0].name)
            else:
                ops.append(self.op(item))
        made = Block(inputs, tuple(ops), tuple(spec.outputs), constants)
        free = set(made.free_names())
        for name in (name for op in ops for name, _ in op.outputs if name in free):
            raise PackageError(f"value {name!r} is read before it is defined", why="the program is damaged")
        return made

    def op(self, spec: Any) -> Op:
        outputs = tuple((item.name, parse_type(item.type)) for item in spec.outputs)
        label = _label(spec, outputs)
        inputs: dict[str, tuple[str | Constant, ...]] = {}
        for parameter, argument in spec.inputs.items():
            inputs[parameter] = tuple(self.binding(item, f"{label}.{parameter}") for item in argument.arguments)
        for parameter, value in spec.attributes.items():  # the constexpr ops of iOS16 keep their inputs here
            if parameter != "name" and "." not in parameter:  # com.example.line: a tool's own remark
                inputs.setdefault(parameter, (self.constant(value, f"{label}.{parameter}"),))
        blocks = tuple(self.block(item, tuple((one.name, parse_type(one.type)) for one in item.inputs)) for item in spec.blocks)
        return Op(spec.type, label, inputs, outputs, blocks)

    def binding(self, spec: Any, label: str) -> str | Constant:
        if spec.WhichOneof("binding") == "name":
            return spec.name
        if spec.WhichOneof("binding") == "value":
            return self.constant(spec.value, label)
        raise PackageError(f"{label} is bound to nothing", why="the program is damaged")

    def constant(self, spec: Any, label: str) -> Constant:
        kind = parse_type(spec.type)
        which = spec.WhichOneof("value")
        if which == "blobFileValue":
            if not isinstance(kind, TensorType) or kind.bytes is None:
                raise PackageError(
                    f"constant {label!r} of type {kind} lies in a weight file", why="only tensors of known shape can"
                )
            file = self.weight_file(spec.blobFileValue.fileName)
            # Located now: a damaged or absurd record is found at load, and nothing is read.
            file.locate(spec.blobFileValue.offset, kind.dtype, math.prod(kind.shape))
            return Constant(kind, None, file, spec.blobFileValue.offset)
        if which != "immediateValue":
            raise PackageError(f"constant {label!r} has no value", why="the program is damaged")
        return Constant(kind, self.immediate(kind, spec.immediateValue, label))

    def weight_file(self, name: str) -> WeightFile:
        if name not in self._files:
            self._files[name] = WeightFile(self.package.weight_file(name))
        return self._files[name]

    def immediate(self, kind: Any, spec: Any, label: str) -> Any:
        which = spec.WhichOneof("value")
        if isinstance(kind, TensorType) and which == "tensor":
            try:
                return _tensor(kind, spec.tensor, label)
            except (ValueError, OverflowError, KeyError) as error:  # a value or a shape beyond its type, a type without immediates
                raise PackageError(f"constant {label!r} cannot be {kind}", why=f"{type(error).__name__}: {error}") from error
        if isinstance(kind, ListType) and which == "list":
            return [self.constant(item, label).value() for item in spec.list.values]
        if isinstance(kind, DictionaryType) and which == "dictionary":
            pairs = [
                (self.constant(item.key, label).value(), self.constant(item.value, label).value())
                for item in spec.dictionary.values
            ]
            if not all(isinstance(_key(key), str | int) for key, _ in pairs):
                raise PackageError(f"constant {label!r}: keys are strings or integers", why="the program is damaged")
            return {_key(key): value for key, value in pairs}
        if which == "tuple":
            return tuple(self.constant(item, label).value() for item in spec.tuple.values)
        raise PackageError(f"constant {label!r}: a value of kind {which!r} cannot be {kind}", why="the program is damaged")


def _label(spec: Any, outputs: tuple[tuple[str, Any], ...]) -> str:
    if "name" in spec.attributes:
        strings = spec.attributes["name"].immediateValue.tensor.strings.values
        if strings:
            return strings[0]
    return outputs[0][0] if outputs else spec.type


def _key(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _tensor(kind: TensorType, spec: Any, label: str) -> Any:
    """An immediate tensor: str for a scalar string, else an array of the declared shape."""
    which = spec.WhichOneof("value")
    if which is None and kind.shape is not None and math.prod(kind.shape) == 0:  # type: ignore[arg-type]
        return np.empty(kind.shape, dtype=object if kind.dtype == "string" else NUMPY[kind.dtype])  # type: ignore[arg-type]
    if which is None or kind.shape is None or None in kind.shape:
        raise PackageError(f"constant {label!r} of type {kind} has no value", why="the program is damaged")
    shape: tuple[int, ...] = kind.shape  # type: ignore[assignment]
    values = getattr(spec, which).values
    if kind.dtype == "string":
        if which != "strings" or len(values) != math.prod(shape):
            raise PackageError(f"constant {label!r} of type {kind} holds {len(values)} {which}", why="the program is damaged")
        return values[0] if shape == () else np.array(list(values), dtype=object).reshape(shape)
    count = math.prod(shape)
    if which == "bytes":
        if len(values) * 8 < count * BITS[kind.dtype]:
            raise PackageError(f"constant {label!r} of type {kind} holds {len(values)} bytes", why="the program is damaged")
        if BITS[kind.dtype] < 8:
            return unpack(np.frombuffer(values, np.uint8), kind.dtype, count).reshape(shape)
        held = {"bf16": np.uint16, "fp8e4m3fn": np.uint8, "fp8e5m2": np.uint8}.get(kind.dtype) or NUMPY[kind.dtype]
        return np.frombuffer(values, held, count=count).reshape(shape).copy()
    if which == "strings" or len(values) != count:
        raise PackageError(f"constant {label!r} of type {kind} holds {len(values)} {which}", why="the program is damaged")
    return np.array(values, dtype=NUMPY[kind.dtype]).reshape(shape)
