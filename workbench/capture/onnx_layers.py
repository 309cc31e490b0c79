"""The graph of an ONNX file, for ``stage_graph``.

    read_graph(Path("prefill.onnx")).order["add_14"]       # its place in the graph

Its weights stay on the disk, so their size does not matter.
"""

from __future__ import annotations

from pathlib import Path

from workbench.backends.onnx_file import read
from workbench.capture.stage_graph import Op, StageGraph, graph_of
from workbench.models.onnx_values import free_names, value_types


def read_graph(path: Path, function: str | None = None) -> StageGraph:
    """Raises ModelError for a file that is no ONNX graph, RuntimeMissing without onnx. ``function`` is Core ML's: a graph has none."""
    file = read(path)
    types = value_types(file.model)
    ops = [
        Op(
            tuple(name for name in node.input if name),
            tuple((name, types.get(name)) for name in node.output if name),
            tuple(free_names(node)),
        )
        for node in file.model.graph.node
    ]
    return graph_of(ops, {spec.name: types.get(spec.name) for spec in file.inputs})
