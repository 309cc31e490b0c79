"""One stage as an ONNX graph in float32, written by torch's exporter, with the origin of every value.

    graph = graph_of(stage, opset=20)
    graph.model.graph                              # onnx_ir, in memory
    graph.origins["linear_3"]                      # {"op": "Add", "node": "linear_3", "module": "layers.1.q_proj", "line": "modeling_llama.py:278", "result": True}
    graph.layers["text.block.1"]                   # "add_14"

A value is called as the torch node is that it is the result of, a weight as the parameter (``.transposed`` where the exporter stores it so).
Inputs and outputs are float32 and int32, as on every other runtime.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.origins import layers_of
from workbench.convert.onnx import repairs
from workbench.convert.onnx.recipe import NEWEST_OPSET, OLDEST_OPSET
from workbench.convert.onnx.saving import set_ranges
from workbench.convert.onnx.sources import Source, name_weights
from workbench.convert.stages.exporting import export, module_path, quiet, source_line
from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError, RuntimeMissing, UsageError

if TYPE_CHECKING:
    import onnx_ir
    import torch

_FX_NODE = re.compile(r"%(\S+) :")
_TARGET = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
FX_NODE = "pkg.torch.onnx.fx_node"
"""Where the exporter notes the torch node of each ONNX node (torch 2.13, torch/onnx/_internal/exporter/_core.py)."""


@dataclass
class StageGraph:
    """``model``: float32, in memory. ``exported``: the torch graph that the exporter translated. ``origins``: value -> {op, node, module,
    line, result}. ``layers``: the project's layer -> value. ``sources``: weight -> the torch parameter it is."""

    stage: Stage
    model: onnx_ir.Model
    exported: torch.export.ExportedProgram
    origins: dict[str, dict[str, Any]]
    layers: dict[str, str]
    sources: dict[str, Source] = field(default_factory=dict)


def graph_of(stage: Stage, opset: int) -> StageGraph:
    """Export ``stage``. Raises UsageError (names, types, sizes without bounds, an operator set that is not known here), ModelError naming
    the op that has no ONNX translation and the line of the model it came from, RuntimeMissing where torch or onnx is not installed."""
    require()
    check_opset(opset)
    check_stage(stage)
    exported = export(stage)
    model, decomposed = _translated(stage, exported, opset)
    repairs.name_sizes(model, stage.dynamic)
    repairs.settle_outputs(model, stage.outputs)
    repairs.settle_types(model)
    repairs.settle_names(model)
    origins = origins_of(model, decomposed)
    sources = name_weights(model, decomposed, origins)
    layers = layers_of(decomposed, origins, stage.layers)
    if "logits" in stage.outputs:  # a language model's outputs are a layer of every report
        layers["logits"] = "logits"
    set_ranges(model, ranges_of(stage))
    return StageGraph(stage, model, decomposed, origins, layers, sources)


def ranges_of(stage: Stage) -> dict[str, tuple[int, int, int]]:
    """Size -> (least, typical, most): typical is what the example has."""
    found = {}
    for name, (low, high) in stage.bounds.items():
        axes = [(array, axis) for array, axes in stage.dynamic.items() for axis, size in axes.items() if size == name]
        held = int(stage.example[axes[0][0]].shape[axes[0][1]]) if axes else low
        found[name] = (low, min(max(low, held), high), high)
    return found


def require() -> None:
    """Raises RuntimeMissing where nothing can be converted."""
    from importlib.util import find_spec

    for name in ("torch", "onnx", "onnxscript", "onnx_ir"):
        if find_spec(name) is None:
            raise RuntimeMissing(
                "ONNX graphs are not written here",
                why=f"{name} is not installed",
                fix="pip install 'parity-workbench[torch,onnx]', or convert elsewhere and copy the folder",
            )


def check_opset(opset: int) -> None:
    """Raises UsageError for an operator set that the installed onnx does not know."""
    import onnx

    newest = min(NEWEST_OPSET, onnx.defs.onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(
            f"operator set {opset} is not written",
            why=f"torch's exporter and onnx {onnx.__version__} know {OLDEST_OPSET} to {newest}",
            fix="--opset 20",
        )


def check_stage(stage: Stage) -> None:
    """Raises UsageError for states, which ONNX has none of, and for inputs of other types than every runtime takes."""
    import torch

    if stage.states:
        raise UsageError(
            f"stage {stage.name!r} keeps the states {', '.join(stage.states)}",
            why="an ONNX graph keeps nothing from call to call",
            fix="give them as inputs, and return their new values as outputs",
        )
    fixes = {"torch.int64": "torch.int32", "torch.bool": "torch.int32 and compare inside", "torch.float64": "torch.float32"}
    for name, value in stage.example.items():
        if isinstance(value, torch.Tensor) and value.dtype not in (torch.float32, torch.int32):
            raise UsageError(
                f"input {name!r} is {value.dtype}",
                why="inputs are float32 and int32, whatever a graph computes in",
                fix=f"give it as {fixes.get(str(value.dtype), 'torch.float32')}",
            )


def origins_of(model: onnx_ir.Model, exported: torch.export.ExportedProgram) -> dict[str, dict[str, Any]]:
    """``{value: {op, node, module, line, result}}`` for every node's outputs; ``result``: the value is what the torch node gives, not a
    step on the way to it, and is called as that node. A node that the optimiser put in has the origin of what it is computed from."""
    nodes = {node.name: node for node in exported.graph_module.graph.nodes}
    found: dict[str, dict[str, Any]] = {}
    last: dict[str, Any] = {}
    for made in model.graph:
        told = _FX_NODE.match(made.metadata_props.get(FX_NODE, ""))
        node = nodes.get(told.group(1)) if told else None
        if node is None:
            given = next((found[value.name] for value in made.inputs if value is not None and value.name in found), None)
            node = nodes.get(given["node"]) if given else None
        for output in made.outputs:
            found[output.name] = {
                "op": made.op_type,
                "node": node.name if node is not None else "",
                "module": module_path(node) if node is not None else "",
                "line": source_line(node.meta.get("stack_trace")) if node is not None else None,
                "result": False,
            }
        if node is not None and told and _same_shape(made.outputs[0], node):
            last[node.name] = made.outputs[0]
    taken = {*found, *model.graph.initializers, *(value.name for value in model.graph.inputs)}
    for name, value in last.items():
        found[value.name]["result"] = True
        if name not in taken and not value.is_graph_output():
            found[name] = found.pop(value.name)
            value.name = name
    return found


def _translated(stage: Stage, exported: Any, opset: int) -> tuple[Any, Any]:
    """(the ONNX model, the torch graph that its nodes are named after)."""
    import torch

    try:
        with quiet("onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                exported,
                input_names=list(stage.example),
                output_names=list(stage.outputs),
                opset_version=opset,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the translation of one op raises
        raise _untranslated(stage, error) from error
    written = program.model.opset_imports.get("")
    if written != opset:
        raise ModelError(
            f"stage {stage.name!r} cannot be written in operator set {opset}",
            why=f"an op of it could not be brought there from operator set {written}",
            fix=f"--opset {written}",
        )
    return program.model, program.exported_program


def _untranslated(stage: Stage, error: Exception) -> ModelError:
    """The op at which the exporter stopped, and the line of the model it came from."""
    node, said, kind = None, "", None
    each: BaseException | None = error
    while each is not None:
        for frame, _ in traceback.walk_tb(each.__traceback__):
            held = frame.f_locals.get("node")
            if getattr(held, "op", None) == "call_function":
                node = held
        said = " ".join(str(each).split()) or type(each).__name__
        told = _TARGET.search(said)
        kind = told.group(1) if told else kind
        each = each.__cause__ or each.__context__
    if node is None:
        return ModelError(f"torch cannot write stage {stage.name!r} as ONNX", why=said[:400])
    line, path = source_line(node.meta.get("stack_trace")), module_path(node)
    where = (f", which comes from {line}" if line else "") + (f" (module {path})" if path else "")
    return ModelError(
        f"the op {kind or str(node.target)!r} of stage {stage.name!r} has no translation to ONNX{where}",
        why="torch's exporter knows no ONNX ops for it" if kind else said[:400],
        fix="write that line with other torch ops",
    )


def _same_shape(output: Any, node: Any) -> bool:
    """Has the ONNX value the shape of the torch node's, as far as both are known?"""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    shape = getattr(value, "shape", None)
    if shape is None or output.shape is None:
        return shape is None
    if len(shape) != len(output.shape):
        return False
    return all(a == b for a, b in zip(shape, output.shape, strict=True) if isinstance(a, int) and isinstance(b, int))
