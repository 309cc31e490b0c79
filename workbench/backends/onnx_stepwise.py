"""A float16 or bfloat16 graph as it is written: every op computed in float32 and its result rounded to the type the graph says.

    lowered = stepwise(read("step.onnx"))
    lowered.model            # onnx.ModelProto of float32 values; a pair of casts rounds after each op that computes
    lowered.rounded          # {"linear_3": "float16", ...}

Why it is needed. ONNX Runtime's CPU has float16 kernels for few ops and bfloat16 kernels for fewer. Around the others it puts casts of
its own to float32, and then takes away each pair that goes to float16 and back (microsoft/onnxruntime, core/optimizer/
insert_cast_transformer.cc): whole chains are then computed in float32 and rounded once, at every optimisation level, which flatters a
float16 graph; even a cast of the graph's own goes where one of those stands next to it. Where nothing is put in, as here, each cast
stays. Computing one op in float32 and rounding its result is what torch does
on a CPU, and tensor cores with float32 accumulation do no less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.backends import onnx_checks, onnx_external
from workbench.backends.onnx_file import OnnxFile, import_onnx
from workbench.errors import ModelError

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
"""Members of ``onnx.TensorProto.DataType``."""
LOW = {FLOAT16: "float16", BFLOAT16: "bfloat16"}
TYPED = ("to", "dtype", "output_dtype", "stash_type", "output_datatype", "softmax_precision", "precision")
"""Attributes that name an element type."""
_MOVES = (
    "Identity Reshape Transpose Slice Concat Gather GatherElements GatherND Split Squeeze Unsqueeze Expand Tile Flatten Pad Where "
    "Max Min Relu Neg Abs Sign Floor Ceil ReduceMax ReduceMin MaxPool GlobalMaxPool DepthToSpace SpaceToDepth Compress TopK Trilu "
    "ReverseSequence OneHot Constant ConstantOfShape If Loop Scan Clip"
)
MOVES = frozenset(_MOVES.split())
"""Ops whose results are among the values they were given, or are so small in number of bits that nothing is to be rounded."""


@dataclass
class Stepwise:
    """``constants``: weights in float32 that the model names and does not hold. ``inputs``, ``rounded``: what is of a low type, by name."""

    model: Any
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)


def round_to(array: np.ndarray, kind: str) -> np.ndarray:
    """float32 values on the grid of ``float16`` or ``bfloat16``, to nearest, ties to even; beyond the end infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "float16":
            return array.astype(np.float16).astype(np.float32)
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def stepwise(file: OnnxFile, *, inside: bool = False) -> Stepwise:
    """``inside``: weights are put into the model, for an executor that takes no others. Raises ModelError where types cannot be told."""
    onnx = import_onnx()
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    try:
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{file.path.name}: its types cannot be told", why=str(error)[:300], fix="export it again") from error
    made = Stepwise(model)
    made.inputs = {
        each.name: LOW[each.type.tensor_type.elem_type] for each in model.graph.input if each.type.tensor_type.elem_type in LOW
    }
    _lower(made, file, model.graph, typed.graph, {}, inside)
    return made


def _types(graph: Any, typed: Any, outer: Mapping[str, int]) -> dict[str, int]:
    found = dict(outer)
    found.update((each.name, each.data_type) for each in graph.initializer)
    for each in (*typed.input, *typed.value_info, *typed.output):
        if each.type.HasField("tensor_type"):
            found[each.name] = each.type.tensor_type.elem_type
    return found


def _lower(made: Stepwise, file: OnnxFile, graph: Any, typed: Any, outer: Mapping[str, int], inside: bool) -> None:
    types = _types(graph, typed, outer)
    top = graph is made.model.graph
    for tensor in graph.initializer:
        if tensor.data_type in LOW:
            _widen_constant(made, file, tensor, given=top and not inside)
        elif onnx_external.is_external(tensor) and (inside or not top):
            tensor.CopyFrom(_inside(file.array(tensor), tensor.name))
    for each in (*graph.input, *graph.output):
        if each.type.tensor_type.elem_type in LOW:
            each.type.tensor_type.elem_type = FLOAT
    del graph.value_info[:]
    nodes = []
    for node, inferred in zip(list(graph.node), list(typed.node), strict=True):
        for inner, inner_typed in zip(onnx_checks.inner_graphs(node), onnx_checks.inner_graphs(inferred), strict=True):
            _lower(made, file, inner, inner_typed, types, inside)
        nodes += _lowered(made, file, node, types)
    del graph.node[:]
    graph.node.extend(nodes)


def _lowered(made: Stepwise, file: OnnxFile, node: Any, types: Mapping[str, int]) -> Iterator[Any]:
    """The nodes in the place of one."""
    for attribute in node.attribute:
        if attribute.name in TYPED and attribute.i in LOW and node.op_type != "Cast":
            attribute.i = FLOAT
        for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
            if tensor.data_type in LOW or onnx_external.is_external(tensor):
                array = file.array(tensor)
                tensor.CopyFrom(_inside(array.astype(np.float32) if tensor.data_type in LOW else array, tensor.name))
    domain = onnx_checks.domain_of(node)
    if domain == "" and node.op_type in ("Cast", "CastLike"):
        kind = types.get(node.output[0]) if node.op_type == "CastLike" else next(a.i for a in node.attribute if a.name == "to")
        if kind in LOW:
            made.rounded[node.output[0]] = LOW[kind]
            yield from _rounding(node.name or f"{node.output[0]}//round", node.input[0], node.output[0], kind)
        else:
            yield node
        return
    moves = domain == "" and node.op_type in MOVES
    after: list[Any] = []
    for index, name in enumerate(node.output):
        if not name:
            continue
        if name not in types and file.low and not (moves and any(onnx_checks.inner_graphs(node))):
            raise ModelError(
                f"{file.path.name}: the type of {name!r} cannot be told",
                why=f"it is computed by {onnx_checks.title(node)}, and ONNX's shape inference does not say what comes of it",
                fix="?reading=optimised; a conversion: --precision fp32, or that line of the model with other ops",
            )
        kind = types.get(name)
        if kind in LOW:
            made.rounded[name] = LOW[kind]
            if not moves:
                node.output[index] = f"{name}//exact"
                after += _rounding(f"{name}//round", f"{name}//exact", name, kind)
    yield node
    yield from after


def _rounding(title: str, source: str, target: str, kind: int) -> list[Any]:
    from onnx import helper

    low = f"{target}//{LOW[kind]}"
    return [
        helper.make_node("Cast", [source], [low], name=title, to=kind),
        helper.make_node("Cast", [low], [target], name=f"{title}//back", to=FLOAT),
    ]


def _widen_constant(made: Stepwise, file: OnnxFile, tensor: Any, *, given: bool) -> None:
    wide = file.array(tensor).astype(np.float32)
    if not given:
        tensor.CopyFrom(_inside(wide, tensor.name))
        return
    made.constants[tensor.name] = wide
    stub = type(tensor)(name=tensor.name, data_type=FLOAT, dims=tensor.dims, data_location=1)
    entry = stub.external_data.add()
    entry.key, entry.value = "location", "given"
    tensor.CopyFrom(stub)


def _inside(array: np.ndarray, name: str) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(array, order="C"), name)
