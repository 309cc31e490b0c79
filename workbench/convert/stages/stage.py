"""A model cut into programs: what every converter is given, whatever runtime it writes for.

    stages = stages_of(folder, stateful=False, context=512)                 # a StageSet: vision, prefill, step
    stage = stages["step"]
    stage.example["tokens"].shape                                           # (1, 1)
    outputs, _ = stage.run(stages.feeds(prepared.arrays, [5, 9])["step"][0])

A stage's arrays have the same names on every runtime, so one loop drives all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arrays = dict[str, Any]
"""Numpy arrays by name."""
Feeds = dict[str, list[Arrays]]
"""By stage, what each of its calls is given."""


@dataclass(frozen=True)
class Stage:
    """One program. ``module`` is in eval mode and float32; ``example`` are tensors in the order of its ``forward``.

    ``dynamic`` names the axes whose size varies ({"tokens": {1: "T"}}), ``bounds`` their least and largest size ({"T": (2, 512)}).
    ``states`` are the module's buffers that a call changes. ``layers``: the path of a module inside ``module`` -> the project's name of
    the layer (``text.block.3``); ``parameters``: the path of a weight -> its name in the checkpoint's files, where one has the same values.
    """

    name: str
    module: Any
    example: dict[str, Any]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    states: tuple[str, ...] = ()
    layers: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)

    def split(self, feed: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
        """(the inputs, the states before the call) of one feed."""
        return (
            {name: value for name, value in feed.items() if name not in self.states},
            {name: value for name, value in feed.items() if name in self.states},
        )

    def run(self, feed: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
        """(outputs by name, states after the call), computed by torch. States that ``feed`` leaves out are as the module holds them; the
        module's own are afterwards as they were, since an export begins with them."""
        import numpy
        import torch

        inputs, states = self.split(feed)
        buffers = {name: getattr(self.module, name) for name in self.states}
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        with torch.no_grad():
            for name, value in states.items():
                buffers[name].copy_(torch.from_numpy(numpy.asarray(value, order="C")))
            found = self.module(*(torch.from_numpy(numpy.asarray(inputs[name], order="C")) for name in self.example))
            after = {name: buffer.numpy().copy() for name, buffer in buffers.items()}
            for name, buffer in buffers.items():
                buffer.copy_(before[name])
        values = torch.utils._pytree.tree_leaves(found)
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}, after


@dataclass
class StageSet:
    """A model's stages. ``family``: ``vision-language``, ``speech-to-text`` or ``module``; ``sizes`` what a loop over the stages must know;
    ``shared``: the stages that hold the same weights."""

    family: str
    architecture: str
    stages: tuple[Stage, ...]
    sizes: dict[str, int]
    shared: tuple[tuple[str, ...], ...]
    feeder: Callable[[StageSet, Arrays, Sequence[int]], Feeds] = field(repr=False)

    def feeds(self, prepared_arrays: Mapping[str, Any], tokens: Sequence[int] = ()) -> Feeds:
        """What each stage is given, call by call, for one request (``Prepared.arrays``) and the ``tokens`` followed after its prompt.

        Computed with the torch modules. The feed of a stateful stage also holds the states before the call, under the states' names
        (``Stage.split``). Every step has caches of its own in memory: follow a few tokens. Raises ModelError for arrays that do not
        fit the stages.
        """
        from workbench.models.seen import as_array

        arrays = {name: as_array(value) for name, value in prepared_arrays.items() if value is not None}
        return self.feeder(self, arrays, list(tokens))

    def __getitem__(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)
