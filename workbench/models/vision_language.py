"""The vision-language family: text and images in, text out.

model = open_vision_language(ModelSpec.parse("demo:vlm@torch"))
outputs = model.answer([request], Generation(max_tokens=16))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from workbench.types import Generation, ModelSpec, Output, Request


class VisionLanguage(Protocol):
    """A loaded model. ``answer`` never raises for one bad item: its Output carries the error."""

    spec: ModelSpec
    batch_size: int

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order; up to ``batch_size`` requests are run together."""
        ...

    def prepare(self, request: Request) -> Any:
        """What the model is given for ``request``: ``.arrays``, ``.prompt``, ``.length``. Raises ItemError."""
        ...

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """The logits that predict each of ``tokens`` in turn, numpy float32 of shape (len(tokens), vocabulary). Raises ItemError."""
        ...

    def logits(self, prepared: Any) -> Any:
        """The logits at every position of a prompt, numpy of shape (positions, vocabulary); for models whose ``model`` is here to
        be looked into (not behind a server)."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was really loaded: dtype, device, attention, parameters, what was dequantised, chat template hash, stop ids."""
        ...

    def close(self) -> None: ...
