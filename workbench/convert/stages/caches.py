"""What transformers' attention layers are given as a cache while a stage runs: plain tensors in, plain tensors out.

    own = Written(keys, values, here)          # a step: all places, of which ``here`` is written
    decoder(..., past_key_values=own)
    own.written()                              # (layers, heads, places, head size) twice

transformers asks of a cache ``update(keys, values, layer)`` and ``get_seq_length()``, and lets a mask of four dimensions pass as it is
(``masking_utils._preprocess_mask_arguments`` of transformers 5.23), so the whole bookkeeping can be the caller's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers.cache_utils import EncoderDecoderCache


class Handed:
    """For a prefill: hands every layer its own keys and values back and keeps them."""

    is_compileable = False

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.values: list[Any] = []

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.keys.append(keys)
        self.values.append(values)
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def written(self) -> tuple[Any, Any]:
        """Keys and values of all layers, each (layers, heads, tokens, head size)."""
        return torch.cat(self.keys), torch.cat(self.values)


class Written(Handed):
    """For a step: ``keys`` and ``values`` (layers, heads, places, head size) with the new token's at ``here`` (1, 1, places, 1), a boolean
    that is true at one place. Nothing grows, so that shapes are static."""

    def __init__(self, keys: Any, values: Any, here: Any) -> None:
        super().__init__()
        self.held, self.here = (keys, values), here

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        old_keys, old_values = (each[layer : layer + 1].to(keys.dtype) for each in self.held)
        return super().update(torch.where(self.here, keys, old_keys), torch.where(self.here, values, old_values), layer)


class WithCross(EncoderDecoderCache):
    """``own`` for a decoder's self-attention, and keys and values over what the encoder put out, computed before: (layers, heads, frames,
    head size) each."""

    is_compileable = False

    def __init__(self, own: Written, cross_keys: Any, cross_values: Any) -> None:
        layers = cross_keys.shape[0]
        parts = [SimpleNamespace(keys=cross_keys[at : at + 1], values=cross_values[at : at + 1]) for at in range(layers)]
        self.self_attention_cache = own
        self.cross_attention_cache = SimpleNamespace(layers=parts)
        self.is_updated = dict.fromkeys(range(layers), True)

    # The mask code looks for the first layer of full attention; a mask of four dimensions passes whatever it finds.
    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self.is_updated)

    is_linear = is_dummy = is_sliding

    def get_seq_length(self, *_: Any) -> int:
        return 0


def place_of(positions: Any, size: int) -> Any:
    """Boolean (1, 1, size, 1), true at the one place that ``positions`` int32 (1, 1) names."""
    return torch.arange(size, dtype=torch.int32).reshape(1, 1, size, 1) == positions.reshape(1, 1, 1, 1)
