"""The graph of one function of a Core ML package, for ``stage_graph``.

read_graph(Path("decoder.mlpackage"), "step").order["add_14"]      # its place in the program
"""

from __future__ import annotations

from pathlib import Path

from workbench.capture.readings import told
from workbench.capture.stage_graph import Op, StageGraph, graph_of


def read_graph(path: Path, function: str | None) -> StageGraph:
    """``function`` None: ``main``, else the first. Raises UsageError for a package that cannot be read."""
    with told():
        from workbench.mil.graph import read_functions
        from workbench.mil.package import read_package

        functions = read_functions(read_package(path))
    found = functions[function or ("main" if "main" in functions else next(iter(functions)))]
    ops = [
        Op(
            tuple(op.references()),
            tuple((name, getattr(kind, "dtype", None)) for name, kind in op.outputs),
            tuple(name for block in op.blocks for name in block.free_names()),
        )
        for op in found.block.ops
    ]
    return graph_of(ops, {name: getattr(getattr(kind, "wrapped", kind), "dtype", None) for name, kind in found.inputs})
