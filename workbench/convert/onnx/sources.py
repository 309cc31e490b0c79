"""Which torch parameter each weight of an exported graph is, and names after it.

    sources = name_weights(model, exported, origins)
    sources["text.layers.0.q_proj.weight.transposed"]     # Source("text.layers.0.q_proj.weight", "transposed")

The exporter folds what depends on no input: a linear layer's weight is stored transposed, under a number. A weight is recognised by the
parameters that its node reads and by its values, so a name is never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir
    import torch

SMALLEST = 64
"""Elements; constants of fewer (scales, axes, shapes) are not followed."""


@dataclass(frozen=True)
class Source:
    """``parameter``: its path in the stage's module; ``how``: ``as it is``, ``transposed`` or ``reshaped``."""

    parameter: str
    how: str


def name_weights(
    model: onnx_ir.Model, exported: torch.export.ExportedProgram, origins: Mapping[str, Mapping[str, Any]]
) -> dict[str, Source]:
    """Name every folded weight after its parameter, in place; returns the sources of all that are recognised, by their names."""
    held = tensors_of(exported)
    nodes = {node.name: node for node in exported.graph_module.graph.nodes}
    found: dict[str, Source] = {}
    for name, value in [*model.graph.initializers.items()]:
        if name in held:
            found[name] = Source(name, "as it is")
            continue
        tensor = value.const_value
        if tensor is None or tensor.size < SMALLEST or not tensor.dtype.is_floating_point():
            continue
        source = next((each for path in _read_by(value, exported, nodes, origins) if (each := _same(tensor, path, held))), None)
        if source is None:
            continue
        suffix = "transposed" if source.how == "transposed" else "reshaped"
        wanted, number = f"{source.parameter}.{suffix}", 1
        while wanted in model.graph.initializers:
            number += 1
            wanted = f"{source.parameter}.{suffix}_{number}"
        rename(model, value, wanted)
        found[wanted] = source
    return found


def rename(model: onnx_ir.Model, value: Any, name: str) -> None:
    """Name an initializer and its tensor."""
    del model.graph.initializers[value.name]
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    model.graph.initializers[name] = value


def tensors_of(exported: torch.export.ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and constants by path."""
    return {**dict(exported.constants), **dict(exported.state_dict)}


def _read_by(value: Any, exported: Any, nodes: Mapping[str, Any], origins: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paths of the tensors that the torch nodes behind a weight's readers were given, directly or through one node that was folded."""
    signature = exported.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    found: list[str] = []
    for reader in value.consumers():
        origin = origins.get(reader.outputs[0].name)
        waiting = [nodes[origin["node"]]] if origin and origin["node"] in nodes else []
        for depth in range(4):
            nexts = [given for node in waiting for given in node.all_input_nodes if given.op == "placeholder" or depth < 3]
            found += [inputs[node.name] for node in nexts if node.name in inputs]
            waiting = [node for node in nexts if node.op == "call_function"]
    return list(dict.fromkeys(found))


def _same(tensor: Any, path: str, held: Mapping[str, Any]) -> Source | None:
    import numpy

    from workbench.models.seen import as_array

    original = held.get(path)
    if original is None or original.numel() != tensor.size:
        return None
    ours, theirs = tensor.numpy(), as_array(original.detach())
    if ours.dtype != theirs.dtype:
        return None
    if theirs.ndim > 1 and ours.shape == theirs.swapaxes(-1, -2).shape and numpy.array_equal(ours, theirs.swapaxes(-1, -2)):
        return Source(path, "transposed")
    if numpy.array_equal(ours.ravel(), theirs.ravel()):
        return Source(path, "as it is" if ours.shape == theirs.shape else "reshaped")
    return None
