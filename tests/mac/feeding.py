"""What the stages of the demo models are given in the contract tests: the same numbers on every machine."""

from __future__ import annotations

import zlib

import numpy as np

from workbench.models.masks import causal, up_to

LENGTH = 12
"""Of a prompt, and of the past that a step continues."""


def arrays_for(stage, sizes, *, seed=0, place=LENGTH):
    """One call's arrays: tokens, positions and masks that belong together, everything else normally distributed."""
    rng = np.random.default_rng(seed + zlib.crc32(stage.name.encode()))
    names = {feature.name for feature in stage.inputs}
    step = "positions" in names and "image_embeddings" not in names
    found = {}
    for feature in stage.inputs:
        shape = tuple(LENGTH if size is None else size for size in feature.shape)
        if feature.name == "tokens":
            array = rng.integers(8, sizes["vocabulary"] - 8, shape).astype(np.int32)
        elif feature.name == "positions":
            array = np.arange(shape[1], dtype=np.int32)[None] + (place if step else 0)
        elif feature.name == "mask":
            array = up_to(place, shape[-1]) if step else causal(LENGTH)
        elif feature.name in ("keys", "values"):
            array = past(shape, rng, place)
        else:
            array = rng.standard_normal(shape).astype(np.float32) * (0.1 if feature.name.startswith("cross_") else 1.0)
        found[feature.name] = array
    return found


def past(shape, rng, place=LENGTH):
    """A cache of (layers, heads, places, head size) with ``place`` places filled."""
    array = np.zeros(shape, np.float32)
    array[:, :, :place] = rng.standard_normal((*shape[:2], place, shape[3]))
    return array


def filled(program, seed=0):
    """A state with a past, the same on every executor: fp16 numbers."""
    state = program.make_state()
    for number, spec in enumerate(program.states):
        state.write(spec.name, past(spec.shape, np.random.default_rng(seed + number)).astype(spec.dtype))
    return state
