"""A checkpoint as the whole float32 model that stages are cut from, and what is said of one that cannot be cut.

model = load(found, config, "LlavaForConditionalGeneration")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import ModelError, UsageError
from workbench.models import checkpoint, pretrained
from workbench.models.loading import in_users_words, quietly
from workbench.models.source import Resolved

LARGEST_CONTEXT = 2048
"""Places of a cache unless another number is asked for: caches are allocated whole."""
OWN_FACTORY = "convert one stage yourself: a function that returns a torch.nn.Module and example inputs, named file.py:factory"


def located(folder: Path | Resolved) -> Resolved:
    """A folder under the name that may be published."""
    return folder if isinstance(folder, Resolved) else Resolved(folder, folder.resolve().name)


def load(found: Resolved, config: Mapping[str, Any], class_name: str) -> Any:
    """The model in eval mode, float32, on the CPU, with plain attention (the only kind that takes any mask and gives its weights).

    Raises ModelError unless every weight was found, fitted and used, and for quantised weights.
    """
    import torch

    checkpoint.check(found.folder)
    packed = checkpoint.describe_quantisation(dict(config))
    if packed:
        raise ModelError(
            f"the weights of {found.source!r} are quantised ({packed})",
            why="a conversion begins with the plain weights and compresses them itself",
            fix="convert the model that it was made from, with --quantize",
        )
    with quietly(), in_users_words(found):
        model, _ = pretrained.load(class_name, found, {"dtype": "float32", "attention": "eager"}, torch.device("cpu"))
    return model.eval().requires_grad_(False)


def context_of(found: Resolved, asked: int | None, positions: int, least: int, why: str) -> int:
    """The number of places: ``asked``, or the model's ``positions`` up to ``LARGEST_CONTEXT``.

    Raises UsageError for more than ``positions`` and fewer than ``least`` (``why``: what needs them).
    """
    places = asked if asked is not None else max(min(positions, LARGEST_CONTEXT), min(positions, least))
    if places > positions:
        raise UsageError(
            f"{found.source!r} has no context of {places} tokens", why=f"it has {positions} positions", fix=f"--context {positions}"
        )
    if places < least:
        fix = f"--context {least}" if least <= positions else None
        raise UsageError(f"a context of {places} tokens is too short for {found.source!r}", why=why, fix=fix)
    return places


def refuse(found: Resolved, what: str, why: str) -> ModelError:
    """The error for a model that stages cannot be cut from."""
    return ModelError(f"{found.source!r} {what}", why=why, fix=OWN_FACTORY)
