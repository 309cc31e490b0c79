"""Random tensors. An op with a seed of its own draws the same numbers at every call; the others draw from the program's generator,
which starts anew at every prediction. Core ML's generator is not public: the distributions are the same, the numbers are not.

Samples are drawn in float32 whatever the declared type, so all readings of a program see the same ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Context, Family, Ints, Tensor
from workbench.mil.types import NUMPY

random = Family("random")


def _generator(seed: int, context: Context) -> torch.Generator:
    return context.generator if seed == -1 else torch.Generator(context.device).manual_seed(seed)


def _uniform(shape: Ints, seed: int, context: Context) -> Tensor:
    """In [0, 1)."""
    context.allow(shape, torch.float32)
    return torch.rand(shape, generator=_generator(seed, context), device=context.device)


@random.op("random_bernoulli", pure=False)
def random_bernoulli(shape: Ints, context: Context, prob: float = 0.5, seed: int = -1) -> Tensor:
    return (_uniform(shape, seed, context) < prob).float()


@random.op("random_uniform", pure=False)
def random_uniform(shape: Ints, context: Context, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    values = low + (high - low) * _uniform(shape, seed, context)
    if high > low:  # rounding, here or to the declared type, must not reach the upper bound
        kind = NUMPY[context.output_types[0].dtype]
        values = values.clamp(max=float(np.nextafter(kind(high), kind(low))))
    return values


@random.op("random_normal", pure=False)
def random_normal(shape: Ints, context: Context, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    context.allow(shape, torch.float32)
    return mean + stddev * torch.randn(shape, generator=_generator(seed, context), device=context.device)


@random.op("random_categorical", pure=False)
def random_categorical(x: Tensor, context: Context, mode: str = "logits", size: int = 1, seed: int = -1) -> Any:
    """Class numbers, as floats, drawn with replacement; ``x`` need not be normalised. The axis of classes becomes the draws."""
    if mode not in ("logits", "probs"):
        raise ExecutionError(f"op {context.op!r} has the mode {mode!r}", why="known: logits, probs")
    shape = (*x.shape[:-1], size)
    context.allow(shape, torch.float32)
    weights = torch.softmax(x.float(), dim=-1) if mode == "logits" else x.float()
    drawn = torch.multinomial(weights.reshape(-1, x.shape[-1]), size, True, generator=_generator(seed, context))
    return drawn.reshape(shape).float()
