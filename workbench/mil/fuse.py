"""Attention that a program writes out (matmul, scale, mask, softmax, matmul) computed by torch's one kernel.

Only where it changes nothing but rounding: in float32 or more, every intermediate read once, a softmax over the last axis. The
result is named (`Program.fused` lists the softmax ops) and can be switched off (``load(..., fuse=False)``). A row whose mask is
infinite throughout has no softmax (NaN), while torch's kernel gives zeros: such a call takes the written form.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from workbench.mil.graph import Block, Constant, Op
from workbench.mil.registry import Family, Tensor
from workbench.mil.types import TensorType

FUSED = "workbench.attention"
_attention = Family("")
_FLAG = TensorType("bool", ())
_SCALAR = TensorType("fp32", ())


@_attention.op(FUSED)
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float = 1.0, transposed: bool = True
) -> Tensor:
    """query [..., L, E]; key [..., S, E], or [..., E, S] where not ``transposed``; value [..., S, V]; mask added to the scores."""
    key = key if transposed else key.transpose(-1, -2)
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if not alike or (mask is not None and bool((mask.amax(-1) == -math.inf).any())):
        scores = torch.matmul(query, key.transpose(-1, -2)) * scale
        return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), value)
    if query.dim() == 3:  # heads and batch in one axis: the kernel wants them apart
        mask = mask[None] if mask is not None and mask.dim() == 3 else mask
        return F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask, scale=scale)[0]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def fuse_attention(block: Block, *, half_too: bool = False) -> tuple[Block, list[str]]:
    """(the block with attention fused, names of the softmax ops that went); the block itself when there is none.

    ``half_too``: fp16 is carried in a wider type and not rounded, so that programs declared in fp16 may be fused too.
    """
    made = {name: op for op in block.ops for name, _ in op.outputs}
    uses = Counter(name for op in block.ops for name in [*op.references(), *(n for b in op.blocks for n in b.free_names())])
    uses.update(block.outputs)
    floats = {"fp32", "fp64"} | ({"fp16"} if half_too else set())
    replaced: dict[int, Op | None] = {}
    names: list[str] = []
    for op in block.ops:
        found = _match(op, block, made, uses, floats)
        if found is not None:
            fused, gone, name = found
            replaced[id(op)] = fused
            replaced.update((id(each), None) for each in gone)
            names.append(name)
    if not names:
        return block, []
    ops = [replaced.get(id(op), op) for op in block.ops]
    return replace(block, ops=tuple(op for op in ops if op is not None)), names


def _match(last: Op, block: Block, made: dict[str, Op], uses: Counter[str], floats: set[str]) -> tuple[Op, list[Op], str] | None:
    """``last`` as the second matmul of an attention: (the fused op, the ops it replaces, the softmax's name)."""
    if last.type != "matmul" or _flag(last, "transpose_x", block) or _flag(last, "transpose_y", block):
        return None
    softmax = _inner(last, "x", made, uses, ("softmax",))
    if softmax is None:
        return None
    kind = softmax.outputs[0][1]
    if kind.dtype not in floats or kind.shape is None or len(kind.shape) not in (3, 4):
        return None
    axis = _scalar(softmax, "axis", block, -1)
    if axis not in (-1, len(kind.shape) - 1):
        return None
    gone, mask, scale = [softmax], None, 1.0
    scores = _inner(softmax, "x", made, uses, ("add", "mul", "real_div", "matmul"))
    if scores is not None and scores.type == "add":
        gone.append(scores)
        for side, other in (("x", "y"), ("y", "x")):
            inner = _inner(scores, side, made, uses, ("mul", "real_div", "matmul"))
            if inner is not None:
                mask, scores = scores.inputs[other], inner
                break
        else:
            return None
    if scores is not None and scores.type in ("mul", "real_div"):
        gone.append(scores)
        sides = (("x", "y"), ("y", "x")) if scores.type == "mul" else (("x", "y"),)
        for side, other in sides:
            inner, factor = _inner(scores, side, made, uses, ("matmul",)), _scalar(scores, other, block, None)
            if inner is not None and factor:
                scale = float(factor) if scores.type == "mul" else 1.0 / float(factor)
                scores = inner
                break
        else:
            return None
    if scores is None or scores.type != "matmul" or _flag(scores, "transpose_x", block):
        return None
    gone.append(scores)
    inputs: dict[str, tuple[str | Constant, ...]] = {
        "query": scores.inputs["x"],
        "key": scores.inputs["y"],
        "value": last.inputs["y"],
        "scale": (Constant(_SCALAR, np.float64(scale)),),
        "transposed": (Constant(_FLAG, np.bool_(_flag(scores, "transpose_y", block))),),
    }
    if mask is not None:
        inputs["mask"] = mask
    return Op(FUSED, last.name, inputs, last.outputs), gone, softmax.name


def _inner(op: Op, parameter: str, made: dict[str, Op], uses: Counter[str], types: tuple[str, ...]) -> Op | None:
    """The op behind an input, if it is of one of the types and nothing else reads it."""
    (argument,) = op.inputs.get(parameter, (None,))
    if not isinstance(argument, str) or uses[argument] != 1:
        return None
    found = made.get(argument)
    return found if found is not None and found.type in types else None


def _scalar(op: Op, parameter: str, block: Block, default: Any) -> Any:
    """The one number behind an input; None where it is no constant or holds several."""
    (argument,) = op.inputs.get(parameter, (None,))
    if argument is None:
        return default
    constant = argument if isinstance(argument, Constant) else block.constants.get(argument)
    if constant is None or not isinstance(constant.type, TensorType) or math.prod(constant.type.shape or ()) != 1:
        return None
    value = constant.value()
    return np.asarray(value).item() if not isinstance(value, str) else None


def _flag(op: Op, parameter: str, block: Block) -> bool:
    """A constant flag; what is not constant counts as set, so that nothing is fused."""
    found = _scalar(op, parameter, block, False)
    return True if found is None else bool(found)
