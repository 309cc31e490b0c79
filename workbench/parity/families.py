"""Which runs can be put beside each other at all: those of one family, judged by one kind of score.

    by_family(sides)      # {"vision-language": [torch, mlx], "speech-to-text": [torch, mlx]}

A recogniser's word error rate and a vision-language model's accuracy are never pooled and never compared: where runs of both are given,
each family has a reference, a verdict and candidates of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.run.bundle import CAPTURE, Run

if TYPE_CHECKING:
    from workbench.parity.sides import Side

VISION, SPEECH = "vision-language", "speech-to-text"
SPEECH_ARRAYS, VISION_ARRAYS = {"input_features", "input_values"}, {"pixel_values"}
"""What a captured model was fed tells its family: sound (a log-mel, or the wave itself) or pixels."""

FAMILIES = (VISION, SPEECH)
"""In the order of a report."""


def family_of(run: Run) -> str | None:
    """The family of a run's task, by what it is scored with: a word error rate is speech's. None for captures, whose inputs tell."""
    if run.kind == CAPTURE:
        return None
    task = run.manifest["task"]
    if task.get("headline") == "wer":
        return SPEECH
    return str(task.get("family") or VISION)


def family_of_inputs(lines: Iterable[Mapping[str, Any]]) -> str | None:
    """The family of a capture from the arrays that its inputs hold; None where they are of neither kind."""
    names: set[str] = set()
    for line in lines:
        seen = (line.get("input") or {}).get("seen") or {}
        names |= set(seen.get("arrays") or ())
    return SPEECH if names & SPEECH_ARRAYS else VISION if names & VISION_ARRAYS else None


def by_family(sides: Iterable[Side]) -> dict[str, list[Side]]:
    """The sides of each family, in the order given. Sides whose family nothing tells belong to the only other one, or to the first."""
    sides = list(sides)
    known = list(dict.fromkeys(side.family for side in sides if side.family is not None))
    found: dict[str, list[Side]] = {name: [] for name in known} or {VISION: []}
    for side in sides:
        found[side.family or next(iter(found))].append(side)
    return found
