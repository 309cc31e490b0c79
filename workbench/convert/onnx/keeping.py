"""Which nodes of an ONNX graph stay fp32 when the others become fp16 or bf16, and why: every rule that needs no types.

    rules = Rules(graph, keep=("text.block.0", "MatMul"), origins=origins, modules=stage.layers)
    rules.of(node)       # [(None, "a softmax")], [("text.block.0", "asked for")] or []

By default: norms, softmax, what feeds sines and cosines (a rotary position of 2,000 times a frequency is off by a radian in fp16), and
what feeds whole numbers (a size of 2,049 is not to be had in fp16).
A norm is known by its op, by the torch module it was exported from, and, where nothing says so, by a root of a mean.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

NORMS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    }
)
SOFTMAX = frozenset({"Softmax", "LogSoftmax", "ReduceLogSumExp"})
WAVES = frozenset({"Sin", "Cos"})
MOVERS = frozenset(
    {
        "Compress",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "ReverseSequence",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that move numbers and compute none."""
ARITHMETIC = frozenset(
    (
        *("Abs", "Add", "Cast", "Ceil", "Clip", "CumSum", "Div", "Exp"),
        *("Floor", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "Range"),
        *("Reciprocal", "Round", "Sqrt", "Sub", "Sum", "Where"),
    )
)
"""What stands between a position and its sine, beside products with a vector of frequencies; and between sizes and whole numbers."""
SCALES = {"Resize": 2, "Upsample": 1}
"""Op -> its input of factors by which sizes are multiplied."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
MEANS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare"})
SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
"""Where torch's exporter writes the modules around a node: their paths and their classes, the outermost first, the node itself last."""


class Rules:
    """``keep``: patterns of op types, values and layers, with ``*``; ``modules``: a module's path -> the project's name of the layer."""

    def __init__(
        self,
        graph: Any,
        keep: Sequence[str] = (),
        origins: Mapping[str, Mapping[str, Any]] | None = None,
        modules: Mapping[str, str] | None = None,
    ):
        self._keep, self._origins, self._modules = tuple(keep), origins or {}, modules or {}
        self._angles = set(_angles(graph))
        self._wholes = set(_before(graph, _to_whole(graph)))
        self._norms = set(_norms(graph))

    def of(self, node: Any) -> list[tuple[str | None, str]]:
        """(pattern or None, reason) of each rule that keeps the node; patterns first."""
        names = {node.op_type, *(value.name for value in node.outputs), *self.layers(node)}
        found: list[tuple[str | None, str]] = [
            (pattern, "asked for") for pattern in self._keep if any(fnmatchcase(name, pattern) for name in names if name)
        ]
        kind = _classes(node)[-1:]
        if node.op_type in NORMS or node in self._norms:
            found.append((None, "a norm"))
        elif kind and "Norm" in kind[0] and node.op_type not in HEAVY:
            found.append((None, f"part of a norm ({kind[0].rpartition('.')[2]})"))
        elif node.op_type in SOFTMAX:
            found.append((None, "a softmax"))
        elif node in self._angles:
            found.append((None, "it feeds a sine or cosine" if node.op_type not in WAVES else "a sine or cosine of an angle"))
        elif node in self._wholes:
            found.append((None, "it feeds whole numbers: sizes, positions or indices"))
        return found

    def layers(self, node: Any) -> list[str]:
        """The project's layers around a node, the innermost first."""
        paths = _listed(node, SCOPES)[:-1]
        if not paths:
            row = next((self._origins[each.name] for each in node.outputs if each.name in self._origins), {})
            parts = str(row.get("module") or "").split(".")
            paths = [".".join(parts[:count]) for count in range(len(parts) + 1)]
        return list(dict.fromkeys(self._modules[path] for path in reversed(paths) if path in self._modules))

    def origin(self, node: Any) -> dict[str, Any]:
        """``{"layer", "module", "line"}`` of a node for people; None for what is not known."""
        row: Mapping[str, Any] = next((self._origins[each.name] for each in node.outputs if each.name in self._origins), {})
        layers = self.layers(node)
        return {"layer": layers[0] if layers else None, "module": row.get("module"), "line": row.get("line")}


def nodes_before(node: Any) -> Iterator[Any]:
    """The nodes that make a node's inputs."""
    for value in node.inputs:
        made = value.producer() if value is not None else None
        if made is not None:
            yield made


def _angles(graph: Any) -> Iterator[Any]:
    """Sines, cosines and what makes their angles."""
    waves = [node for node in graph if node.op_type in WAVES]
    yield from waves
    yield from _before(graph, [value for node in waves for value in node.inputs])


def _to_whole(graph: Any) -> Iterator[Any]:
    """Floats that sizes, positions or indices are made from."""
    for node in graph:
        made = node.outputs[0].dtype if node.outputs else None
        if node.op_type == "Range" or (node.op_type == "Cast" and made is not None and made.is_integer()):
            yield from node.inputs
        elif node.op_type in SCALES and len(node.inputs) > SCALES[node.op_type]:
            yield node.inputs[SCALES[node.op_type]]


def _before(graph: Any, values: Iterable[Any]) -> Iterator[Any]:
    """The nodes that compute ``values``, back to the last product with a matrix of weights."""
    seen: set[Any] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if node is None or node in seen or node.graph is not graph:
            continue
        if node.op_type in MOVERS | ARITHMETIC or (node.op_type in HEAVY and not _has_matrix(node)):
            seen.add(node)
            yield node
            waiting.extend(node.inputs)


def _has_matrix(node: Any) -> bool:
    """Whether a stored tensor of the node's has two axes or more of more than one number: weights, not frequencies."""
    shapes = [each.const_value.shape for each in node.inputs if each is not None and each.const_value is not None]
    return any(sum(size != 1 for size in shape) > 1 for shape in shapes)


def _norms(graph: Any) -> Iterator[Any]:
    """The nodes of norms that were written out: x / sqrt(mean(x * x) + epsilon), and x / ||x||."""
    for node in graph:
        if node.op_type == "ReduceL2":
            yield node
            yield from _divided(node)
        elif node.op_type == "Sqrt" or (node.op_type == "Pow" and _is_root(node)):
            path = _down_to_mean(node)
            if path:
                yield from path
                yield from _squares(path[-1])
                yield from _divided(node)


def _is_root(node: Any) -> bool:
    stored = node.inputs[1].const_value if node.inputs[1] is not None else None
    return stored is not None and stored.size == 1 and abs(float(stored.numpy().reshape(-1)[0])) == 0.5


def _down_to_mean(node: Any) -> list[Any]:
    path = [node]
    while path[-1].op_type not in MEANS:
        before = [each for each in nodes_before(path[-1]) if each.op_type != "Constant"]
        if len(before) != 1 or len(path) > 4 or before[0].op_type not in MEANS | {"Add", "Clip", "Div", "Max", "Mul"}:
            return []
        path.append(before[0])
    return path


def _squares(mean: Any) -> Iterator[Any]:
    """The square under a mean, and the x - mean(x) under it."""
    for square in list(nodes_before(mean))[:1]:
        if square.op_type == "Pow" or (square.op_type == "Mul" and square.inputs[0] is square.inputs[1]):
            yield square
            for centred in list(nodes_before(square))[:1]:
                if centred.op_type == "Sub":
                    yield centred
                    yield from (each for each in nodes_before(centred) if each.op_type in MEANS)


def _divided(root: Any) -> Iterator[Any]:
    """What divides by a root: directly, or by a product with its reciprocal."""
    for reader in _readers(root):
        if reader.op_type in ("Clip", "Expand", "Max", "Add"):
            found = [each for each in _readers(reader) if each.op_type == "Div"]
            yield from [reader, *found] if found else []
        elif reader.op_type == "Div":
            yield reader
        elif reader.op_type == "Reciprocal":
            yield reader
            yield from (each for each in _readers(reader) if each.op_type == "Mul")
        elif root.op_type == "Pow" and reader.op_type == "Mul":
            yield reader


def _readers(node: Any) -> list[Any]:
    return [use.node for value in node.outputs for use in value.uses()]


def _classes(node: Any) -> list[str]:
    return _listed(node, CLASSES)[:-1]


def _listed(node: Any, name: str) -> list[str]:
    text = node.metadata_props.get(name)
    if not text:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(each) for each in found] if isinstance(found, list | tuple) else []
