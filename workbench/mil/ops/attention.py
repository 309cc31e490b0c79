"""Attention as one op."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from workbench.mil.ops.linear import arithmetic
from workbench.mil.registry import Family, Tensor

transformers = Family("transformers")


@transformers.op("scaled_dot_product_attention", since="iOS18")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """query [..., L, E], key [..., S, E], value [..., S, V]; the mask [..., L or 1, S] is added, or, where bool, tells what takes part.

    A row without anything that takes part has no softmax: NaN by the op's formula and its value_inference, zeros by torch's kernels, so
    such a call is computed by the formula.
    """
    dtype = arithmetic(query)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        dtype = torch.promote_types(dtype, attn_mask.dtype)  # float32's lowest number must not become -inf in fp16
        attn_mask = attn_mask.to(dtype)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attn_mask is not None:
        attn_mask = attn_mask if attn_mask.dim() > 1 else attn_mask[None]
        if _shuts_a_row(attn_mask):
            return _by_formula(query, key, value, attn_mask)
        if attn_mask.dim() == 3 and query.dim() < 5:
            attn_mask = attn_mask[None]
    if query.dim() != 3:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
    # The fast kernels want a batch and heads; the batch serves as heads.
    return F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=attn_mask)[0]


def _shuts_a_row(mask: Tensor) -> bool:
    shut = ~mask.any(-1) if mask.dtype == torch.bool else mask.amax(-1) == -math.inf
    return bool(shut.any())


def _by_formula(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    scores = torch.matmul(query, key.mT) / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.matmul(torch.softmax(scores, -1), value)
