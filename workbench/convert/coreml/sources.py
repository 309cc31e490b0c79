"""Which torch parameter every constant of a converted program is, and the value it must have.

    sources["p_inn_weight"]      # Source("inn.weight", "as it is", ...)
    sources["transpose_0"]       # Source("blocks.0.w", "transposed", ...): x @ w became a linear, whose weight is the transpose
    sources["const_28"]          # Source(None, "folded", None): a convolution with a batch norm multiplied in

Pairing is by name where the converter kept it, else by the torch node that the constant was made for: what that node's constant
arguments are (computed by torch) says what the constant must be. Where neither says it, the constant is called folded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.origins import kind_of, numbered, operations

if TYPE_CHECKING:
    import numpy as np

SUFFIX = re.compile(r"(_to_fp16|_to_fp32|_quantized|_palettized|_sparsified)+$")
"""What coremltools appends to a constant's name where it changes its type or compresses it (9.0, optimize/coreml and
converters/mil/mil/passes/defs/quantization.py)."""
PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "linear"})
SAME = 1e-2
"""Relative L2 up to which a constant is taken for an argument that only its size speaks for: fp16 rounds by 5e-4 at most."""
BLOCK = 2**22
"""Values that are compared at once."""
SMALLEST = 10
"""coremltools keeps smaller constants in the program itself (converters/mil/backend/mil/load.py, should_use_weight_file)."""


@dataclass(frozen=True, eq=False)
class Source:
    """``parameter``: its path in the stage's module, None where none can be named. ``how``: as it is, transposed, reshaped, computed,
    folded, added by the converter. ``value``: what the constant must hold, in the constant's own layout; None where it is folded."""

    parameter: str | None
    how: str
    value: np.ndarray[Any, Any] | None


def base_name(name: str) -> str:
    """A constant's name without what precision and compression append to it."""
    return SUFFIX.sub("", name)


def sources_of(mlmodel: Any, exported: Any) -> dict[str, Source]:
    """``{name without suffixes: Source}`` for every constant of floats with at least ``SMALLEST`` elements of a dense program."""
    graph = _Constants(exported)
    nodes = numbered(exported)
    found = {}
    for op, handle in operations(mlmodel):
        value = op.outputs[0].val if op.op_type == "const" else None
        if getattr(value, "size", 0) < SMALLEST or value.dtype.kind != "f":
            continue
        name = base_name(op.outputs[0].name)
        node = nodes.get(handle) if handle is not None else None
        reader = next(iter(op.outputs[0].child_ops), None)
        found[name] = _named(name, value, graph) or _argument(value, node, reader, graph) or _made(value)
    return found


class _Constants:
    """The torch graph's parts that depend on no input, computed when they are asked for."""

    def __init__(self, exported: Any):
        from torch.export.graph_signature import InputKind

        changing = set(exported.graph_signature.buffers_to_mutate.values())
        held = {**dict(exported.named_parameters()), **dict(exported.named_buffers()), **dict(exported.constants)}
        kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        self.paths: dict[str, str] = {
            spec.arg.name: spec.target
            for spec in exported.graph_signature.input_specs
            if spec.kind in kinds and spec.target in held and spec.target not in changing
        }
        self.tensors = {name: held[path].detach() for name, path in self.paths.items()}
        self._constant: dict[Any, bool] = {}

    def is_constant(self, node: Any) -> bool:
        if node not in self._constant:
            self._constant[node] = (
                node.name in self.tensors
                if node.op == "placeholder"
                else node.op == "call_function" and bool(node.all_input_nodes) and all(map(self.is_constant, node.all_input_nodes))
            )
        return self._constant[node]

    def value(self, node: Any) -> Any:
        import torch

        if node.op == "placeholder":
            return self.tensors[node.name]
        with torch.no_grad():
            return node.target(*_filled(node.args, self.value), **_filled(dict(node.kwargs), self.value))

    def parameters(self, node: Any) -> list[str]:
        """Paths of all parameters that a constant node is computed from."""
        if node.op == "placeholder":
            return [self.paths[node.name]]
        return list(dict.fromkeys(path for each in node.all_input_nodes for path in self.parameters(each)))


def _filled(given: Any, value: Any) -> Any:
    if isinstance(given, list | tuple):
        return type(given)(_filled(each, value) for each in given)
    if isinstance(given, dict):
        return {name: _filled(each, value) for name, each in given.items()}
    return value(given) if hasattr(given, "all_input_nodes") else given


def _named(name: str, value: Any, graph: _Constants) -> Source | None:
    """The converter kept the name of the parameter and its shape: the value must be the parameter's."""
    tensor = graph.tensors.get(name)
    if tensor is None or tuple(tensor.shape) != tuple(value.shape):
        return None
    return Source(graph.paths[name], "as it is", _array(tensor))


def _argument(value: Any, node: Any, reader: Any, graph: _Constants) -> Source | None:
    """A constant argument of the torch node that the constant was made for."""
    product = node is not None and reader is not None and reader.op_type == "linear" and kind_of(node) in PRODUCTS - {"linear"}
    for argument in filter(graph.is_constant, node.all_input_nodes if node is not None else ()):
        tensor = graph.value(argument)
        if not hasattr(tensor, "numel") or tensor.numel() != value.size or not tensor.is_floating_point():
            continue
        parameters = graph.parameters(argument)
        how = "as it is" if argument.op == "placeholder" else "computed"
        parameter = parameters[0] if len(parameters) == 1 else None
        array = _array(tensor)
        if product and array.ndim == 2:  # x @ w is linear(x, w.T): the layout is known, whatever the values are
            if array.T.shape == value.shape:
                return Source(parameter, "transposed" if how == "as it is" else how, array.T)
            continue
        for layout, changed in _layouts(array, value.shape):
            if relative_l2(value, changed) <= SAME:
                return Source(parameter, layout if how == "as it is" else how, changed)
    return None


def _layouts(array: Any, shape: Any) -> Iterator[tuple[str, Any]]:
    if array.shape == tuple(shape):
        yield "as it is", array
    if array.ndim >= 2 and array.swapaxes(-1, -2).shape == tuple(shape):
        yield "transposed", array.swapaxes(-1, -2)
    if array.shape != tuple(shape):
        yield "reshaped", array.reshape(shape)


def _made(value: Any) -> Source:
    """No parameter: a vector of one number is the converter's own (the bias of a linear without one)."""
    if (value == value.reshape(-1)[0]).all():
        return Source(None, "added by the converter", value)
    return Source(None, "folded", None)


def relative_l2(found: Any, wanted: Any) -> float:
    """``|found - wanted| / |wanted|`` in float64; the norm of ``found`` where ``wanted`` is 0."""
    import numpy as np

    found, wanted = np.atleast_1d(found), np.atleast_1d(wanted)
    step = max(1, BLOCK * len(wanted) // max(1, wanted.size))  # rows; all in float64 would be several times a weight's memory
    away = size = 0.0
    for start in range(0, len(wanted), step):
        right = np.asarray(wanted[start : start + step], np.float64)
        away += float(np.square(np.asarray(found[start : start + step], np.float64) - right).sum())
        size += float(np.square(right).sum())
    return math.sqrt(away) / (math.sqrt(size) or 1.0)


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().float().numpy()
