"""A family of the zoo: a tiny configuration, the inputs that take its own path, and how both sides are run.

One small file a family, in ``workbench/capture/zoo/families/`` or anywhere (``workbench zoo --family ./mine.py``)::

    FAMILY = Family("llava", "LLaVA: CLIP and Llama", config, cases)

``config()`` returns transformers' configuration, tiny; ``cases(config, random)`` the inputs, as identical arrays for both sides.
Everything else has a default that a family replaces where it must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.capture.zoo import port, reference

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One input. Both sides are given ``arrays`` (numpy; batch 1), each with its own additions: ``only_reference``, ``only_port``."""

    name: str
    arrays: Arrays
    only_reference: Arrays = field(default_factory=dict)
    only_port: Arrays = field(default_factory=dict)

    @property
    def for_reference(self) -> dict[str, Any]:
        return {**self.arrays, **self.only_reference}

    @property
    def for_port(self) -> dict[str, Any]:
        return {**self.arrays, **self.only_port}


@dataclass(frozen=True)
class Family:
    """``name`` is the configuration's ``model_type``; ``title`` says in words what it is made of."""

    name: str
    title: str
    config: Callable[[], Any] | None
    cases: Callable[[Any, Any], Sequence[Case]] | None
    modality: str = "vision"
    kind: str = "logits"
    """``logits``, ``text only``, ``features only``, ``composite reference`` or ``no reference here``."""
    reason: str = ""
    """Why the kind is not ``logits``, in a sentence."""
    slow: bool = False
    """Left out unless asked for (``--slow``): hundreds of millions of parameters."""
    layouts: tuple[str, ...] = ("hub", "v5")
    build: Callable[[Any], Any] = reference.build
    """configuration -> the model in torch, eager attention, evaluation mode; its weights are drawn afterwards."""
    save: Callable[[Any, Any], None] = reference.save
    """(model, folder) -> writes the folder in the layout of transformers 5."""
    to_hub: Callable[[Any, Any], None] | None = None
    """(v5 folder, hub folder): replaces ``workbench.convert.hub_layout`` where the published layout is no transformers' one."""
    run_reference: Callable[[Any, Arrays], Any] = reference.run
    """(model, arrays) -> logits, a torch tensor of shape (positions, vocabulary)."""
    open_port: Callable[[Any], Any] = port.open_mlx_vlm
    """folder -> the port's model."""
    run_port: Callable[[Any, Arrays], Any] = port.run_mlx_vlm
    """(model, arrays) -> logits, an MLX array of shape (positions, vocabulary)."""
    reference_names: tuple[tuple[str, str], ...] = ()
    port_names: tuple[tuple[str, str], ...] = ()
    """Regular expressions and replacements for module paths, where the two libraries' layer names differ (``capture.names``)."""
    probe: str | None = "input_ids"
    """The array whose last entry the causality probe changes; None where there is nothing to probe."""
    note: str = ""
    """What this row does not cover, beyond the zoo's own limits."""


def prompt(random: Any, parts: Sequence[int | Sequence[int]], low: int, high: int) -> Any:
    """Token ids of shape (1, n), int64: a number stands for that many random text tokens in [low, high), a sequence for itself."""
    import numpy

    pieces = [random.integers(low, high, each) if isinstance(each, int) else numpy.asarray(each) for each in parts]
    return numpy.concatenate(pieces).astype(numpy.int64)[None]


def pixels(random: Any, *shape: int) -> Any:
    """Normalised pixels, float32, standard normal: every value differs from its neighbours, so that a transposed grid shows."""
    import numpy

    return random.standard_normal(shape).astype(numpy.float32)


def text_arrays(ids: Any) -> dict[str, Any]:
    """``input_ids`` and an attention mask of ones."""
    import numpy

    return {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
