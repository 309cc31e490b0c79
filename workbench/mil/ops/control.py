"""Control flow: a branch taken by a value, and a loop."""

from __future__ import annotations

from typing import Any

from workbench.mil.registry import Blocks, Family, Tensors

control = Family("control_flow")


@control.op("cond", loose=True, moves=True)
def cond(pred: bool, blocks: Blocks) -> Any:
    """Blocks: what to do when true, what to do when false; neither takes inputs."""
    return blocks[0 if pred else 1]()


@control.op("while_loop", loose=True, moves=True)
def while_loop(loop_vars: Tensors, blocks: Blocks) -> Any:
    """Blocks: whether to go on, and one round; both take the loop's variables."""
    go_on, one_round = blocks
    values = tuple(loop_vars)
    while bool(go_on(*values)[0]):
        values = one_round(*values)
    return values
