"""Attention for packed training on a CPU: two matrix products and one softmax, all in the inputs' precision.

transformers' eager attention converts the scores to float32 and back, and torch's fused CPU kernel is slow backwards;
in bfloat16 this plain form took 2 to 17 % off a training step.  It is used in training only.
"""

import torch


def packed_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **unused):
    """(n, heads, t, d) tensors and an additive mask (n, 1, t, t) -> (n, t, heads, d) and no weights."""
    batch, heads, length, size = query.shape
    with torch.autocast(query.device.type, enabled=False):
        query = (query * scaling).to(value.dtype).reshape(batch * heads, length, size)
        key = key.to(value.dtype).reshape(batch * heads, length, size).transpose(1, 2)
        if attention_mask is None:
            scores = torch.bmm(query, key)
        else:
            mask = attention_mask.to(value.dtype).expand(batch, heads, length, length)
            scores = torch.baddbmm(mask.reshape(batch * heads, length, length), query, key)
        weights = torch.softmax(scores, dim=-1)
        output = torch.bmm(weights, value.reshape(batch * heads, length, size))
    return output.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the function known to transformers; returns the name for ``attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("packed", packed_attention)
    AttentionMaskInterface.register("packed", eager_mask)
    return "packed"
