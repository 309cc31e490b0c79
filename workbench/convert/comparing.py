"""Inputs on which a converted stage is compared with torch's, and one output's verdict.

feeds = example_feeds(stages)                    # seeded: {"vision": [{"pixel_values": ...}], "prefill": [...], "step": [...]}
judged((error, False), limit=2e-5)               # {"relative_l2": 4.1e-07, "limit": 2e-05, "values": 680, "same": True}
"""

from __future__ import annotations

import math
from typing import Any

from workbench.convert.stages.stage import StageSet
from workbench.metrics.tensors import TensorError

SEED = 20
PROMPT, FOLLOWED = 6, 2
"""Tokens of a seeded prompt beside the image's, and after it."""


def judged(error: tuple[TensorError, bool], limit: float) -> dict[str, Any]:
    """One output's row. Whole numbers must be the same; a value that is finite on one side only is never the same."""
    found, whole = error
    away = found.relative_rms if found.reference_square else math.sqrt(found.error_square / max(1, found.n))
    bound = 0.0 if whole else limit
    row = {"relative_l2": _number(away), "limit": bound, "values": found.n, "same": away <= bound and not found.one_sided}
    return row | ({"not_finite_on_one_side": found.one_sided} if found.one_sided else {})


def example_feeds(stages: StageSet) -> dict[str, list[dict[str, Any]]]:
    """Inputs for where no request is at hand: seeded noise as image or sound, seeded tokens as prompt, and a few tokens that follow.

    Of a user's module: its own example, and a second with seeded floats of the same mean and spread; whole numbers and what is the same
    everywhere (masks, say) stay as they are.
    """
    import numpy

    from workbench.models.options import VISION
    from workbench.models.speech_to_text import FAMILY as SPEECH

    drawn = numpy.random.default_rng(SEED)
    sizes = stages.sizes
    if stages.family == VISION:
        shape = tuple(stages["vision"].example["pixel_values"].shape)
        others = numpy.delete(numpy.arange(sizes["vocabulary"]), sizes["image_token"])
        text = drawn.choice(others, min(PROMPT, sizes["context"] - sizes["image_tokens"] - FOLLOWED) + FOLLOWED)
        ids = [*[sizes["image_token"]] * sizes["image_tokens"], *text[:-FOLLOWED]]
        arrays = {"pixel_values": drawn.standard_normal(shape, numpy.float32), "input_ids": numpy.array([ids])}
        return stages.feeds(arrays, text[-FOLLOWED:].tolist())
    if stages.family == SPEECH:
        mel = drawn.standard_normal((1, sizes["mels"], sizes["frames"]), numpy.float32)
        text = drawn.integers(0, sizes["vocabulary"], 2 * FOLLOWED)
        return stages.feeds({"input_features": mel, "input_ids": text[None, :FOLLOWED]}, text[FOLLOWED:].tolist())
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in stages:
        example = {name: value.detach().numpy() for name, value in stage.example.items()}
        other = {
            name: drawn.normal(value.mean(), value.std(), value.shape).astype(value.dtype)
            for name, value in example.items()
            if value.dtype.kind == "f" and float(value.std()) > 0
        }
        found[stage.name] = [example] + ([{**example, **other}] if other else [])
    return found


def same_shape(name: str, expected: Any, given: Any) -> tuple[Any, Any]:
    import numpy

    expected, given = numpy.asarray(expected), numpy.asarray(given)
    if expected.shape != given.shape:
        from workbench.convert.reload import DifferentModel

        raise DifferentModel(
            f"output {name!r} has the shape {list(given.shape)}",
            why=f"torch's is {list(expected.shape)}",
            fix="nothing was written",
        )
    return expected, given


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
