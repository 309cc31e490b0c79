"""What each stage is given for one request: inputs that converted programs are checked with, and that show what a loop has to do.

stages.feeds({"input_ids": ids, "pixel_values": pixels}, [17, 4])
# {"vision": [{...}], "prefill": [{...}], "step": [{"tokens": [[17]], "mask": ..., "keys": ..., ...}, {"tokens": [[4]], ...}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.convert.stages.stage import Arrays, Feeds, Stage, StageSet
from workbench.errors import ModelError
from workbench.models.masks import causal, up_to


def vision_language(stages: StageSet, arrays: Arrays, tokens: Sequence[int]) -> Feeds:
    """One vision feed an image, one prefill feed, one step feed a followed token. A prompt of one token is too short for the prefill:
    it is the first step."""
    import numpy

    sizes = stages.sizes
    ids = prompt_of(arrays, tokens, sizes)
    pixels = arrays.get("pixel_values")
    wanted = tuple(stages["vision"].example["pixel_values"].shape[1:])
    if pixels is not None and pixels.shape[1:] != wanted:
        raise ModelError(
            f"the vision stage takes images of {wanted}, not {pixels.shape[1:]}",
            why="the processor's size and the vision tower's image_size differ",
            fix="set the size in preprocessor_config.json to the tower's",
        )
    vision = [{"pixel_values": pixels[at : at + 1].astype(numpy.float32)} for at in range(0 if pixels is None else len(pixels))]
    places = numpy.flatnonzero(ids == sizes["image_token"])
    if len(places) != len(vision) * sizes["image_tokens"]:
        raise ModelError(
            f"the prompt holds {len(places)} image tokens for {len(vision)} images",
            why=f"each image gives {sizes['image_tokens']} features",
            fix="prepare the request with this model's own processor",
        )
    embeddings = numpy.zeros((1, len(ids), sizes["hidden"]), dtype=numpy.float32)
    if vision:
        embeddings[0, places] = numpy.concatenate([stages["vision"].run(feed)[0]["image_features"] for feed in vision])
    if len(ids) == 1:
        return {"vision": vision, "prefill": [], "step": steps(stages["step"], [*ids.tolist(), *tokens], 0, empty(sizes), {})}
    prefill = {
        "tokens": ids[None].astype(numpy.int32),
        "image_embeddings": embeddings,
        "mask": causal(len(ids)),
        "positions": numpy.arange(len(ids), dtype=numpy.int32)[None],
    }
    caches = empty(sizes)
    if tokens:
        found, _ = stages["prefill"].run(prefill)
        for name, held in caches.items():
            held[:, :, : len(ids)] = found[f"new_{name}"]
    return {"vision": vision, "prefill": [prefill], "step": steps(stages["step"], tokens, len(ids), caches, {})}


def speech(stages: StageSet, arrays: Arrays, tokens: Sequence[int]) -> Feeds:
    """One encoder feed; one step feed a token of the prompt and a followed token."""
    import numpy

    sizes = stages.sizes
    ids = prompt_of(arrays, tokens, sizes)
    mel = arrays.get("input_features")
    if mel is None or mel.shape != (1, sizes["mels"], sizes["frames"]):
        raise ModelError(
            f"the encoder takes a log-mel of (1, {sizes['mels']}, {sizes['frames']}), not {None if mel is None else mel.shape}",
            why="it looks at one window at a time",
            fix="prepare the request with this model's own features",
        )
    encoder = {"mel": mel.astype(numpy.float32)}
    found, _ = stages["encoder"].run(encoder)
    cross = {name: found[name] for name in ("cross_keys", "cross_values")}
    return {"encoder": [encoder], "step": steps(stages["step"], [*ids.tolist(), *tokens], 0, empty(sizes), cross)}


def module(stages: StageSet, arrays: Arrays, tokens: Sequence[int]) -> Feeds:
    """The arrays themselves, each in the type of the example."""
    (stage,) = stages.stages
    missing = sorted(set(stage.example) - set(arrays))
    if missing or tokens:
        raise ModelError(
            f"{stages.architecture} is not given {missing[0]!r}" if missing else f"{stages.architecture} follows no tokens",
            why=f"its inputs are {', '.join(stage.example)}",
        )
    return {stage.name: [{name: arrays[name].astype(example.numpy().dtype) for name, example in stage.example.items()}]}


def prompt_of(arrays: Arrays, tokens: Sequence[int], sizes: dict[str, int]) -> Any:
    """The prompt's ids, shape (T,). Raises ModelError for several prompts, padding, unknown ids, and more than the context holds."""
    ids = arrays.get("input_ids")
    if ids is None or ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1]:
        raise ModelError(f"the stages are fed one prompt, not input_ids of {None if ids is None else ids.shape}")
    if "attention_mask" in arrays and not arrays["attention_mask"].all():
        raise ModelError(
            "the prompt is padded", why="the stages' positions begin with its first token", fix="prepare one request at a time"
        )
    every = [*ids[0].tolist(), *tokens]
    strange = [each for each in every if not 0 <= each < sizes["vocabulary"]]
    if strange:
        raise ModelError(f"token id {strange[0]} is none of this model's", why=f"it knows {sizes['vocabulary']:,} tokens")
    if len(every) > sizes["context"]:
        raise ModelError(
            f"{len(every)} tokens do not fit",
            why=f"the stages have {sizes['context']} places",
            fix="convert with a larger --context",
        )
    return ids[0]


def empty(sizes: dict[str, int]) -> Arrays:
    """Keys and values before the first token."""
    import numpy

    shape = tuple(sizes[name] for name in ("layers", "heads", "context", "head_size"))
    return {name: numpy.zeros(shape, dtype=numpy.float32) for name in ("keys", "values")}


def steps(stage: Stage, tokens: Sequence[int], position: int, caches: Arrays, always: Arrays) -> list[Arrays]:
    """A feed a token, the first at ``position``; ``caches`` as they are before it, ``always`` what every step is given."""
    import numpy

    size = next(iter(caches.values())).shape[2]
    made = []
    for at, token in enumerate(tokens, start=position):
        feed = {
            "tokens": numpy.array([[token]], dtype=numpy.int32),
            "mask": up_to(at, size),
            "positions": numpy.array([[at]], dtype=numpy.int32),
            **always,
            **{name: value.astype(numpy.float16 if stage.states else numpy.float32) for name, value in caches.items()},
        }
        ordered = {name: feed[name] for name in (*stage.example, *stage.states)}
        made.append(ordered)
        if at + 1 < position + len(tokens):
            outputs, states = stage.run(ordered)
            caches = states or {name: outputs[f"new_{name}"] for name in caches}
    return made
