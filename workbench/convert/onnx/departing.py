"""Which value of an fp32 ONNX graph is the first that torch does not compute: op by op, by the exported graph that both came from.

    first_value(stage, Path("step.onnx"), feed, graph.exported, graph.origins)      # "mul_9": an attention scale is off

Layers tell where to look in a model; this tells the line. In fp32 alone: in the low types every op is off by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.convert.stages.stage import Stage
from workbench.metrics.tensors import tensor_error

LIMIT = 1e-5
"""Relative RMS beyond which a value is another: some 170 units of rounding."""


def first_value(
    stage: Stage, path: Path, feed: Mapping[str, Any], exported: Any, origins: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """The first value, in the graph's order, that is further from its torch node's than rounding explains; None where there is none.

    ``exported``: the ``torch.export`` graph that the ONNX graph was translated from; ``origins``: value -> its torch ``node``, and whether
    it is that node's ``result``.
    """
    import numpy

    from workbench.backends.onnx import open_reference
    from workbench.backends.onnx_file import read

    right, there = node_values(stage, feed, exported), read(path).values
    program = open_reference(path, {})
    try:
        names = [name for name, row in origins.items() if row.get("result") and row["node"] in right and name in there]
        _, seen = program.observe(dict(feed), names)
    finally:
        program.close()
    for name in names:
        expected, given = right[origins[name]["node"]], numpy.asarray(seen[name])
        if expected.size != given.size or given.dtype.kind != "f":
            continue
        error = tensor_error(expected, given)
        if error.one_sided or error.relative_rms > LIMIT:
            return name
    return None


def node_values(stage: Stage, feed: Mapping[str, Any], exported: Any) -> dict[str, Any]:
    """What every node of an exported graph computes for one call, as float64 arrays; of whole numbers nothing."""
    import numpy
    import torch

    from workbench.convert.onnx.own import plain

    found: dict[str, Any] = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            made = super().run_node(n)
            if n.op == "call_function" and isinstance(made, torch.Tensor) and made.is_floating_point():
                found[n.name] = plain(made.detach())
            return made

    inputs = [torch.from_numpy(numpy.asarray(feed[name], order="C")) for name in stage.example]
    with torch.no_grad():
        Watching(exported.module()).run(*inputs)
    return found
