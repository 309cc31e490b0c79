"""Torch models opened: every value that they compute, by name.

graph = script_graph(torch.jit.load("encoder.pt"))
graph.run([mel]).inner["input.3"]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.capture.twins import Values

VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("view", "reshape", "slice", "select", "transpose", "permute", "unsqueeze", "squeeze", "expand", "expand_as", "narrow"),
        *("flatten", "t", "detach", "contiguous", "view_as", "reshape_as", "alias", "numpy_T", "swapaxes", "movedim", "unflatten"),
    )
)
"""Ops that may put out the memory that they were given."""


@dataclass
class Graph:
    """``inputs``: names in order; None where they are not known. ``kinds``: dtypes of inputs that are not floats. ``run`` takes tensors
    in the order of the inputs."""

    inputs: list[str] | None
    run: Callable[[Sequence[Any]], Values]
    kinds: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False
    """Are unnamed values counted as a conversion that is made now would count them?"""
    buffers: Mapping[str, Any] = field(default_factory=dict)
    """Of an exported program: what it reads and writes beside its inputs, by name, as the last run left it."""


def plain_graph(module: Any) -> Graph:
    """A module that is only called: outputs by their keys or places."""
    back = rewind(module)

    def run(tensors: Sequence[Any]) -> Values:
        back()
        return Values(flat(module(*tensors)))

    return Graph(None, run)


def rewind(module: Any) -> Callable[[], None]:
    """What puts a module's buffers back as they are now: every run begins with the state of the first, as a program's does."""
    import torch

    with torch.no_grad():
        held = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def back() -> None:
        for buffer, first in held:
            buffer.copy_(first)

    return back


def flat(result: Any) -> dict[str, Any]:
    """What a module returns, as arrays: of a mapping (or an output class of transformers) by key, else by place."""
    if hasattr(result, "items"):
        return {str(name): found for name, value in result.items() if (found := array_of(value)) is not None}
    values = result if isinstance(result, (tuple, list)) else (result,)
    return {f"output_{place}": found for place, value in enumerate(values) if (found := array_of(value)) is not None}


def array_of(value: Any) -> Any:
    """A tensor as numpy floats or whole numbers; None for what is no tensor."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() and value.dtype != torch.float64 else value).numpy()


def exported_graph(
    program: Any, precision: str, *, only: Collection[str] | None = None, begin: Mapping[str, Any] | None = None
) -> Graph:
    """Node by node. Names of outputs are those of the nodes that make them, as a conversion names them.

    ``only``: the nodes whose values are wanted beside the outputs (None: all). ``begin``: what buffers hold when a run begins, read at
    each run (without it: what they hold now).
    """
    import copy

    import torch

    # A copy: modules of one program share their weights, and ``to`` changes them in place.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own classes
        module = copy.deepcopy(program.module()).to(getattr(torch, precision))
    retype(module, precision)
    nodes = list(module.graph.nodes)
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    (last,) = [node for node in nodes if node.op == "output"]
    returned = torch.utils._pytree.tree_leaves(last.args[0])
    names = unique([each.name if isinstance(each, torch.fx.Node) else f"output_{place}" for place, each in enumerate(returned)])
    kinds = {
        node.name: str(node.meta["val"].dtype).removeprefix("torch.")
        for node in nodes
        if node.op == "placeholder" and hasattr(node.meta.get("val"), "dtype") and not node.meta["val"].is_floating_point()
    }

    back = rewind(module)
    buffers = dict(module.named_buffers())
    written = {buffer.untyped_storage().data_ptr() for buffer in buffers.values()}

    def run(tensors: Sequence[Any]) -> Values:
        back()
        for name, array in (begin or {}).items():
            with torch.no_grad():
                buffers[name].copy_(torch.as_tensor(array))
        inner: dict[str, Any] = {}

        class Recording(torch.fx.Interpreter):
            def run_node(self, node: Any) -> Any:
                result = super().run_node(node)
                if node.op.startswith("call_") and (only is None or node.name in only):
                    value = result[0] if isinstance(result, (tuple, list)) and len(result) else result
                    if isinstance(value, torch.Tensor) and value.is_floating_point():
                        array = array_of(value)
                        # A part of a buffer changes when the buffer is written, later in the run.
                        inner[node.name] = array.copy() if value.untyped_storage().data_ptr() in written else array
                return result

        results = torch.utils._pytree.tree_leaves(Recording(module).run(*tensors))
        outputs = {name: array_of(value) for name, value in zip(names, results, strict=True) if isinstance(value, torch.Tensor)}
        return Values(outputs, {name: value for name, value in inner.items() if name not in outputs})

    return Graph(inputs, run, kinds, buffers=buffers)


def retype(module: Any, precision: str) -> None:
    """An exported graph's casts to float32, and the constants that it makes so, in ``precision``: a softmax that a model computes in
    float32 whatever it was loaded in would put float32 beside float64. What checks types at each run is taken away."""
    import torch

    wanted = getattr(torch, precision)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and "_assert_tensor_metadata" in str(node.target):
            module.graph.erase_node(node)  # buffers in float16 are in ``precision`` now
            continue
        node.args, node.kwargs = torch.fx.node.map_aggregate(
            (node.args, node.kwargs), lambda each: wanted if each is torch.float32 else each
        )
    module.recompile()
    for name, value in list(vars(module).items()):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            setattr(module, name, value.to(wanted))


def script_graph(module: Any, traced: bool = False) -> Graph:
    """The graph of a TorchScript module, inlined, with every tensor returned beside its outputs. Raises RuntimeError for graphs whose
    outputs are of other kinds."""
    import torch

    graph = module.graph.copy()
    torch._C._jit_pass_inline(graph)
    graph, parameters = torch._C._jit_pass_lower_graph(graph, module._c)
    given = [each.debugName() for each in graph.inputs()]
    inputs = [name.removesuffix(".1") for name in given[: len(given) - len(parameters)]]
    returned = list(graph.outputs())
    named = output_names(returned)
    values = [value for node in graph.nodes() for value in node.outputs() if isinstance(value.type(), torch._C.TensorType)]
    names = [value.debugName() for value in values]
    unwritten = before_writes(graph)
    both = [*returned, *(unwritten.get(name, value) for name, value in zip(names, values, strict=True))]
    bundle = graph.create("prim::TupleConstruct", both, 1)
    graph.appendNode(bundle)
    bundle.output().setType(torch._C.TupleType([value.type() for value in both]))
    for place in reversed(range(len(returned))):
        graph.eraseOutput(place)
    graph.registerOutput(bundle.output())
    function = torch._C._create_function_from_graph("forward", graph)

    back = rewind(module)

    # Inlined nodes point at the module's methods: an error of an op that is raised when the module is gone ends the process.
    def run(tensors: Sequence[Any], held: Any = module) -> Values:
        back()
        results = function(*tensors, *parameters)
        result = results[0]
        outputs = flat(result)
        if named is not None and len(named) == len(outputs) and not hasattr(result, "items"):
            outputs = dict(zip(unique(named), outputs.values(), strict=True))
        inner = {
            name: array_of(value)
            for name, value in zip(names, results[1:], strict=True)
            if isinstance(value, torch.Tensor) and value.is_floating_point() and name not in outputs
        }
        return Values(outputs, inner)

    return Graph(inputs, run, traced=traced)


def before_writes(graph: Any) -> dict[str, Any]:
    """``{value: a copy of it}``, made before an op writes into it (``relu_``), or into what it is a view of: all values are read at the end."""
    copies: dict[str, Any] = {}
    for node in list(graph.nodes()):
        if not (node.kind().startswith("aten::") and node.kind().endswith("_") and not node.kind().endswith("__")):
            continue
        value = node.inputsAt(0)
        while True:
            name, maker = value.debugName(), value.node()
            if name not in copies:
                graph.setInsertPoint(node)
                copy = graph.insertNode(graph.create("aten::clone", [value, graph.insertConstant(None)], 1))
                copy.output().setType(value.type())
                copies[name] = copy.output()
            if maker.kind() not in VIEWS:
                break
            value = maker.inputsAt(0)
    return copies


def output_names(returned: Sequence[Any]) -> list[str] | None:
    """Names of the values that a graph returns, through a tuple or list; None for another structure."""
    (output,) = returned
    node = output.node()
    if node.kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
        return [each.debugName() for each in node.inputs()]
    return [output.debugName()] if output.type().kind() == "TensorType" else None


def unique(names: Sequence[str]) -> list[str]:
    """One value may be returned twice."""
    found: list[str] = []
    for name in names:
        found.append(name if name not in found else f"{name}_{len(found)}")
    return found
