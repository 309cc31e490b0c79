"""Which layer costs most when it is compressed: one row a layer, with that layer's weights alone compressed and all others as they were.

    rows = sensitivity(stages, Recipe(quantize="palette4"), stages.feeds(arrays, tokens))
    rows[0]   # {"stage": "step", "layer": "text.block.0", "cost": 0.021, "kl": 0.021, "top1": 0.98, "bytes_saved": 812_000, ...}

Nothing is converted twice: the compressed weights' dense values are put into the program that is not compressed, and both run in the
reference executor on the same inputs. The costs of rows do not add up: errors of one layer may cancel those of another.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.coreml.compress import compress
from workbench.convert.coreml.programs import ConvertedStage, convert_stage
from workbench.convert.coreml.recipe import QUANTIZATIONS, Recipe
from workbench.convert.coreml.saving import save_package
from workbench.convert.coreml.sources import SMALLEST, base_name
from workbench.convert.coreml.weights import layers_around
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.convert.stages.stage import Stage
    from workbench.mil.program import Program

BLOCK = re.compile(r".*\.block\.\d+")
EVERYTHING = "(all)"
"""The layer of the row in which every weight is compressed."""
LOGITS = "logits"

Feeds = Mapping[str, Sequence[Mapping[str, Any]]]


def sensitivity(
    stages: Iterable[Stage], recipe: Recipe, feeds: Feeds, *, by: str = "block", say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Rows of every stage that ``feeds`` has inputs for: stage after stage, in each the most costly first. See ``stage_sensitivity``.

    Raises UsageError where the recipe compresses nothing or no stage has inputs.
    """
    recipe.check()
    if recipe.quantize is None:
        raise UsageError("no compression is named", why=f"known: {', '.join(QUANTIZATIONS)}", fix="--quantize palette4")
    _check_by(by)
    rows = []
    for stage in stages:
        given = list(feeds.get(stage.name, ()))
        if not given:
            continue
        say(f"{stage.name}: converting")
        converted = convert_stage(stage, replace(recipe, quantize=None), every_pattern=False)
        with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
            dense, small = Path(folder) / "dense.mlpackage", Path(folder) / "small.mlpackage"
            save_package(converted.mlmodel, dense)
            save_package(compress(converted.mlmodel, recipe), small)
            say(f"{stage.name}: measuring on {len(given)} calls")
            rows += stage_sensitivity(converted, dense, small, given, by=by)
    if not rows:
        raise UsageError(
            "no stage has inputs to measure on", why="sensitivity is measured on calibration inputs", fix="give at least one"
        )
    return rows


def stage_sensitivity(
    converted: ConvertedStage,
    dense: Path,
    small: Path,
    feeds: Sequence[Mapping[str, Any]],
    *,
    function: str | None = None,
    by: str = "block",
) -> list[dict[str, Any]]:
    """One row a layer of one stage, from its package without and with compression, and a row ``(all)``; most costly first.

    ``feeds``: calls in order; names of states among the arrays are written before the call, else a state goes on from call to call.
    ``by``: ``block`` joins all weights of a block, ``layer`` goes by the innermost layer; a weight of no layer is its own row.

    A row: ``stage``, ``layer``, ``weights`` (names), ``compression`` (kinds), ``cost`` and its ``measure`` (``kl`` where there are logits,
    else the largest ``relative_l2``; infinite where a value is no longer finite), ``relative_l2`` ({output: ...}, pooled over the calls),
    ``kl`` (mean over positions of KL(before || after) in nats) and ``top1`` (share of positions with the same likeliest token), both None
    without an output ``logits``, ``bytes_saved``.
    """
    from workbench.mil.constants import dense as dense_value
    from workbench.mil.constants import with_constants
    from workbench.mil.program import load
    from workbench.mil.weights import weight_table

    _check_by(by)
    plain, compressed = load(dense, function), load(small, function)
    names = {base_name(weight.name): weight.name for weight in weight_table(plain.function, smallest=SMALLEST)}
    groups: dict[str, list[Any]] = {}
    for weight in weight_table(compressed.function, smallest=SMALLEST):
        if weight.kind not in ("none", "cast"):
            groups.setdefault(_layer(converted, weight, by), []).append(weight)
    if not groups:
        return []
    groups[EVERYTHING] = [weight for weights in groups.values() for weight in weights]
    before = _answers(plain, feeds)
    rows = []
    for layer, weights in groups.items():
        values = {names[base_name(weight.name)]: dense_value(compressed, weight.name) for weight in weights}
        found = _difference(before, _answers(with_constants(plain, values), feeds))
        rows.append(
            {
                "stage": converted.stage.name,
                "layer": layer,
                "weights": [base_name(weight.name) for weight in weights],
                "compression": sorted({weight.kind for weight in weights}),
                **found,
                "bytes_saved": sum(weight.dense_bytes - weight.stored_bytes for weight in weights),
            }
        )
    return sorted(rows, key=lambda row: -row["cost"])


def _check_by(by: str) -> None:
    if by not in ("block", "layer"):
        raise UsageError(f"by={by!r} is not known", why="known: block, layer")


def _layer(converted: ConvertedStage, weight: Any, by: str) -> str:
    """The layer whose row a weight belongs to."""
    layers = layers_around(converted, weight)
    if by == "block":
        blocks = [layer for layer in layers if BLOCK.fullmatch(layer)]
        layers = blocks[-1:] or layers[-1:]
    return layers[0] if layers else base_name(weight.name)


def _answers(program: Program, feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    states = {feature.name for feature in program.states}
    state = program.make_state() if states else None
    found = []
    for feed in feeds:
        for name in states & set(feed):
            state.write(name, feed[name])  # type: ignore[union-attr]
        found.append(program.predict({name: value for name, value in feed.items() if name not in states}, state))
    return found


def _difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import numpy as np

    from workbench.metrics.divergence import kl_divergence, log_softmax
    from workbench.metrics.tensors import TensorError, tensor_error

    pooled = {
        name: sum((tensor_error(one[name], other[name]) for one, other in zip(before, after, strict=True)), TensorError())
        for name in before[0]
    }
    errors = {name: math.inf if error.one_sided else error.relative_rms for name, error in pooled.items()}
    kl = top1 = None
    if LOGITS in errors:
        rows = [
            tuple(log_softmax(answer[LOGITS].reshape(-1, answer[LOGITS].shape[-1])) for answer in pair)
            for pair in zip(before, after, strict=True)
        ]
        reference, candidate = (np.concatenate(side) for side in zip(*rows, strict=True))
        kl = float(kl_divergence(reference, candidate).mean())
        kl = kl if math.isfinite(kl) and not pooled[LOGITS].one_sided else math.inf
        top1 = float((reference.argmax(-1) == candidate.argmax(-1)).mean())
    cost, measure = (kl, "kl") if kl is not None else (max(errors.values()), "relative_l2")
    return {"cost": cost, "measure": measure, "relative_l2": errors, "kl": kl, "top1": top1}
