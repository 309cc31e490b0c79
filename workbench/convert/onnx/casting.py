"""The casts of a typed graph: each value in the types that its readers take, once.

    apply(plan, origins)      # the model of a typing.Plan, changed in place

A value keeps its name in the type it is computed in. A graph's output keeps its name and its type: what computes it in the low type is
renamed ("logits_float16") and cast last.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from workbench.convert.onnx.ranges import numpy_type

if TYPE_CHECKING:
    from workbench.convert.onnx.typing import Plan

SMALL = 16
"""Numbers of a constant that is stored in both types, where both are read, instead of being cast at every call."""


def apply(plan: Plan, origins: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Give every value its type, and put casts where a reader takes another. ``origins`` gets the entries of new names."""
    _Casting(plan, origins if isinstance(origins, MutableMapping) else {}).run()


class _Casting:
    def __init__(self, plan: Plan, origins: MutableMapping[str, Any]):
        self.plan, self.origins, self.graph = plan, origins, plan.graph
        self.inner = list(plan.graph.subgraphs())
        self.names = _names(plan.graph) | {name for graph in self.inner for name in _names(graph)}
        self.first = next(iter(plan.graph), None)

    def run(self) -> None:
        plan = self.plan
        weights = [value for value in self.graph.initializers.values() if plan.is_float(value)]
        inputs = [value for value in self.graph.inputs if plan.is_float(value) and value not in weights]
        made = [(node, place, value) for node in self.graph for place, value in enumerate(node.outputs) if plan.is_float(value)]
        for value in weights:
            self._weight(value)
        for value in inputs:
            self._read(value, plan.float, None)
        for node in self.graph:
            self._softmax(node)
        for node, place, value in made:
            if not plan.free(node):
                self._made(node, value, plan.makes(node, place))
            elif plan.can_make(node):
                self._by_readers(node, value)
            else:
                self._made(node, value, plan.float)

    def _softmax(self, node: Any) -> None:
        """The softmax inside an Attention (from opset 23 on) in fp32, as a softmax by itself is."""
        import onnx_ir as ir

        if node.op_type == "Attention" and node.domain == "" and node not in self.plan.kept:
            node.attributes.setdefault("softmax_precision", ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT)))

    def _uses(self, value: Any, held: Any) -> dict[Any, list[Any]]:
        """By type other than ``held``: the uses that take it, and the inner graphs' outputs (graph, place)."""
        found: dict[Any, list[Any]] = {}
        for use in value.uses():
            wanted = self.plan.wants(use.node, use.idx)
            if wanted is not None and wanted != held:
                found.setdefault(wanted, []).append(use)
        if held != self.plan.float:
            for graph in self.inner:
                found.setdefault(self.plan.float, []).extend(
                    (graph, place) for place, each in enumerate(graph.outputs) if each is value
                )
        return {kind: uses for kind, uses in found.items() if uses}

    def _read(self, value: Any, held: Any, after: Any) -> None:
        """Casts of ``value``, which is ``held``, behind the node that makes it (None: an input or a weight)."""
        for kind, uses in self._uses(value, held).items():
            self._give(uses, self._cast(value, kind, after))

    def _give(self, uses: list[Any], value: Any) -> None:
        for use in uses:
            if isinstance(use, tuple) and hasattr(use[0], "outputs") and not hasattr(use, "node"):
                use[0].outputs[use[1]] = value
            else:
                use.node.replace_input_with(use.idx, value)

    def _weight(self, value: Any) -> None:
        """Stored in the low type where all readers take it; cast, or small and stored twice, where only some do."""
        import onnx_ir as ir

        plan = self.plan
        lower = self._uses(value, plan.float).get(plan.low, [])
        if not lower:
            return
        if len(lower) == len(value.uses()) and not (value.is_graph_output() or value.is_graph_input() or self._inner(value)):
            value.const_value = self._low(value)
            value.type = ir.TensorType(plan.low)
        elif value.const_value is not None and value.const_value.size <= SMALL and not value.is_graph_input():
            name = self._name(value.name)
            other = ir.Value(name=name, type=ir.TensorType(plan.low), shape=value.shape, const_value=self._low(value, name))
            self.graph.register_initializer(other)
            self._give(lower, other)
        else:
            self._give(lower, self._cast(value, plan.low, None))

    def _made(self, node: Any, value: Any, kind: Any) -> None:
        import onnx_ir as ir

        if kind != self.plan.float:
            value.type = ir.TensorType(kind)
        casts = {kind: self._cast(value, kind, node) for kind in self._uses(value, kind)}
        for wanted, uses in self._uses(value, kind).items():
            self._give([use for use in uses if getattr(use, "node", None) is not casts[wanted].producer()], casts[wanted])
        if kind != self.plan.float and value.is_graph_output():
            self._output(value, node, casts.get(self.plan.float))

    def _output(self, value: Any, node: Any, cast: Any) -> None:
        """The graph's output is the cast, under the output's name."""
        cast = cast or self._cast(value, self.plan.float, node)
        outside, inside = value.name, self._name(value.name, self.plan.word)
        for place, each in enumerate(self.graph.outputs):
            if each is value:
                self.graph.outputs[place] = cast
        if outside in self.origins:
            self.origins[inside] = dict(self.origins[outside])
        self.origins.pop(cast.name, None)
        value.name, cast.name = inside, outside
        if cast.producer() is not None:
            cast.producer().name = outside

    def _by_readers(self, node: Any, value: Any) -> None:
        """A cast to float, or a filled tensor: made in the type that is read; where both are, both are made from the same source."""
        import onnx_ir as ir

        plan = self.plan
        lower = self._uses(value, plan.float).get(plan.low, [])
        if not lower:
            return
        if len(lower) == len(value.uses()) and not (value.is_graph_output() or self._inner(value)):
            self._retype(node)
            value.type = ir.TensorType(plan.low)
            return
        other = ir.node(node.op_type, list(node.inputs), dict(node.attributes), num_outputs=1)
        self._retype(other)
        other.outputs[0].type, other.outputs[0].shape = ir.TensorType(plan.low), value.shape
        self._named(other, value)
        self.graph.insert_after(node, other)
        self._give(lower, other.outputs[0])

    def _retype(self, node: Any) -> None:
        import onnx_ir as ir

        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(self.plan.low))
        else:
            held = node.attributes["value"].value.numpy() if "value" in node.attributes else [0.0]
            import numpy

            filled = numpy.asarray(held, numpy.float32).astype(numpy_type(self.plan.word))
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filled, dtype=self.plan.low))

    def _cast(self, value: Any, kind: Any, after: Any) -> Any:
        """A new cast of ``value``; after the node ``after``, else before all nodes."""
        import onnx_ir as ir

        node = ir.node("Cast", [value], {"to": int(kind)}, num_outputs=1)
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(kind), value.shape
        self._named(node, value, kind)
        if after is not None:
            self.graph.insert_after(after, node)
        elif self.first is not None:
            self.graph.insert_before(self.first, node)
        else:
            self.graph.append(node)
        return node.outputs[0]

    def _named(self, node: Any, value: Any, kind: Any = None) -> None:
        word = kind.name.lower() if kind is not None else self.plan.word
        word = "float32" if word == "float" else word
        node.outputs[0].name = node.name = self._name(value.name, word)
        if value.name in self.origins:
            self.origins[node.outputs[0].name] = dict(self.origins[value.name])

    def _low(self, value: Any, name: str | None = None) -> Any:
        """The numbers of a weight in the low type, rounded to nearest, ties to even."""
        import numpy
        import onnx_ir as ir

        with numpy.errstate(over="ignore", under="ignore"):
            numbers = numpy.asarray(value.const_value.numpy()).astype(numpy_type(self.plan.word))
        return ir.tensor(numbers, dtype=self.plan.low, name=name or value.name)

    def _inner(self, value: Any) -> bool:
        return any(each is value for graph in self.inner for each in graph.outputs)

    def _name(self, name: str, word: str | None = None) -> str:
        start = f"{name}_{word or self.plan.word}"
        found, number = start, 2
        while found in self.names:
            found, number = f"{start}_{number}", number + 1
        self.names.add(found)
        return found


def _names(graph: Any) -> set[str]:
    """Of all values and nodes of one graph."""
    found = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    return found | {value.name for node in graph for value in node.outputs} | {node.name for node in graph}
