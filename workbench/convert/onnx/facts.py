"""What can be said of an ONNX file without running it: nodes, types, shapes, constants, sizes that vary.

    facts = facts_of(Path("prefill.onnx"))
    facts.nodes[0].op, facts.type_of("logits"), facts.shape_of("tokens")     # "Gather", "FP32", (1, "T")

Shapes and types are those of ONNX's own inference. Weights of a file beside the graph are not read: their shapes and types are in the
graph; only small ones, which may hold a shape or an axis, are. Functions of the model are written out first, as TensorRT does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

OWN_DOMAINS = frozenset({"", "ai.onnx"})
SMALL_VALUES = 4096
"""Values of a constant that are looked at: axes, shapes, a K, zero points."""
NAMES = {"DOUBLE": "FP64", "FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "FLOAT4E2M1": "FP4"}
"""Where ONNX-TensorRT's words for a type are not ONNX's own; all of FLOAT8 are FP8."""
BITS = {"FP64": 64, "FP32": 32, "FP16": 16, "BF16": 16, "FP8": 8, "FP4": 4, "INT4": 4, "UINT4": 4, "BOOL": 8}
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Node:
    """One node; ``name`` is its own, or its first output's. Missing optional inputs and outputs are ``""``."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    version: int
    """Of the operator set of its domain."""
    inner: bool
    """In the body of an If, Loop or Scan."""


@dataclass
class Facts:
    """``types`` and ``shapes`` by value; ``constants``: small contents, None where there are too many to look at.
    ``external``: files beside it that hold weights, and their bytes."""

    path: Path
    opsets: dict[str, int]
    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, np.ndarray | None] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    external: dict[str, int] = field(default_factory=dict)
    proto: Any = field(default=None, repr=False)

    @property
    def opset(self) -> int:
        return self.opsets.get("", 0)

    def type_of(self, value: str) -> str | None:
        return self.types.get(value)

    def shape_of(self, value: str) -> Shape | None:
        return self.shapes.get(value)

    @property
    def dynamic(self) -> list[tuple[str, str]]:
        """(input, size) of every size of an input that varies."""
        found = []
        for name in self.inputs:
            for place, size in enumerate(self.shapes.get(name, ())):
                if not isinstance(size, int):
                    found.append((name, size or f"dimension {place}"))
        return found


def facts_of(path: str | Path) -> Facts:
    """Raises ModelError for what is no ONNX file, whose weights are missing or elsewhere, or whose shapes cannot be."""
    import onnx
    import onnx.inliner

    from workbench.backends.onnx_file import read

    file = read(path, custom=True)
    proto = onnx.ModelProto()
    proto.CopyFrom(file.model)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and prod(tensor.dims) <= SMALL_VALUES:
            tensor.CopyFrom(onnx.numpy_helper.from_array(file.array(tensor), tensor.name))
    functions = tuple(function.name for function in proto.functions)
    if functions:
        proto = onnx.inliner.inline_local_functions(proto)
    found = inferred(proto, Path(path), dict(file.ranges), functions)
    found.external = {name: place.stat().st_size for name, place in sorted(file.external.items())}
    return found


def inferred(proto: Any, path: Path, ranges: dict[str, tuple[int, int, int]], functions: tuple[str, ...] = ()) -> Facts:
    """The facts of a loaded model. Raises ModelError where ONNX's inference refuses it."""
    import onnx

    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the shapes of {path.name} cannot be inferred", why=str(error).splitlines()[0][:300], fix="export it again"
        ) from error
    graph = proto.graph
    opsets = {opset.domain if opset.domain != "ai.onnx" else "": opset.version for opset in proto.opset_import}
    held = {tensor.name for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in held)
    found = Facts(
        path, opsets, [], inputs, tuple(value.name for value in graph.output), ranges=ranges, functions=functions, proto=proto
    )
    _values(graph, found)
    found.nodes = list(_nodes(graph, opsets, found, inner=False))
    return found


def type_name(kind: int) -> str:
    """ONNX-TensorRT's word for a data type of ONNX."""
    import onnx

    name = onnx.TensorProto.DataType.Name(kind)
    return "FP8" if name.startswith("FLOAT8") else NAMES.get(name, name)


def bytes_of(kind: str, count: int) -> int:
    """Of ``count`` values of a type; types of 4 bits are packed."""
    bits = BITS.get(kind) or int("".join(letter for letter in kind if letter.isdigit()) or 0)
    return (count * bits + 7) // 8


def _values(graph: Any, found: Facts) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            continue
        if kind.elem_type:
            found.types[value.name] = type_name(kind.elem_type)
        if kind.HasField("shape"):
            found.shapes[value.name] = tuple(_size(size) for size in kind.shape.dim)
    for tensor in graph.initializer:
        found.types[tensor.name] = type_name(tensor.data_type)
        found.shapes[tensor.name] = tuple(tensor.dims)
        found.constants[tensor.name] = _contents(tensor)


def _size(size: Any) -> int | str | None:
    if size.HasField("dim_value"):
        return size.dim_value
    return size.dim_param or None


def _contents(tensor: Any) -> np.ndarray | None:
    """Of a tensor that is small and in the graph."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL or prod(tensor.dims) > SMALL_VALUES:
        return None
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    return onnx.numpy_helper.to_array(tensor)


def _nodes(graph: Any, opsets: Mapping[str, int], found: Facts, *, inner: bool) -> Iterator[Node]:
    import onnx

    for proto in graph.node:
        domain = "" if proto.domain in OWN_DOMAINS else proto.domain
        attributes = {}
        for attribute in proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _values(attribute.g, found)
                yield from _nodes(attribute.g, opsets, found, inner=True)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for body in attribute.graphs:
                    _values(body, found)
                    yield from _nodes(body, opsets, found, inner=True)
            else:
                attributes[attribute.name] = onnx.helper.get_attribute_value(attribute)
        name = proto.name or next((output for output in proto.output if output), proto.op_type)
        node = Node(proto.op_type, domain, name, tuple(proto.input), tuple(proto.output), attributes, opsets.get(domain, 0), inner)
        if node.op == "Constant" and not domain and "value" in attributes:
            found.constants[proto.output[0]] = _contents(attributes["value"])
        elif node.op == "Constant" and not domain:
            found.constants[proto.output[0]] = _plain(attributes)
        elif _folds(node) and all(value in found.constants for value in node.inputs if value):
            found.constants |= dict.fromkeys((value for value in node.outputs if value), None)
        yield node


def _folds(node: Node) -> bool:
    """Is what a node makes of constants a constant too?"""
    return not node.domain and bool(node.inputs) and node.op not in ("If", "Loop", "Scan") and not node.op.startswith("Random")


def _plain(attributes: Mapping[str, Any]) -> np.ndarray | None:
    """Of a Constant that holds numbers and no tensor."""
    import numpy

    for name, kind in (("value_int", "int64"), ("value_ints", "int64"), ("value_float", "float32"), ("value_floats", "float32")):
        if name in attributes:
            return numpy.asarray(attributes[name], dtype=kind)
    return None
