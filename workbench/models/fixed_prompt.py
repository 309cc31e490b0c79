"""A prefill whose prompt has one length: shorter prompts are padded behind, and what it gives is cut back.

    program = FixedPrompt(program, 512)
    program(arrays)["logits"].shape              # (1, 7, vocabulary), for the 7 tokens in arrays

A causal mask lets no token see those behind it, so padding changes no row of the prompt (up to rounding). Engines that are built for one
shape are made so: ``workbench convert MODEL --to tensorrt --dynamic none``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import ModelError
from workbench.models.masks import causal

ROWS = {"logits": 1, "new_keys": 2, "new_values": 2}
"""By output, the axis of the prompt's tokens."""


class FixedPrompt:
    """``program`` takes ``length`` tokens; all else is the program's own."""

    def __init__(self, program: Any, length: int):
        self.program, self.length = program, length

    def __call__(self, arrays: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        tokens = arrays["tokens"].shape[1]
        found = self.program(padded(arrays, self.length), state)
        return {
            name: value[(slice(None),) * ROWS[name] + (slice(tokens),)] if name in ROWS else value for name, value in found.items()
        }

    def observe(self, arrays: Mapping[str, Any], values: Sequence[str], state: Any = None) -> Any:
        """Raises ModelError: an inner value does not say which of its axes is padded."""
        raise ModelError(
            "the layers of a prompt of fixed length are not recorded",
            why=f"it is padded to {self.length:,} tokens, and so is every layer",
            fix="convert with --dynamic seq, which computes the same",
        )

    def keep_on_device(self, names: Sequence[str]) -> None:
        """Nothing is: what is cut back goes through the host."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)


def padded(arrays: Mapping[str, Any], length: int) -> dict[str, Any]:
    """A prefill's arrays with tokens behind the prompt's. Raises ModelError for a longer prompt."""
    import numpy

    more = length - arrays["tokens"].shape[1]
    if more < 0:
        raise ModelError(f"a prompt of {length - more:,} tokens does not fit", why=f"the model was converted for {length:,}")
    return {
        **arrays,
        "tokens": numpy.pad(arrays["tokens"], ((0, 0), (0, more))),
        "image_embeddings": numpy.pad(arrays["image_embeddings"], ((0, 0), (0, more), (0, 0))),
        "mask": causal(length),
        "positions": numpy.arange(length, dtype=numpy.int32)[None],
    }
