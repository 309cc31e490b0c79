"""Which sizes of a model's stages vary in its graphs: the length of a prompt, and how many inputs a call takes at once.

    stages = sized(subject.stages(recipe), recipe)
    stages["vision"].dynamic                       # {"pixel_values": {0: "batch"}}, with batch in recipe.dynamic
    feeds = fitted(stages, example_feeds(stages))  # padded where the prompt's length is fixed, several at once where a batch varies

- ``seq``: the length ``T`` of a prompt, from 2 to the context, and whatever a user's module says varies. Without it, a prompt has as many
  tokens as the context has places (``sizes["prompt"]``: shorter ones are padded behind, which a causal mask never sees), and a module
  keeps its example's shapes.
- ``batch``: pictures, windows of sound, and the first axis of a user's module. A decoder holds one sequence: see ``ONE_SEQUENCE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.convert.onnx.recipe import Recipe
from workbench.convert.stages.stage import Arrays, Feeds, Stage, StageSet
from workbench.errors import DataError, UsageError
from workbench.models.fixed_prompt import padded
from workbench.models.options import VISION
from workbench.models.speech_to_text import FAMILY as SPEECH

BATCH = "batch"
MOST_BATCH = 16
WORDS = 32
"""Tokens of a usual prompt beside an image's."""
ONE_SEQUENCE = (
    "holds one sequence: its cache (layers, heads, places, head size) has no axis for more, "
    "and prompts of other lengths would need a mask and positions each"
)
BATCHED = {VISION: ("vision",), SPEECH: ("encoder",)}
"""By family, the stages whose batch can vary; of a user's module it is its only one."""


def sized(stages: StageSet, recipe: Recipe) -> StageSet:
    """The stages with the sizes that ``recipe.dynamic`` names. Raises UsageError for a module without a batch axis."""
    sizes = dict(stages.sizes)
    if "seq" not in recipe.dynamic and "context" in sizes and any(stage.name == "prefill" for stage in stages):
        sizes["prompt"] = sizes["context"]
    batched = BATCHED.get(stages.family) if BATCH in recipe.dynamic else ()
    made = [_lengthened(stage, sizes, recipe) for stage in stages]
    made = [_batched(stage) if batched is None or stage.name in batched else stage for stage in made]
    return replace(stages, stages=tuple(made), sizes=sizes)


def one_sequence(stages: StageSet, recipe: Recipe) -> dict[str, str]:
    """Stage -> why its batch does not vary though that was asked for."""
    if BATCH not in recipe.dynamic:
        return {}
    return {stage.name: ONE_SEQUENCE for stage in stages if stage.name not in BATCHED.get(stages.family, (stage.name,))}


def fitted(stages: StageSet, feeds: Feeds) -> Feeds:
    """Feeds of the stages as they were, for those of ``sized``: prompts padded to a fixed length, and one more call with several inputs at
    once for each stage whose batch varies."""
    found = {name: list(calls) for name, calls in feeds.items()}
    if "prompt" in stages.sizes:
        found["prefill"] = [padded(call, stages.sizes["prompt"]) for call in found["prefill"]]
    for stage in stages:
        axes = {name: axis for name, held in stage.dynamic.items() for axis, size in held.items() if size == BATCH}
        calls = found.get(stage.name) or []
        if axes and calls:
            found[stage.name] = [*calls, _together(calls[0], calls[-1], axes)]
        for call in calls:
            _check_shapes(stage, call)
    return found


def _check_shapes(stage: Stage, call: Mapping[str, Any]) -> None:
    """Raises DataError for an array that the stage does not take; torch would raise something of its own, or go on."""
    for name, example in stage.example.items():
        held, axes = tuple(call[name].shape), stage.dynamic.get(name, {})
        fits = len(held) == example.dim() and all(
            axis in axes or size == other for axis, (size, other) in enumerate(zip(held, example.shape, strict=True))
        )
        if not fits:
            wanted = [axes.get(axis, int(size)) for axis, size in enumerate(example.shape)]
            raise DataError(
                f"input {name!r} of stage {stage.name!r} has the shape {list(held)}",
                why=f"it takes [{', '.join(map(str, wanted))}]",
                fix="inputs of that shape, or an axis that varies: dynamic, in what the factory returns",
            )


def _together(one: Mapping[str, Any], other: Mapping[str, Any], axes: Mapping[str, int]) -> Arrays:
    import numpy

    return {
        name: numpy.concatenate([value, other[name]], axis=axes[name]) if name in axes else value for name, value in one.items()
    }


def _lengthened(stage: Stage, sizes: Mapping[str, int], recipe: Recipe) -> Stage:
    """With a usual prompt as its example, or without sizes that vary."""
    if stage.name == "prefill" and stage.dynamic and "context" in sizes:
        stage = _of_length(stage, sizes.get("prompt") or min(sizes["context"], sizes["image_tokens"] + WORDS))
    return stage if "seq" in recipe.dynamic else replace(stage, dynamic={}, bounds={})


def _of_length(stage: Stage, length: int) -> Stage:
    """A prefill whose example is ``length`` tokens long."""
    import torch

    example = {}
    for name, value in stage.example.items():
        axes = stage.dynamic.get(name, {})
        shape = [length if axis in axes else size for axis, size in enumerate(value.shape)]
        example[name] = torch.zeros(shape, dtype=value.dtype)
    return replace(stage, example=example)


def _batched(stage: Stage) -> Stage:
    """The stage with a first axis that varies from 1 on."""
    import torch

    firsts = {name: int(value.shape[0]) for name, value in stage.example.items() if value.dim()}
    if len(firsts) < len(stage.example) or len(set(firsts.values())) > 1:
        raise UsageError(
            f"stage {stage.name!r} has no batch axis",
            why=f"its inputs have the shapes {', '.join(f'{name} {list(value.shape)}' for name, value in stage.example.items())}",
            fix="--dynamic seq, or give every input the same first axis",
        )
    if any(0 in axes for axes in stage.dynamic.values()):
        return stage  # the module's own name for it
    count = max(2, next(iter(firsts.values())))  # torch.export takes a size of 1 for fixed
    example = {name: value if firsts[name] == count else torch.cat([value] * count) for name, value in stage.example.items()}
    dynamic = {name: {0: BATCH, **stage.dynamic.get(name, {})} for name in stage.example}
    bounds = {**stage.bounds, BATCH: (1, max(MOST_BATCH, count))}
    module = _pictures(stage.module) if stage.name == "vision" else stage.module
    return replace(stage, module=module, example=example, dynamic=dynamic, bounds=bounds)


def _pictures(module: Any) -> Any:
    from workbench.convert.stages.vision_language import Pictures, Vision

    return Pictures(module).eval() if isinstance(module, Vision) else module
