"""Which nodes of an ONNX graph take Q/DQ, on which inputs, and why the others do not.

    spots, left = placement(model.graph, keep=("logits",), about=About(origins, layers))
    spots[0].activation, spots[0].weight, spots[0].axis       # "layer_norm_1", "val_20", 1
    left[0]["reason"]                                         # "two activations are multiplied: there is no weight"

Q/DQ stand before both factors of products with a constant weight, and nowhere else: TensorRT runs such a node in int8, adds the bias in
fp32, and fuses what follows. Not quantised, and why:

- Outputs: what follows a product may need them exactly (NVIDIA, TensorRT documentation, Working with Quantized Types, recommendations
  on the placement of Q/DQ layers: inputs of weighted operations, not their outputs). With them stay the residual additions, and the
  additions of masks before a softmax: a mask's -30000 would leave one level for all scores.
- Biases: TensorRT's parser takes no int32 DequantizeLinear (onnx/onnx-tensorrt issue 850).
- Products of two activations (the scores and the averages of an attention): softmax's outputs reach 1 in one sample and 0.01 in the next,
  so that one scale serves neither, and TensorRT fuses attention in higher precision. With them in int8 the demo recogniser's encoder is
  0.26 from fp32 (relative L2, max calibration, unseen clips); without, 0.013.
- Normalisations, softmax, look-ups in tables of embeddings: they are no products.
- Convolutions that TensorRT has no int8 kernel for: see ``_no_kernel``.

With ONNX Runtime's own choice (every op that it knows, and outputs) the demo VLM's prefill has the fp32 model's next token at 71 % of all
positions; with this one at 98 %. A tied head keeps its float table for the look-up beside the int8 copy: ``keep_fp32=logits`` is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import onnx

WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Op types that take Q/DQ on both factors."""
NARROWEST = 16
"""Channels below which TensorRT's int8 convolutions have conditions."""


@dataclass(frozen=True)
class About:
    """Where nodes come from. ``origins``: value -> {"module", "line", ...} of the torch op; ``layers``: path of a module -> the project's
    name of the layer (``Stage.layers``). Both empty for a graph from elsewhere."""

    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def around(self, value: str) -> list[str]:
        """Layers that hold the op which gives a value, the innermost first."""
        parts = str((self.origins.get(value) or {}).get("module") or "").split(".")
        paths = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        return [self.layers[path] for path in paths if path in self.layers]

    def row(self, node: onnx.NodeProto) -> dict[str, Any]:
        """``{"node", "op", "value", "layer", "module", "line"}`` of a node, for reports."""
        value = node.output[0]
        origin = self.origins.get(value) or {}
        return {
            "node": node.name,
            "op": node.op_type,
            "value": value,
            "layer": next(iter(self.around(value)), None),
            "module": origin.get("module"),
            "line": origin.get("line"),
        }


@dataclass(frozen=True)
class Spot:
    """One node that takes Q/DQ on its inputs 0 (``activation``, a value) and 1 (``weight``: the name that its int8 form goes by).

    ``source`` is the constant in the graph; ``values`` are float32 and already transposed where a Transpose stood between (a language
    model's head, tied to its embeddings). ``axis``: of the output channels."""

    index: int
    node: onnx.NodeProto
    activation: str
    weight: str
    source: str
    transposed: bool
    axis: int
    values: numpy.ndarray


def placement(graph: onnx.GraphProto, keep: Sequence[str], about: About) -> tuple[list[Spot], list[dict[str, Any]]]:
    """(nodes that take Q/DQ, in the graph's order; rows of ``WEIGHTED`` nodes that do not). A row is ``About.row`` with ``reason`` and
    ``pattern`` (of ``keep``, else None)."""
    constants = Constants(graph)
    spots: list[Spot] = []
    left: list[dict[str, Any]] = []
    for index, node in enumerate(graph.node):
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            left += [
                {**about.row(inner), "reason": f"it is inside the {node.op_type} node {node.name!r}", "pattern": None}
                for inner in inside(node)
                if inner.op_type in WEIGHTED
            ]
            continue
        names = (node.op_type, node.name, *node.output, *about.around(node.output[0]))
        pattern = next((each for each in keep if any(fnmatchcase(name, each) for name in names)), None)
        found = f"keep_fp32 names it: {pattern}" if pattern else _spot(index, node, constants)
        if isinstance(found, str):
            left.append({**about.row(node), "reason": found, "pattern": pattern})
        else:
            spots.append(found)
    return spots, left


class Constants:
    """Values of a graph that no input changes: initializers, Constant nodes, and either through one Transpose."""

    def __init__(self, graph: onnx.GraphProto):
        self._tensors = {each.name: each for each in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._inputs = {each.name for each in graph.input}

    def find(self, name: str) -> tuple[str, numpy.ndarray] | None:
        """(the constant it is made from, its values); None where an input changes it."""
        import numpy
        from onnx import helper, numpy_helper

        if name in self._tensors:  # one that is an input as well is only a default
            return None if name in self._inputs else (name, numpy_helper.to_array(self._tensors[name]))
        maker = self._makers.get(name)
        if maker is None:
            return None
        given = {each.name: helper.get_attribute_value(each) for each in maker.attribute}
        if maker.op_type == "Constant" and "value" in given:
            return name, numpy_helper.to_array(given["value"])
        if maker.op_type == "Transpose" and (found := self.find(maker.input[0])) is not None:
            return found[0], numpy.ascontiguousarray(found[1].transpose(given.get("perm")))
        return None

    def dequantised(self, name: str) -> bool:
        """Whether a value comes out of a DequantizeLinear, directly or through one Transpose."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type == "Transpose":
            maker = self._makers.get(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear"


def _spot(index: int, node: onnx.NodeProto, constants: Constants) -> Spot | str:
    """Where Q/DQ go on a node, or why they do not."""
    import numpy
    from onnx import helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if any(constants.dequantised(name) for name in node.input[:2]):
        return "it has Q/DQ already"
    first, found = constants.find(node.input[0]), constants.find(node.input[1])
    if found is None:
        return "its weight is the first factor" if first else "two activations are multiplied: there is no weight"
    if first is not None:
        return "both factors are constants"
    source, values = found
    if values.dtype != numpy.float32:
        return f"its weight is {values.dtype}, not float32"
    if not numpy.isfinite(values).all():
        return "its weight holds NaN or infinity, which no scale reaches"
    axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if given.get("transB") else 1}.get(node.op_type, 1)
    if node.op_type in ("MatMul", "Gemm") and values.ndim != 2:
        return f"its weight has {values.ndim} axes: a scale per output channel needs a matrix"
    if sum(size != 1 for size in values.shape) < 2:
        return "its weight is a vector: frequencies of a rotary position, or one output"
    if reason := _no_kernel(node, values.shape, given):
        return reason
    weight, transposed = node.input[1], source != node.input[1]
    if transposed and values.ndim == 2 and constants.find(f"{source}.transposed") is None:
        weight = f"{source}.transposed"
    return Spot(index, node, node.input[0], weight, source, transposed, axis, values)


def _no_kernel(node: onnx.NodeProto, shape: tuple[int, ...], given: Mapping[str, Any]) -> str | None:
    """Why TensorRT has no int8 kernel for a convolution; None where it has.

    The conditions are those of NVIDIA's Model Optimizer 0.47 (modelopt/onnx/quantization/graph_utils.py,
    find_nodes_from_convs_to_exclude), without its exception for a graph's first layer of fewer than ``NARROWEST`` channels on both sides.
    """
    if node.op_type != "Conv" or min(shape[:2]) >= NARROWEST:
        return None
    kernel = list(given.get("kernel_shape") or shape[2:])
    if given.get("group", 1) > 1:
        if shape[0] % 8 == 0 and min(kernel) >= 3:
            return None
        return "TensorRT's int8 kernels of grouped convolutions take multiples of 8 channels and kernels from 3 on"
    if max(shape[:2]) >= NARROWEST and any(channels % 8 == 0 for channels in shape[:2]) and len(set(kernel)) == 1:
        return None
    return f"{shape[1]} to {shape[0]} channels, kernel {kernel}: TensorRT has no int8 kernel"


def inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graphs that a node holds (If, Loop, Scan), at any depth."""
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield inner
                yield from inside(inner)
