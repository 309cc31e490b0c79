"""An fp32 ONNX graph with int8 weights and Q/DQ before its products: what TensorRT builds int8 kernels from.

    report = quantize(Path("vision.onnx"), Path("vision.int8.onnx"), feeds, Recipe(precision="int8-qdq", calibration="entropy"))
    report["activations"][0]   # {"value": "layer_norm_1", "scale": 0.0339, "seen": [-3.9, 4.31], "values": 332800, ...}
    report["placement"][0]     # {"node": "node_MatMul_17", "op": "MatMul", "quantized": [{"input": 0, ...}, {"input": 1, ...}], ...}

Ranges come from ``calibration``, places from ``placement``; scales, int8 weights and the Q/DQ nodes themselves are made by
onnxruntime.quantization (``quantize_static``), which is given the products alone, and are then put into the graph as it was. So no value
or node of the graph changes its name, and no other reader of a value (a residual addition, an output, a look-up in a tied table) sees
what was rounded. Symmetric throughout, since TensorRT's parser takes zero points of 0 only.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.onnx.calibration import METHODS, Range, check_feeds, digest, is_large, ranges, silent
from workbench.convert.onnx.placement import WEIGHTED, About, Spot, inside, placement
from workbench.errors import DataError, UsageError

if TYPE_CHECKING:
    import onnx

    from workbench.convert.onnx.recipe import Recipe

OLDEST_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis from here on (onnx, docs/Changelog.md)."""


def quantize(
    fp32_path: Path,
    out_path: Path,
    feeds: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    *,
    stage: str = "",
    about: About | None = None,
) -> dict[str, Any]:
    """Writes the graph at ``fp32_path`` with Q/DQ to ``out_path`` (and, beyond 1 GiB, ``out_path.data``). The same graph and samples
    give the same bytes. ``recipe.keep_fp32`` names nodes that take none: op types, values, names of nodes, layers; ``*`` for anything.

    The report, JSON throughout: ``method``; ``library``; ``samples`` {count, sha256}; ``weights`` [{name, source, transposed, shape, axis,
    channels, scales [least, most], zero_channels, stored_bytes, dense_bytes, error (relative L2), readers}]; ``activations`` [{value,
    scale, threshold, seen [least, most], values, readers}]; ``placement`` [{node, op, value, layer, module, line, quantized [{input,
    value, kind, scale}], float}]; ``left`` [{node, ..., reason, pattern}] of products without Q/DQ; ``patterns``: those that kept a node.

    Raises UsageError (no samples, an operator set without axes), DataError (samples that do not fit the graph, NaN, only zeros),
    ModelError (a graph that ONNX Runtime cannot run).
    """
    import onnx

    stage = stage or fp32_path.stem
    about = about or About()
    model = onnx.load(fp32_path)
    _check_opset(model, stage)
    weights = {each.name for each in model.graph.initializer}
    check_feeds([each for each in model.graph.input if each.name not in weights], feeds, stage=stage)
    spots, left = placement(model.graph, recipe.keep_fp32, about)
    method = recipe.calibration or next(iter(METHODS))
    found = ranges(fp32_path, list(dict.fromkeys(spot.activation for spot in spots)), feeds, method, stage=stage)
    left += [
        {**about.row(spot.node), "reason": f"its input {spot.activation!r} is 0 in every sample: no scale", "pattern": None}
        for spot in spots
        if found[spot.activation].zero
    ]
    if spots and not (spots := [spot for spot in spots if not found[spot.activation].zero]):
        raise DataError(
            f"every range of stage {stage!r} is 0 over {len(feeds):,} calibration samples",
            why="zeros have no scale",
            fix="--calibrate with inputs that are not empty",
        )
    parts = _Parts(spots, found, model)
    report = {
        "method": method,
        "library": f"onnxruntime {importlib.metadata.version('onnxruntime')}",
        "samples": {"count": len(feeds), "sha256": digest(feeds)},
        "weights": _weights(spots, parts),
        "activations": _activations(spots, parts, found),
        "placement": [_placed(spot, parts, about) for spot in spots],
        "left": left,
        "patterns": [each for each in recipe.keep_fp32 if any(row["pattern"] == each for row in left)],
    }
    _put(model.graph, spots, parts)
    onnx.save(model, out_path, save_as_external_data=is_large(model), location=f"{out_path.name}.data")
    onnx.checker.check_model(str(out_path), full_check=True)
    return report


class _Parts:
    """Q and DQ nodes, scales and int8 weights, made by onnxruntime.quantization from the products alone; no name is one of the graph's."""

    def __init__(self, spots: Sequence[Spot], found: Mapping[str, Range], model: onnx.ModelProto):
        self._names: dict[tuple[str, int], str] = {}
        """(weight, axis) -> the name its int8 form goes by: a second one where two products take different axes for their channels."""
        for spot in spots:
            first = all(weight != spot.weight for weight, _ in self._names)
            self._names.setdefault((spot.weight, spot.axis), spot.weight if first else f"{spot.weight}_axis{spot.axis}")
        self.nodes: dict[str, onnx.NodeProto] = {}
        """By the value that a Q or DQ node gives."""
        self.tensors: dict[str, onnx.TensorProto] = {}
        self._fresh: dict[str, str] = {}
        if spots:
            thresholds = {spot.activation: found[spot.activation].threshold for spot in spots}
            self._take(_quantised(self._products(spots, model.opset_import), thresholds), _names(model.graph))

    def _products(self, spots: Sequence[Spot], opsets: Any) -> onnx.ModelProto:
        """A graph of the products without their biases, each activation an input: all that ONNX Runtime's quantiser is to see."""
        from onnx import TensorProto, helper, numpy_helper

        weights = {self._names[spot.weight, spot.axis]: spot.values for spot in spots}
        nodes = []
        for number, spot in enumerate(spots):
            inputs = [spot.activation, self._names[spot.weight, spot.axis]]
            nodes.append(helper.make_node(spot.node.op_type, inputs, [f"workbench_product_{number}"], f"product_{number}"))
            nodes[-1].attribute.extend(spot.node.attribute)
        inputs = dict.fromkeys(spot.activation for spot in spots)
        graph = helper.make_graph(
            nodes,
            "products",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
            [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes],
            [numpy_helper.from_array(values, name) for name, values in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[each for each in opsets if each.domain in ("", "ai.onnx")])

    def _take(self, made: onnx.ModelProto, taken: set[str]) -> None:
        nodes = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        tensors = {tensor.name: tensor for tensor in made.graph.initializer}
        new = [name for node in nodes for name in [node.name, *node.output, *(name for name in node.input if name in tensors)]]
        for name in dict.fromkeys(new):
            tries = (name if number == 0 else f"{name}_{number}" for number in itertools.count())
            self._fresh[name] = next(each for each in tries if each not in taken)
            taken.add(self._fresh[name])
        for node in nodes:
            for name in node.input:
                if name in tensors:
                    tensors[name].name = self._fresh[name]
                    self.tensors[self._fresh[name]] = tensors[name]
            node.name = self._fresh[node.name]
            node.input[:] = [self._fresh.get(name, name) for name in node.input]
            node.output[:] = [self._fresh[name] for name in node.output]
            self.nodes[node.output[0]] = node

    def read_by(self, spot: Spot) -> tuple[str, str]:
        """The values that a product reads instead of its activation and its weight."""
        names = (spot.activation, self._names[spot.weight, spot.axis])
        return tuple(self._fresh[f"{name}_DequantizeLinear_Output"] for name in names)  # type: ignore[return-value]

    def chain(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that a dequantised value comes from: [Q, DQ] of an activation, [DQ] of a weight."""
        node = self.nodes[value]
        before = self.nodes.get(node.input[0])
        return [node] if before is None else [before, node]

    def scale(self, value: str) -> Any:
        """The scale of a dequantised value: no axes, or one a channel."""
        return self._array(self.nodes[value].input[1])

    def integers(self, value: str) -> Any:
        """The int8 weight that a dequantised value comes from."""
        return self._array(self.nodes[value].input[0])

    def _array(self, name: str) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name])


def _quantised(products: onnx.ModelProto, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """The products as ONNX Runtime's quantiser writes them for these thresholds."""
    import numpy
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    found = {
        value: TensorData(lowest=-numpy.float32(threshold), highest=numpy.float32(threshold))
        for value, threshold in thresholds.items()
    }
    with tempfile.TemporaryDirectory(prefix="workbench-") as name, silent():
        products_path, ranges_path, made_path = (Path(name) / each for each in ("products.onnx", "ranges.json", "made.onnx"))
        large = is_large(products)
        onnx.save(products, products_path, save_as_external_data=large, location="products.data")
        save_tensors_data(
            TensorsData(CalibrationMethod.MinMax, found), ranges_path
        )  # thresholds by whichever method: they are final
        quantize_static(
            str(products_path),
            str(made_path),
            None,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(WEIGHTED),
            use_external_data_format=large,
            calibration_cache_path=str(ranges_path),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
                "QuantizeBias": False,
                "QDQDisableWeightAdjustForInt32Bias": True,
            },
        )
        return onnx.load(made_path)


def _put(graph: onnx.GraphProto, spots: Sequence[Spot], parts: _Parts) -> None:
    """Puts Q and DQ before the products, and takes out constants that nothing reads any more."""
    at = {spot.index: spot for spot in spots}
    nodes: list[onnx.NodeProto] = []
    put: dict[str, None] = {}
    for index, node in enumerate(graph.node):
        copy = type(node)()
        copy.CopyFrom(node)
        for number, value in enumerate(parts.read_by(at[index]) if index in at else ()):
            if value not in put:
                put[value] = None
                nodes += parts.chain(value)
            copy.input[number] = value
        nodes.append(copy)
    while len(live := [node for node in nodes if not _idle(node, _read(nodes, graph))]) < len(nodes):
        nodes = live
    read = _read(nodes, graph)
    sources = {spot.source for spot in spots}
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in sources]
    added = dict.fromkeys(name for value in put for node in parts.chain(value) for name in node.input if name in parts.tensors)
    kept += [parts.tensors[name] for name in added]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _idle(node: onnx.NodeProto, read: set[str]) -> bool:
    """Whether a node gives a constant that nothing reads: the fp32 form of a weight."""
    return node.op_type in ("Constant", "Transpose") and not read.intersection(node.output)


def _read(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> set[str]:
    """Every value that a node reads, also inside If, Loop and Scan, and every output."""
    inner = [each for node in nodes for each in inside(node)]
    return {name for node in [*nodes, *inner] for name in node.input} | {each.name for each in graph.output}


def _names(graph: onnx.GraphProto) -> set[str]:
    inner = [each for node in graph.node for each in inside(node)]
    named = [name for node in [*graph.node, *inner] for name in [node.name, *node.input, *node.output]]
    return {*named, *(each.name for each in [*graph.initializer, *graph.input, *graph.output])}


def _weights(spots: Sequence[Spot], parts: _Parts) -> list[dict[str, Any]]:
    import numpy

    rows: dict[str, dict[str, Any]] = {}
    for spot in spots:
        value = parts.read_by(spot)[1]
        if value not in rows:
            scale, integers = parts.scale(value), parts.integers(value)
            across = scale.reshape([-1 if axis == spot.axis else 1 for axis in range(integers.ndim)])
            error = numpy.linalg.norm((integers * across - spot.values).astype(numpy.float64))
            norm = float(numpy.linalg.norm(spot.values.astype(numpy.float64)))
            empty = ~spot.values.any(axis=tuple(axis for axis in range(integers.ndim) if axis != spot.axis))
            rows[value] = {
                "name": spot.weight,
                "source": spot.source,
                "transposed": spot.transposed,
                "stored": parts.nodes[value].input[0],
                "shape": list(integers.shape),
                "axis": spot.axis,
                "channels": int(scale.size),
                "scales": [float(scale.min()), float(scale.max())],
                "zero_channels": int(empty.sum()),
                "stored_bytes": int(integers.nbytes + scale.nbytes),
                "dense_bytes": int(spot.values.nbytes),
                "error": float(error) / norm if norm else 0.0,
                "readers": [],
            }
        rows[value]["readers"].append(spot.node.output[0])
    return list(rows.values())


def _activations(spots: Sequence[Spot], parts: _Parts, found: Mapping[str, Range]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for spot in spots:
        seen = found[spot.activation]
        rows.setdefault(
            spot.activation,
            {
                "value": spot.activation,
                "scale": float(parts.scale(parts.read_by(spot)[0])),
                "threshold": seen.threshold,
                "seen": [seen.least, seen.most],
                "values": seen.values,
                "readers": [],
            },
        )["readers"].append(spot.node.output[0])
    return list(rows.values())


def _placed(spot: Spot, parts: _Parts, about: About) -> dict[str, Any]:
    """A row of the report: a node, its inputs with Q/DQ and those without."""
    activation, weight = parts.read_by(spot)
    return {
        **about.row(spot.node),
        "quantized": [
            {
                "input": 0,
                "kind": "activation",
                "value": spot.activation,
                "read": activation,
                "nodes": ["QuantizeLinear", "DequantizeLinear"],
            },
            {"input": 1, "kind": "weight", "value": spot.weight, "read": weight, "nodes": ["DequantizeLinear"]},
        ],
        "float": [name for name in spot.node.input[2:] if name],
    }


def _check_opset(model: onnx.ModelProto, stage: str) -> None:
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if version < OLDEST_OPSET:
        raise UsageError(
            f"stage {stage!r} is written in operator set {version}",
            why=f"a scale per channel needs {OLDEST_OPSET}: DequantizeLinear has no axis before",
            fix=f"export it again with opset {OLDEST_OPSET} or newer; onnx.version_converter may do it",
        )
