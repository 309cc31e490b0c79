"""fp16 and bf16 by types: every node of an ONNX graph computes in the low type or in fp32, and casts stand only where the two meet.

    kept = typed(model, "fp16", keep=("MatMul",), origins=origins, layers=layers, modules=stage.layers)
    kept[0]      # {"value": "val_112", "op": "Softmax", "layer": "text.block.0.attention", ..., "pattern": None, "reason": "a softmax"}

TensorRT builds what the graph's types say (from version 11 on that is the only way), so precision is decided here. Types are held to the
schemas of the model's opset, so that the checker takes whatever comes out. Inputs and outputs of the graph stay as they are.

* A weight is stored once: in the low type, or in fp32 where a node that stays fp32 reads it.
* A value is cast once to each type, whoever reads it.
* What computes with a constant that the low type cannot hold stays fp32, and so does what reads its result: fp16 ends at 65,504, and
  float32's lowest number, the usual mask, is -inf in both low types. No constant is clamped.
* A node with graphs inside (If, Loop, Scan), of an unknown domain, or of unknown types stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from workbench.convert.onnx.casting import apply
from workbench.convert.onnx.inference import tell_types
from workbench.convert.onnx.keeping import MOVERS, Rules
from workbench.convert.onnx.ranges import Ranges
from workbench.convert.onnx.signatures import Signature, signature
from workbench.errors import ModelError, UsageError

LOW = {"fp16": "float16", "bf16": "bfloat16"}
BY_ATTRIBUTE = frozenset(
    {
        "Bernoulli",
        "BlackmanWindow",
        "EyeLike",
        "HammingWindow",
        "HannWindow",
        "MelWeightMatrix",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "SequenceEmpty",
    }
)
"""Ops whose result has the type that an attribute names: they stay as they are. (Cast and ConstantOfShape are typed by their readers.)"""
LOOKS = frozenset({"Shape", "Size"})
"""Ops that read any float as it is."""
PASSES_ON = MOVERS | {"Abs", "Add", "Div", "Max", "Min", "Mul", "Neg", "Pad", "Sub", "Sum", "Where"}
"""Ops whose result may be as large as what they read."""
BOUNDS = frozenset({"Clip", "Max", "Min"})
"""Ops in which a constant beyond the range bounds the result and does not enlarge it."""


def typed(
    model: Any,
    precision: str,
    keep: Sequence[str] = (),
    origins: Mapping[str, Mapping[str, Any]] | None = None,
    layers: Mapping[str, str] | None = None,
    modules: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Type ``model`` (an ``onnx_ir.Model`` of fp32) in place; returns a row ``{value, op, layer, module, line, pattern, reason}`` for each node
    that stays fp32, one for each pattern that says so.

    ``keep``: patterns of op types, values and layers, with ``*``. ``origins``: by value, where it comes from; the values that are new get
    entries too. ``modules``: by module path, the layer's name, where ``layers`` names the layers' values alone.
    The nodes' ``metadata_props`` of torch's exporter are read (module classes): strip them afterwards.
    Raises UsageError (a precision that is no low type) and ModelError (functions that cannot be inlined, types that cannot be told).
    """
    if precision not in LOW:
        raise UsageError(f"{precision!r} is no type of a graph's numbers here", why=f"known: {', '.join(LOW)}")
    prepare(model, layers if isinstance(layers, MutableMapping) else {})
    rules = Rules(model.graph, keep, origins, modules or _by_value(layers or {}, origins or {}))
    plan = Plan(model, LOW[precision], rules)
    plan.decide()
    apply(plan, origins)
    return plan.rows()


def prepare(model: Any, layers: MutableMapping[str, str]) -> None:
    """Functions inlined, constants as initialisers, every type told, casts from float to float away; a layer whose value such a cast was
    is what was cast."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    try:
        if model.functions:
            common.InlinePass()(model)
            common.RemoveUnusedFunctionsPass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    except Exception as error:  # onnx_ir wraps whatever its passes raise
        raise ModelError("the graph cannot be typed", why=f"{error.__cause__ or error}"[:300]) from error
    tell_types(model)
    for node in list(model.graph):
        if node.op_type == "CastLike" and node.domain == "" and node.inputs[1] is not None and node.inputs[1].dtype is not None:
            _cast_of(node, node.inputs[1].dtype, model.graph)
    floats = ir.DataType.FLOAT
    for node in list(model.graph):
        if node.op_type != "Cast" or node.domain != "" or node.inputs[0] is None:
            continue
        given, made = node.inputs[0], node.outputs[0]
        shown = made.is_graph_output() or _in_subgraph_outputs(made, model.graph)
        if given.dtype == made.dtype == floats and shown:
            node.op_type = "Identity"
            node.attributes.clear()
        elif given.dtype == made.dtype == floats:
            made.replace_all_uses_with(given)
            model.graph.remove(node, safe=True)
            layers.update({layer: given.name for layer, name in layers.items() if name == made.name})


class Plan:
    """What is decided about a graph: ``kept`` nodes with their reasons; all others compute in ``low`` ("float16")."""

    def __init__(self, model: Any, low: str, rules: Rules):
        import onnx_ir as ir

        self.model, self.graph, self.rules = model, model.graph, rules
        self.word, self.low, self.float = low, ir.DataType[low.upper()], ir.DataType.FLOAT
        self.kept: dict[Any, list[tuple[str | None, str]]] = {}
        self.ranges = Ranges(low)
        self._signatures: dict[Any, Signature | None] = {}
        self._opsets = {("" if domain == "ai.onnx" else domain): number for domain, number in model.opset_imports.items()}

    def decide(self) -> None:
        """Fill ``kept``."""
        for node in self.graph:
            if self._has_floats(node) and not self.free(node):
                found = [pair for pair in self.rules.of(node)]
                cannot = self._cannot(node)
                if cannot:
                    found = [pair for pair in found if pair[0]] + [(None, cannot)]
                if found:
                    self.kept[node] = found
        self._keep_ranges()
        self._keep_between()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each reason of each kept node, in the graph's order; the user's patterns before the rule that would have kept it too."""
        found = []
        for node in self.graph:
            reasons = self.kept.get(node, [])
            for pattern, reason in [pair for pair in reasons if pair[0]] or reasons[:1]:
                value = next((each.name for each in node.outputs if each.name), "")
                found.append({"value": value, "op": node.op_type, **self.rules.origin(node), "pattern": pattern, "reason": reason})
        return found

    def is_float(self, value: Any) -> bool:
        import onnx_ir as ir

        return value is not None and value.dtype == self.float and (value.type is None or isinstance(value.type, ir.TensorType))

    def free(self, node: Any) -> bool:
        """Casts, shapes and filled tensors: their readers, or what they read, decide their type."""
        if node.domain not in ("", "ai.onnx"):
            return False
        return node.op_type in LOOKS or node.op_type in ("Cast", "ConstantOfShape")

    def can_make(self, node: Any) -> bool:
        """Whether the result of a free node may be of the low type."""
        return node not in self.kept and self._is_low(node, self._of(node).outputs[0])

    def wants(self, node: Any, place: int) -> Any:
        """The type in which a float input is read; None: as it is."""
        if node.graph is not self.graph or node in self.kept:
            return self.float
        if self.free(node):
            return None
        return self.low if self._is_low(node, self._of(node).inputs[place]) else self.float

    def makes(self, node: Any, place: int) -> Any:
        """The type of a float output of a node that is not free."""
        if node in self.kept:
            return self.float
        kind = self._of(node).outputs[place]
        bound = kind in self._of(node).inputs
        return self.low if bound and self._is_low(node, kind) else self.float

    def reasons_with(self, node: Any, reason: str) -> None:
        self.kept[node] = [*self.kept.get(node, []), (None, reason)]

    def _is_low(self, node: Any, kind: str) -> bool:
        if node.op_type == "Resize" and kind == "T2":  # the region's borders; scales have no other type
            return False
        return kind in self._of(node).allowed and self._of(node).takes(kind, f"tensor({self.word})")

    def _of(self, node: Any) -> Any:
        if node not in self._signatures:
            self._signatures[node] = signature(node, self._opsets)
        return self._signatures[node]

    def _has_floats(self, node: Any) -> bool:
        return any(self.is_float(value) for value in (*node.inputs, *node.outputs)) or any(
            value is not None and value.type is not None and not _is_tensor(value) for value in (*node.inputs, *node.outputs)
        )

    def _cannot(self, node: Any) -> str | None:
        """Why a node cannot compute in the low type; None where it can."""
        if any(_is_graph(attribute) for attribute in node.attributes.values()):
            return f"{node.op_type} holds graphs, which stay as they are"
        if any(value is not None and value.name and value.dtype is None for value in (*node.inputs, *node.outputs)):
            return "the type of an input or output is not told"
        if any(value is not None and value.name and not _is_tensor(value) for value in (*node.inputs, *node.outputs)):
            return "it holds a sequence or an optional"
        found = self._of(node)
        if found is None:
            return f"no schema of {node.domain or 'ONNX'} says what {node.op_type} takes"
        if node.op_type in BY_ATTRIBUTE:
            return "an attribute names the type of its result"
        if node.op_type == "DequantizeLinear" and found.since >= 23 and "output_dtype" in node.attributes:
            return "an attribute names the type of its result"
        kinds = [kind for kind, value in (*zip(found.inputs, node.inputs, strict=True),) if self.is_float(value)]
        if not any(self._is_low(node, kind) for kind in kinds):
            opset = self._opsets.get("" if node.domain == "ai.onnx" else node.domain)
            return f"{node.op_type} of opset {opset} takes no {self.word}"
        return None

    def _keep_ranges(self) -> None:
        """Nodes with a constant that the low type cannot hold, and those that read its result, as far as it is passed on."""
        large = []
        for node in self.graph:
            if not self._has_floats(node):
                continue
            found = self._beyond(node)
            if found is not None:
                name, size = found
                if node not in self.kept and not self.free(node):
                    self.reasons_with(node, f"{name} {size}")
                elif self.free(node):
                    self.reasons_with(node, f"it is filled with a number that {size}")
                if "beyond" in size and (node.op_type in PASSES_ON or self.free(node)) and node.op_type not in BOUNDS:
                    large.append(node)
        seen = set(large)
        while large:
            node = large.pop()
            for reader in [use.node for value in node.outputs for use in value.uses()]:
                if reader in seen or reader.graph is not self.graph or self.free(reader):
                    continue
                seen.add(reader)
                if reader not in self.kept:
                    self.reasons_with(reader, f"it reads what may be beyond {self.word}'s range")
                if reader.op_type in PASSES_ON:
                    large.append(reader)

    def _beyond(self, node: Any) -> tuple[str, str] | None:
        """(name, what is wrong) of the first constant of a node that the low type cannot hold."""
        if node.op_type == "ConstantOfShape" and "value" in node.attributes and self.is_float(node.outputs[0]):
            found = self.ranges.of(node.attributes["value"].value)
            return ("its value", found) if found else None
        for place, value in enumerate(node.inputs):
            if not self.is_float(value) or value.const_value is None or value.is_graph_input():
                continue
            if self.free(node) or (node not in self.kept and self.wants(node, place) != self.low):
                continue
            scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and place == 1
            found = self.ranges.of(value.const_value, normal=scale)
            if found:
                return value.name, found
        return None

    def _keep_between(self) -> None:
        """Nodes that only move numbers from fp32 to fp32 stay fp32: casts there would round for nothing."""
        changed = True
        while changed:
            changed = False
            for node in self.graph:
                if node in self.kept or node.op_type not in MOVERS or not self._has_floats(node):
                    continue
                floats = [value for value in node.inputs if self.is_float(value)]
                stored = [value for value in floats if value.const_value is not None and not value.is_graph_input()]
                if len(stored) < len(floats) and all(self._is_single(each) for each in floats) and self._only_single(node):
                    self.reasons_with(node, "it only moves what is fp32 before and after it")
                    changed = True

    def _is_single(self, value: Any) -> bool:
        node = value.producer()
        return node is None or node in self.kept

    def _only_single(self, node: Any) -> bool:
        floats = [value for value in node.outputs if self.is_float(value)]
        uses = [use for value in floats for use in value.uses()]
        if not uses and not any(value.is_graph_output() for value in floats):
            return False
        return all(self.wants(use.node, use.idx) == self.float for use in uses)


def _by_value(layers: Mapping[str, str], origins: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A module's path -> the layer whose value it makes: all that can be told without the module tree."""
    return {str(origins[value]["module"]): layer for layer, value in layers.items() if origins.get(value, {}).get("module")}


def _cast_of(node: Any, dtype: Any, graph: Any) -> None:
    """A CastLike as the Cast that it is."""
    import onnx_ir as ir

    cast = ir.node("Cast", [node.inputs[0]], {"to": int(dtype)}, outputs=None, name=node.name)
    cast.metadata_props.update(node.metadata_props)
    graph.insert_after(node, cast)
    old, new = node.outputs[0], cast.outputs[0]
    new.type, new.shape, name = ir.TensorType(dtype), old.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name


def _is_tensor(value: Any) -> bool:
    import onnx_ir as ir

    return isinstance(value.type, ir.TensorType)


def _is_graph(attribute: Any) -> bool:
    import onnx_ir as ir

    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _in_subgraph_outputs(value: Any, graph: Any) -> bool:
    return any(each is value for inner in graph.subgraphs() for each in inner.outputs)
