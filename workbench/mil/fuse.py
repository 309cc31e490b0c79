"""Attention that a program writes out (matmul, scale, mask, softmax, matmul) computed by torch's one kernel.

Only where it changes nothing but rounding: in float32 or more, every intermediate read once, a softmax over the last axis. The
result is named (`Program.fused` lists the softmax ops) and can be switched off (``load(..., fuse=False)``). What only a call can
tell (heads that broadcast, a mask that makes the scores larger, a row whose mask is infinite throughout, which has no softmax: NaN,
where torch's kernel gives zeros) takes the written form.
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
from workbench.mil.ops.linear import matmul
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
    rows = key if transposed or key.dim() < 2 else key.mT
    if not _one_kernel(query, rows, value, mask):
        scores = matmul(query, key, transpose_y=transposed) * scale
        return matmul(torch.softmax(scores if mask is None else scores + mask, -1), value)
    mask = None if mask is None else mask[(None,) * (4 - mask.dim())]
    if query.dim() == 3:  # heads and batch in one axis: the kernel wants them apart
        return F.scaled_dot_product_attention(query[None], rows[None], value[None], attn_mask=mask, scale=scale)[0]
    return F.scaled_dot_product_attention(query, rows, value, attn_mask=mask, scale=scale)


def _one_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether torch's kernel means the same: nothing broadcasts but the mask, nothing is empty or mixed, every row has a softmax."""
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.dtype == key.dtype == value.dtype
    if not alike or query.dim() not in (3, 4) or 0 in (*query.shape, *key.shape):
        return False
    if mask is None:
        return True
    scores = (*query.shape[:-1], key.shape[-2])
    within = mask.dim() <= len(scores) and all(
        size in (1, whole) for size, whole in zip(mask.shape[::-1], scores[::-1], strict=False)
    )
    return within and mask.dim() > 0 and mask.dtype == query.dtype and bool(mask.amax(-1).isfinite().all())


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
    if last.type != "matmul" or _flags(last, block) != (False, False):
        return None
    softmax = _inner(last, "x", made, uses, ("softmax",))
    if softmax is None:
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
            if inner is not None and factor is not None and 1e-30 < abs(factor) < 1e30:
                scale = float(factor) if scores.type == "mul" else 1.0 / float(factor)
                scores = inner
                break
        else:
            return None
    flags = _flags(scores, block) if scores is not None and scores.type == "matmul" else (None, None)
    if scores is None or flags[0] is not False or flags[1] is None:
        return None
    gone.append(scores)
    kinds = [op.outputs[0][1] for op in (last, *gone)]
    if not all(isinstance(kind, TensorType) and kind.dtype in floats and len(kind.shape or ()) in (3, 4) for kind in kinds):
        return None
    if len({(kind.dtype, len(kind.shape)) for kind in kinds}) > 1:  # a factor or a mask of a higher rank
        return None
    if _scalar(softmax, "axis", block, -1) not in (-1, len(kinds[0].shape) - 1):
        return None
    inputs: dict[str, tuple[str | Constant, ...]] = {
        "query": scores.inputs["x"],
        "key": scores.inputs["y"],
        "value": last.inputs["y"],
        "scale": (Constant(_SCALAR, np.float64(scale)),),
        "transposed": (Constant(_FLAG, np.bool_(flags[1])),),
    }
    if mask is not None:
        inputs["mask"] = mask
    return Op(FUSED, last.name, inputs, last.outputs), gone, softmax.name


def _inner(op: Op, parameter: str, made: dict[str, Op], uses: Counter[str], types: tuple[str, ...]) -> Op | None:
    """The op behind an input, if it is of one of the types and nothing else reads it."""
    argument, *more = op.inputs.get(parameter) or (None,)
    if more or not isinstance(argument, str) or uses[argument] != 1:
        return None
    found = made.get(argument)
    return found if found is not None and found.type in types else None


def _scalar(op: Op, parameter: str, block: Block, default: Any) -> Any:
    """The one number behind an input; None where it is no constant or holds several."""
    argument, *more = op.inputs.get(parameter) or (None,)
    if argument is None or more:
        return None if more else default
    constant = argument if isinstance(argument, Constant) else block.constants.get(argument)
    if constant is None or not isinstance(constant.type, TensorType) or math.prod(constant.type.shape or ()) != 1:
        return None
    value = constant.value()
    return np.asarray(value).item() if not isinstance(value, str) else None


def _flags(op: Op, block: Block) -> tuple[bool | None, bool | None]:
    """What a matmul transposes; None where no constant says."""
    found = [_scalar(op, parameter, block, False) for parameter in ("transpose_x", "transpose_y")]
    x, y = (None if flag is None else bool(flag) for flag in found)
    return x, y
