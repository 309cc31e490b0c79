"""Inputs and outputs as a caller sees them: names, shapes that are allowed, images, class labels, states.

They follow the model description (``FeatureTypes.proto``) where it says more than the function's own types: ranges and enumerated
shapes, images with their colour layout, optional inputs with a default, the element type of an output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.mil.errors import InputError, PackageError, UnsupportedError
from workbench.mil.types import DictionaryType, StateType, TensorType

_ARRAY_TYPES = {"FLOAT32": "fp32", "DOUBLE": "fp64", "INT32": "int32", "INT8": "int8", "FLOAT16": "fp16"}


@dataclass(frozen=True)
class Image:
    """``colour``: RGB, BGR, GRAYSCALE or GRAYSCALE_FLOAT16; the program receives [1, channels, height, width]."""

    colour: str

    @property
    def channels(self) -> int:
        return 3 if self.colour in ("RGB", "BGR") else 1


@dataclass(frozen=True)
class Feature:
    """One input or output. ``shape``: None in a place that may vary; for an image [1, channels, height, width].

    ``kind``: array, image, label (a class label), probabilities (label -> probability), state, scalar.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...] | None
    ranges: tuple[tuple[int, int | None], ...] | None = None
    enumerated: tuple[tuple[int, ...], ...] | None = None
    image: Image | None = None
    default: float | None = None
    optional: bool = False
    usual: tuple[int, ...] | None = None
    """The shape the model description gives where several are allowed: that of a default value."""

    def __str__(self) -> str:
        if self.kind in ("label", "probabilities"):
            return f"{self.name}: {self.kind}"
        sizes = "" if self.shape is None else ", ".join(self._size(axis) for axis in range(len(self.shape)))
        what = f"{self.image.colour} image " if self.image else ("state " if self.kind == "state" else "")
        shapes = [", ".join(map(str, shape)) for shape in self.enumerated] if self.enumerated else [sizes]
        return f"{self.name}: {what}{self.dtype}{' or '.join(f'[{shape}]' for shape in shapes)}"

    @property
    def title(self) -> str:
        """For messages: input 'x'."""
        return f"{'state' if self.kind == 'state' else 'input'} {self.name!r}"

    def _size(self, axis: int) -> str:
        size = self.shape[axis] if self.shape is not None else None
        if self.ranges:
            low, high = self.ranges[axis]
            return str(low) if low == high else f"{low}..{'' if high is None else high}"
        return "?" if size is None else str(size)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises InputError when the input may not have this shape."""
        if self.enumerated:
            allowed = shape in self.enumerated
        elif self.ranges:
            allowed = len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        else:
            allowed = self.shape is None or (
                len(shape) == len(self.shape) and all(want in (None, size) for size, want in zip(shape, self.shape, strict=True))
            )
        if not allowed:
            raise InputError(f"{self.title} has the shape {list(shape)}", why=f"the program declares {self}")

    def default_shape(self) -> tuple[int, ...]:
        """The shape of the default value of an optional input."""
        if self.usual is not None:
            return self.usual
        if self.enumerated:
            return self.enumerated[0]
        lows = [low for low, _ in self.ranges] if self.ranges else [1] * len(self.shape or ())
        return tuple(low if size is None else size for size, low in zip(self.shape or (), lows, strict=True))


def describe_function(package: Any, function: Any) -> tuple[list[Feature], list[Feature], list[Feature]]:
    """(inputs, outputs, states) of a graph.Function. Raises UnsupportedError for kinds that ML Programs cannot have."""
    description = package.spec.description
    named = {item.name: item for item in description.functions}
    sole = len(package.spec.mlProgram.functions) == 1 or function.name in ("main", description.defaultFunctionName)
    held = named.get(function.name, description if sole else type(description)())
    inputs_of = {item.name: item.type for item in held.input}
    states_of = {item.name: item.type for item in held.state}
    outputs_of = {item.name: item.type for item in held.output}
    inputs, states = [], []
    for name, kind in function.inputs:
        if isinstance(kind, StateType):
            wrapped = kind.wrapped
            if not isinstance(wrapped, TensorType) or wrapped.dtype == "string" or wrapped.shape is None or None in wrapped.shape:
                raise UnsupportedError(f"state {name!r} is of type {wrapped}", why="states are tensors of known shape")
            states.append(Feature(name, "state", wrapped.dtype, wrapped.shape))
        elif isinstance(kind, TensorType) and kind.dtype != "string":
            inputs.append(_feature(name, kind, inputs_of.get(name)))
        else:
            raise UnsupportedError(f"input {name!r} is of type {kind}", why="inputs are tensors, images and states")
    for what, described, had in (("input", inputs_of, inputs), ("state", states_of, states)):
        for name in described:
            if name not in {item.name for item in had}:
                raise PackageError(f"the model describes {what} {name!r} that its program does not have", why="damaged program")
    types = {name: kind for op in function.block.ops for name, kind in op.outputs}
    types.update({name: constant.type for name, constant in function.block.constants.items()}, **dict(function.inputs))
    label, probabilities = held.predictedFeatureName, held.predictedProbabilitiesName
    outputs = []
    for name in function.block.outputs:
        kind = types[name]
        if isinstance(kind, TensorType) and name != label and kind.dtype != "string":
            outputs.append(_feature(name, kind, outputs_of.get(name)))
        else:
            is_label = isinstance(kind, TensorType)
            if not is_label and not isinstance(kind, DictionaryType):
                raise UnsupportedError(
                    f"output {name!r} is of type {kind}", why="outputs are tensors, images, labels and dictionaries"
                )
            outputs.append(Feature(name, "label" if is_label else "probabilities", kind.dtype if is_label else "fp64", None))
    for name in outputs_of:
        if name not in types or name not in function.block.outputs:
            raise PackageError(f"the model describes an output {name!r} that its program does not give", why="damaged program")
    order = {name: number for number, name in enumerate(outputs_of)}
    outputs.sort(key=lambda item: order.get(item.name, len(order)))
    if probabilities and probabilities not in {item.name for item in outputs}:
        raise PackageError(
            f"the model describes probabilities {probabilities!r} that its program does not give", why="damaged program"
        )
    return inputs, outputs, states


def _feature(name: str, kind: TensorType, described: Any) -> Feature:
    which = described.WhichOneof("Type") if described is not None else None
    if which == "multiArrayType":
        array = described.multiArrayType
        declared = _enum_name(name, array.ArrayDataType, array.dataType) if array.dataType else ""
        default = array.WhichOneof("defaultOptionalValue")
        flexible = array.WhichOneof("ShapeFlexibility")
        ranges = enumerated = None
        if flexible == "shapeRange":
            ranges = tuple(
                (int(s.lowerBound), None if s.upperBound < 0 else int(s.upperBound)) for s in array.shapeRange.sizeRanges
            )
        elif flexible == "enumeratedShapes":
            enumerated = tuple(tuple(int(n) for n in shape.shape) for shape in array.enumeratedShapes.shapes)
        _same_rank(name, kind, ranges, enumerated)
        return Feature(
            name,
            "array",
            _ARRAY_TYPES.get(declared, kind.dtype),
            kind.shape,
            ranges,
            enumerated,
            default=float(getattr(array, default)) if default else None,
            optional=bool(described.isOptional),
            usual=_usual(kind, tuple(int(size) for size in array.shape)) if flexible else None,
        )
    if which == "imageType":
        image = described.imageType
        colour = Image(_enum_name(name, image.ColorSpace, image.colorSpace))
        if colour.colour == "INVALID_COLOR_SPACE":
            raise PackageError(f"{name!r} is described as an image without a colour layout", why="damaged program")
        flexible = image.WhichOneof("SizeFlexibility")
        ranges = enumerated = None
        ahead = ((1, 1), (colour.channels, colour.channels))
        if flexible == "imageSizeRange":
            sides = (image.imageSizeRange.heightRange, image.imageSizeRange.widthRange)
            ranges = ahead + tuple((int(s.lowerBound), None if s.upperBound < 0 else int(s.upperBound)) for s in sides)
        elif flexible == "enumeratedSizes":
            enumerated = tuple((1, colour.channels, int(s.height), int(s.width)) for s in image.enumeratedSizes.sizes)
        _same_rank(name, kind, ranges, enumerated)
        shape = (1, colour.channels, int(image.height) or None, int(image.width) or None) if not flexible else kind.shape
        return Feature(name, "image", kind.dtype, shape, ranges, enumerated, colour, optional=bool(described.isOptional))
    if which in ("int64Type", "doubleType"):
        return Feature(name, "scalar", kind.dtype, kind.shape, optional=bool(described.isOptional))
    return Feature(name, "array", kind.dtype, kind.shape)


def _usual(kind: TensorType, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """``shape`` when a value of ``kind`` may have it."""
    if kind.shape is None or len(shape) != len(kind.shape):
        return None
    fits = all(size >= 0 and want in (None, size) for size, want in zip(shape, kind.shape, strict=True))
    return shape if fits else None


def _enum_name(name: str, enum: Any, number: int) -> str:
    if number not in enum.values():
        raise UnsupportedError(f"{name!r} is of {enum.DESCRIPTOR.name} {number}, which is not known")
    return str(enum.Name(number))


def _same_rank(name: str, kind: TensorType, ranges: Any, enumerated: Any) -> None:
    for sizes in (*(enumerated or ()), *([ranges] if ranges is not None else [])):
        if kind.shape is not None and len(sizes) != len(kind.shape):
            raise PackageError(f"{name!r} is declared as {kind}, and its flexible shape has {len(sizes)} dimensions", why="damaged")
