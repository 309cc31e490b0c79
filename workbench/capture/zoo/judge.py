"""What the cases of a row say together: the verdict, its numbers, the first guilty layer, and why.

Judged by logits at every position and by torch's own error, never by greedy tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from workbench.capture.zoo.measure import LOGITS, CaseResult
from workbench.metrics.drift import LIMIT, Layer, amount, first_departing, first_guilty

MOVED = 1e-5
"""Largest change of an earlier logit, relative to the largest, that still counts as rounding in the causality probe."""
SCALED = 1e-4
"""Relative RMS left after dividing by the factor below which a difference is a factor alone."""


@dataclass(frozen=True)
class Culprit:
    """The layer that a row names, in the case that shows it earliest."""

    case: CaseResult
    layer: Layer
    place: int


def judged(results: Sequence[CaseResult], failures: Sequence[str]) -> dict[str, Any]:
    """The verdict and its numbers over all cases: the worst case decides. ``failures``: what happened on inputs without a result."""
    if not results:
        return {"verdict": "failed", "reason": f"no input could be compared: {'; '.join(failures)}"}
    worst = max(results, key=badness)
    found: dict[str, Any] = {
        "argmax_agreement": smallest([each.argmax_agreement for each in results]),
        "causal": every(each.moved_port for each in results),
        "causal_reference": every(each.moved_reference for each in results),
        "cases": [case_line(each) for each in results] + [{"case": each} for each in failures],
        "worst_case": worst.name,
        "inputs": len(results) + len(failures),
        "inputs_differing": len([each for each in results if each.logits.departs or each.logits.error is None]),
        "max_relative_error": largest([each.logits.error.max_relative if each.logits.error else None for each in results]),
        "own_relative_error": largest([each.logits.own.max_relative for each in results if each.logits.own]),
        "times_own": known(worst.logits.times_own),
    }
    uncompared = f"{len(failures)} of {len(failures) + len(results)} inputs could not be compared: {'; '.join(failures)}"
    departed = [each for each in results if each.logits.departs or each.logits.error is None]
    if departed:
        culprit = find_culprit(departed)
        scale = scale_of(departed)
        found |= {
            "verdict": "differs" if scale is None else "scaled",
            "scale": scale,
            "first_layer": culprit.layer.name,
            "worst_case": (worst if culprit.layer.name == LOGITS else culprit.case).name,
            "reason": why(culprit, worst, scale, len(departed), len(results)) + (f"; and {uncompared}" if failures else ""),
        }
    elif failures:
        found |= {"verdict": "failed", "reason": uncompared}
    else:
        found |= {"verdict": "agrees", "reason": f"within {LIMIT:g} times torch's own float32 error at every position"}
    if found["causal_reference"] and found["causal"] is False:
        found["reason"] += "; and the port is not causal: earlier logits move when only the last token changes"
        found["verdict"] = "differs" if found["verdict"] == "agrees" else found["verdict"]
    return found


def badness(result: CaseResult) -> float:
    times = result.logits.times_own
    return inf if times is None else times


def find_culprit(departed: Sequence[CaseResult]) -> Culprit:
    """Over all cases that depart, the layer that is named earliest; the logits only where nothing before them is to blame."""
    found = [culprit_of(each) for each in departed]
    return min(found, key=lambda each: (each.layer.name == LOGITS, each.place))


def culprit_of(result: CaseResult) -> Culprit:
    layers = result.layers
    named = first_guilty(layers) or first_departing(layers) or result.logits
    if result.logits.error is None:  # another number of positions: where it began to differ
        shaped = next((layer for layer in layers if layer.reason is not None and layer.reason.startswith("shapes")), None)
        named = shaped if shaped is not None and layers.index(shaped) < layers.index(named) else named
    return Culprit(result, named, layers.index(named))


def scale_of(departed: Sequence[CaseResult]) -> float | None:
    """The one factor by which all the logits differ; None where anything else differs.

    However small, what is left must also be small beside the difference: noise alone leaves as much with its factor of 1.
    """
    errors = [each.logits.error for each in departed]
    if any(error is None or not error.finite or error.beyond_scale > min(SCALED, error.relative_rms / LIMIT) for error in errors):
        return None
    scales = [error.scale for error in errors if error is not None and error.scale]
    return scales[0] if scales and max(scales) - min(scales) <= SCALED * abs(scales[0]) else None


def why(culprit: Culprit, worst: CaseResult, scale: float | None, departed: int, n: int) -> str:
    said = f"logits of {departed} of {n} inputs part, most on {worst.name!r}"
    if scale is not None:
        return f"{said}: by the factor {scale:.6g} alone"
    layer = culprit.layer
    if layer.name == LOGITS:
        return f"{said}: {layer.reason}" if layer.reason else said
    where = "" if culprit.case is worst else f" (on {culprit.case.name!r})"
    if layer.error is None:
        return f"{said}: {layer.name} has {layer.reason}{where}"
    if layer.guilty and layer.made_times_own is not None:
        return (
            f"{said}: {layer.name} makes {amount(layer.made_times_own)} torch's own error from the reference's activations{where}"
        )
    if layer.times_own is not None:
        return f"{said}: {layer.name} is the first to depart, by {amount(layer.times_own)} torch's own error{where}"
    return f"{said}: {layer.name} is the first to depart{where}"


def case_line(result: CaseResult) -> dict[str, Any]:
    error, own = result.logits.error, result.logits.own
    return {
        "case": result.name,
        "max_relative_error": known(error.max_relative) if error else None,
        "own_relative_error": known(own.max_relative) if own else None,
        "times_own": known(result.logits.times_own),
        "argmax_agreement": result.argmax_agreement,
        "moved_reference": known(result.moved_reference),
        "moved_port": known(result.moved_port),
        "reason": result.logits.reason,
    }


def every(moves: Any) -> bool | None:
    """Did no probe move earlier logits? None where there was none."""
    seen = [each for each in moves if each is not None]
    return all(each <= MOVED for each in seen) if seen else None


def known(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and isfinite(value) else None


def smallest(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    return None if any(value is None for value in values) else min(value for value in values if value is not None)


def largest(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known: then no number stands for all."""
    return max(values) if values and all(value is not None and isfinite(value) for value in values) else None
