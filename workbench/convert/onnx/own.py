"""torch's own error in a type: the yardstick of a typed graph, by output and by layer.

    own_errors(stage, feeds, expected, "fp16")          # {"logits": TensorError(...)}, None
    with watched(stage.module, stage.layers) as seen:   # {"text.block.0": array} after a call

The copy's parameters are in the type, and so are its buffers, but for those that are no part of a checkpoint (rotary frequencies):
transformers leaves them in fp32 when it loads a model in fp16.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from workbench.convert.stages.stage import Stage
from workbench.metrics.tensors import TensorError, tensor_error

TYPES = {"fp32": "float64", "fp16": "float16", "bf16": "bfloat16"}
"""By precision, the type that torch's copy is in: torch's error in fp32 is its distance from fp64."""


def copies(module: Any, precision: str) -> Iterator[Any]:
    """Copies of a module in the type, the one that users get first; the second has every buffer in it too."""
    import torch

    kind = getattr(torch, TYPES[precision])
    if precision == "fp32":
        yield copy.deepcopy(module).to(kind)
        return
    made = copy.deepcopy(module)
    for part in made.modules():
        for name, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is not None and value.is_floating_point() and name not in part._non_persistent_buffers_set:
                value.data = value.data.to(kind)
    yield made
    yield copy.deepcopy(module).to(kind)


def own_errors(
    stage: Stage, feeds: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], precision: str
) -> tuple[dict[str, TensorError], str | None]:
    """(by output, torch's error in the type pooled over the feeds; None or why torch has none). ``expected``: its outputs in fp32."""
    why = "it made no copy"
    for module in copies(stage.module, precision):
        try:
            found: dict[str, TensorError] = {}
            for feed, right in zip(feeds, expected, strict=True):
                for name, value in run(stage, module, feed, precision).items():
                    pair = (value, right[name]) if precision == "fp32" else (right[name], value)
                    found[name] = found.get(name, TensorError()) + tensor_error(*pair)
            return found, None
        except Exception as error:  # whatever torch and the model's code raise where a kernel or a type is missing
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
    return {}, why


def run(stage: Stage, module: Any, feed: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The outputs of ``module``, a copy of the stage's in the type, as float64 arrays; whole numbers as they are."""
    import numpy
    import torch

    kind = getattr(torch, TYPES[precision])
    inputs = [torch.from_numpy(numpy.asarray(feed[name], order="C")) for name in stage.example]
    with torch.no_grad():
        made = module(*(value.to(kind) if value.is_floating_point() else value for value in inputs))
    values = torch.utils._pytree.tree_leaves(made)
    return {name: plain(value) for name, value in zip(stage.outputs, values, strict=True)}


def plain(value: Any) -> Any:
    """A torch tensor as an array that numpy can compute with."""
    return value.double().numpy() if value.is_floating_point() else value.numpy()


@contextmanager
def watched(module: Any, layers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What each layer's module returned in the calls inside; the last call of each, in the order in which they ended."""
    import torch

    seen: dict[str, Any] = {}

    def keeping(layer: str) -> Any:
        def keep(_: Any, __: Any, result: Any) -> None:
            first = next((each for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, torch.Tensor)), None)
            if first is not None:
                seen.pop(layer, None)
                seen[layer] = plain(first.detach())

        return keep

    parts = dict(module.named_modules())
    handles = [parts[path].register_forward_hook(keeping(layer)) for path, layer in layers.items() if path in parts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
