"""How much memory a graph's weights and inner values take, estimated: no runtime is asked, no workspace is counted.

    memory_of(facts, {"T": 128}).peak_bytes     # weights + the most that is alive at once, in the order of the graph

A value is alive from the node that makes it to the last that reads it; inputs and outputs are alive throughout, since they are a caller's
buffers. Reshapes share what they are given. An engine fuses nodes, so it keeps fewer values than that; its tactics want workspace beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from workbench.convert.onnx.facts import Facts, Shape, bytes_of, inferred, type_name

SHARING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
UNNAMED = "sizes without a name"
NOT_COVERED = "no workspace of an engine's tactics, no fusion, no copy of the weights in another layout"


@dataclass(frozen=True)
class Memory:
    """Bytes. ``sizes``: what the sizes that vary were taken to be. ``unsized``: values whose shape is not known, and not counted."""

    weights: dict[str, int]
    weight_bytes: int
    activation_bytes: int
    at: str | None
    sizes: dict[str, int]
    unsized: int

    @property
    def peak_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "peak_bytes": self.peak_bytes, "estimate": True, "not_covered": NOT_COVERED}


def memory_of(facts: Facts, sizes: Mapping[str, int] | None = None) -> Memory:
    """``sizes``: of dimensions that vary, by name; where none is given the most that the file allows, else 1."""
    names = {size or UNNAMED for value in facts.inputs for size in facts.shapes.get(value, ()) if not isinstance(size, int)}
    used = {name: (sizes or {}).get(name) or (facts.ranges[name][2] if name in facts.ranges else 1) for name in sorted(names)}
    known = sized(facts, used).shapes if used else facts.shapes
    weights: dict[str, int] = {}
    for tensor in facts.proto.graph.initializer:
        kind = type_name(tensor.data_type)
        weights[kind] = weights.get(kind, 0) + bytes_of(kind, prod(tensor.dims))
    activation, at, unsized = _most_alive(facts, known)
    return Memory(dict(sorted(weights.items())), sum(weights.values()), activation, at, used, unsized)


def sized(facts: Facts, sizes: Mapping[str, int]) -> Facts:
    """The same graph with numbers in the place of the sizes that vary in its inputs."""
    proto = type(facts.proto)()
    proto.CopyFrom(facts.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = sizes.get(size.dim_param or UNNAMED, 1)
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return inferred(proto, facts.path, facts.ranges)


def _most_alive(facts: Facts, shapes: Mapping[str, Shape]) -> tuple[int, str | None, int]:
    """(bytes, the node where it is that much, values without a size)."""
    nodes = [node for node in facts.nodes if not node.inner]
    held = set(facts.constants)
    root: dict[str, str] = {}
    for node in nodes:
        if node.op in SHARING and not node.domain and node.inputs[0] not in held:
            root[node.outputs[0]] = root.get(node.inputs[0], node.inputs[0])
    last = {root.get(value, value): place for place, node in enumerate(nodes) for value in node.inputs if value}
    unsized: set[str] = set()

    def size(value: str) -> int:
        shape, kind = shapes.get(value), facts.types.get(value)
        if shape is None or kind is None or not all(isinstance(each, int) for each in shape):
            unsized.add(value)
            return 0
        return bytes_of(kind, prod(shape))

    always = {*facts.inputs, *(root.get(value, value) for value in facts.outputs)} - held
    throughout = sum(size(value) for value in always)
    alive: dict[str, int] = {}
    most, at = throughout, None
    for place, node in enumerate(nodes):
        for value in node.outputs:
            if value and value not in held and value not in always and value not in root:
                alive[value] = size(value)
        now = throughout + sum(alive.values())
        if now > most:
            most, at = now, node.name
        for value in [value for value in alive if last.get(value, place) <= place]:
            del alive[value]
    return most, at, len(unsized)
