"""The graph of a converted stage as layers are looked up in it: which op reads what, in order, whatever kind of file it is.

    graph = stage_graph(stage)                    # of a .mlpackage by coreml_layers, of a .onnx by onnx_layers
    graph.order["add_14"]                         # its place among the values that depend on an input

Only the graph is read, no weight and no runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workbench.models.converted import ConvertedStage

HALF = ("fp16", "bf16")


@dataclass(frozen=True)
class Op:
    """``reads``: names in the op's own order; ``inner``: what its nested blocks read from outside; ``results``: (name, type) pairs, types as
    Core ML names them (``fp16``) or None."""

    reads: tuple[str, ...]
    results: tuple[tuple[str, str | None], ...]
    inner: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageGraph:
    """``ops`` in order of execution; ``order``: values that depend on an input, with their place; ``half``: those of them that are in 16 bits,
    or are computed from what is."""

    ops: tuple[Op, ...]
    order: Mapping[str, int] = field(default_factory=dict)
    half: frozenset[str] = frozenset()


def graph_of(ops: Iterable[Op], inputs: Mapping[str, str | None]) -> StageGraph:
    """``inputs``: name -> type; constants are left out of ``order``."""
    ops = tuple(ops)
    live = set(inputs)
    half = {name for name, kind in inputs.items() if kind in HALF}
    order: dict[str, int] = {}
    for op in ops:
        read = {*op.reads, *op.inner}
        if not live & read:
            continue
        for name, kind in op.results:
            live.add(name)
            order[name] = len(order)
            if half & read or kind in HALF:
                half.add(name)
    return StageGraph(ops, order, frozenset(half))


def stage_graph(stage: ConvertedStage) -> StageGraph:
    """Raises ModelError for a file that cannot be read."""
    if stage.path.suffix == ".onnx":
        from workbench.capture.onnx_layers import read_graph
    else:
        from workbench.capture.coreml_layers import read_graph
    return read_graph(stage.path, stage.function)
