"""Faults planted in one layer of a healthy port, at a stated size; each a function that damages an MLX LLaVA in place."""

from __future__ import annotations

from typing import Any


def wrap(module: Any, call: Any) -> None:
    """Make ``module(...)`` go through ``call(original, *arguments)``; the class stays as it is for all other modules."""
    kind = type(module)

    def wrapped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return call(lambda *a, **k: kind.__call__(self, *a, **k), *arguments, **keywords)

    module.__class__ = type(kind.__name__, (kind,), {"__call__": wrapped})


def text_layer(model: Any, number: int) -> Any:
    return model.language_model.model.layers[number]


def vision_layer(model: Any, number: int) -> Any:
    return model.vision_tower.vision_model.encoder.layers[number]


def perturb_one_weight(model: Any, by: float = 1e-2) -> None:
    """One of 8,192 weights of a matrix, moved by ``by`` (its standard deviation is 0.125)."""
    weight = text_layer(model, 1).mlp.up_proj.weight
    weight[3, 5] = weight[3, 5] + by


def swap_gelu(model: Any) -> None:
    """x·sigmoid(1.702 x) becomes the tanh approximation of GELU in one block: at most 0.02 apart at any input."""
    from mlx import nn

    vision_layer(model, 1).mlp.activation_fn = nn.GELU(approx="precise")


def shift_positions(model: Any) -> None:
    """The patches' learned positions, each taken from its neighbour."""
    from mlx import core

    table = model.vision_tower.vision_model.embeddings.position_embedding
    table.weight = core.roll(table.weight, 1, axis=0)


def shift_rotary(model: Any) -> None:
    """Queries of one layer rotated as if one position later than its keys."""
    attention = text_layer(model, 1).self_attn
    calls = []

    def later(rope: Any, x: Any, offset: int = 0) -> Any:
        calls.append(1)
        return rope(x, offset=offset + (len(calls) % 2))  # the query is rotated first, then the key

    wrap(attention.rope, later)


def transpose_grid(model: Any) -> None:
    """The image's tokens handed on column by column."""

    def transposed(projector: Any, x: Any) -> Any:
        side = int(x.shape[1] ** 0.5)
        made = projector(x)
        return made.reshape(made.shape[0], side, side, -1).swapaxes(1, 2).reshape(made.shape)

    wrap(model.multi_modal_projector, transposed)


def see_the_future(model: Any) -> None:
    """One layer attends without a mask."""
    wrap(text_layer(model, 1).self_attn, lambda attend, x, mask=None, cache=None: attend(x, None, cache))


def poison(model: Any) -> None:
    """One weight is not a number."""
    weight = text_layer(model, 0).self_attn.o_proj.weight
    weight[0, 0] = float("nan")
