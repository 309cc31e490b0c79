"""Which inner value of a twin is which value of the program: by normal names, put right by what the values hold.

    align(layers, twin, readers, ends, counted=False)      # {"/encoder/Add_output_0": "encoder_Add_output_0", ...}

Names alone mislead: most only count (``input_17``, ``linear_3``), and another trace, a file that was saved and loaded, or another
converter counts otherwise. What a value holds is settled by its print, so a pair that departs must not be contradicted by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.capture.program_names import normal, numbers
from workbench.metrics.drift import LIMIT, alignable
from workbench.metrics.sketch import Moments, estimated_error
from workbench.metrics.tensors import TensorError

ALIKE = LIMIT / 2
"""Two values are one where their error is within so many times what rounding alone makes: a pair found by this never departs."""
GROSS = 0.5
"""RMS of the error over RMS of the value beyond which two are no copies of each other, however damaged."""
UNLIKE = 0.8
"""The cosine below which they are none either."""
PROVEN, OUTWEIGHED = 5, 3
"""Counting names are believed where so many of them agree, and so many times as many as are contradicted."""


@dataclass(frozen=True)
class Print:
    """What a value holds, in a few numbers: its shape and `workbench.metrics.sketch.Moments.record`. ``own``: relative RMS of what rounding
    alone makes here; None where it is not known."""

    shape: Sequence[int]
    moments: Mapping[str, Any]
    own: float | None = None

    @classmethod
    def of(cls, array: Any) -> Print:
        moments = Moments()
        moments.add(array)
        return cls(array.shape, moments.record())

    def error(self, other: Print) -> TensorError | None:
        """Of ``other`` from this; None where the two cannot be compared."""
        return estimated_error(self.moments, other.moments) if alignable(self.shape, other.shape) else None


@dataclass(frozen=True)
class Pair:
    """A value of the program beside one of the twin's. ``rounding``: relative RMS of what rounding alone makes."""

    error: TensorError
    rounding: float

    @property
    def alike(self) -> bool:
        return not self.error.one_sided and self.error.relative_rms <= ALIKE * self.rounding

    @property
    def strange(self) -> bool:
        """Are the two no damaged copies of each other, but different things?"""
        cosine = self.error.cosine
        return bool(self.error.one_sided) or self.error.relative_rms > GROSS or (cosine is not None and cosine < UNLIKE)


def pair(layer: Print, other: Print, least: float) -> Pair | None:
    """``least``: what rounding makes at the very least. The twin's own error counts where it is known, as it does in the comparison."""
    error = layer.error(other)
    own = other.own if other.own is not None else layer.own
    return None if error is None else Pair(error, max(own or 0.0, least))


def align(
    layers: Mapping[str, Print],
    twin: Mapping[str, Print],
    readers: Mapping[str, Iterable[str]],
    ends: Mapping[str, Pair],
    *,
    least: float,
    counted: bool,
    trusted: bool = False,
) -> tuple[dict[str, str], set[str]]:
    """(``{twin's value: the program's layer}``, those of them that were found by what they hold alone).

    ``readers``: which layers are computed from a layer. ``ends``: the matched outputs. ``counted``: names that only count are those of this
    very conversion. ``trusted``: so are names of ops with a count (``linear_3``), which both sides take from one exporter.
    """
    by_name: dict[str, str] = {}
    for name in twin:
        by_name.setdefault(normal(name), name)
    named = {
        layer: (by_name[layer], found)
        for layer, known in layers.items()
        if layer in by_name and (found := pair(known, twin[by_name[layer]], least)) is not None
    }
    kept = {layer: name for layer, (name, found) in named.items() if found.alike}
    held = by_content(
        {layer: known for layer, known in layers.items() if layer not in kept},
        {name: known for name, known in twin.items() if name not in kept.values()},
        least,
    )
    contradicted = set(held.values())
    agreeing = {*kept, *held, *(end for end, found in ends.items() if found.alike)}
    wrong = {layer for layer, (name, _) in named.items() if layer not in kept and (layer in held or name in contradicted)}
    counting = {layer for layer, (name, _) in named.items() if "/" not in name}  # a path is a name, whatever it holds
    right, refuted = len(counting.intersection(kept)), len(counting & wrong)
    proven = right > OUTWEIGHED * refuted if right + refuted >= PROVEN else counted or trusted
    known_counts = believed(named, counted)
    odd = {layer for layer, (_, found) in named.items() if found.strange}
    harmless = odd & healed(layers, readers, agreeing, odd | (set(layers) - set(named)))
    for layer, (name, _) in named.items():
        if layer in kept or layer not in known_counts:
            continue
        if layer in counting and (layer in wrong or not (proven or refuted == 0 and (counted or trusted))):
            continue  # the name only counts, and stands for another value there
        if layer in harmless:
            continue  # it means something else there, or holds what nobody reads: a mask of -3e38 in the one, -inf in the other
        kept[layer] = name
    taken = set(kept.values())
    more = {layer: name for layer, name in held.items() if layer not in kept and name not in taken}
    return {name: layer for layer, name in (kept | more).items()}, set(more.values())


def believed(named: Mapping[str, tuple[str, Pair]], counted: bool) -> set[str]:
    """Names that number all values (``var_26``) are another count unless the first of them agrees."""
    counting = [layer for layer in named if numbers(layer)]
    if not counting or counted or named[counting[0]][1].alike:
        return set(named)
    return set(named).difference(counting)


def by_content(layers: Mapping[str, Print], twin: Mapping[str, Print], least: float) -> dict[str, str]:
    """``{layer: twin's value}`` that are one but for rounding, in order of execution on both sides."""
    import numpy

    sizes: dict[int, list[str]] = {}
    for name, known in twin.items():
        if known.moments["square"]:  # zeros are like any others
            sizes.setdefault(known.moments["n"], []).append(name)
    sketches = {n: numpy.stack([twin[name].moments["sketch"] for name in names]) for n, names in sizes.items()}
    found: dict[str, str] = {}
    taken: set[str] = set()
    for layer, known in layers.items():
        names = sizes.get(known.moments["n"], [])
        if not names or not known.moments["square"]:
            continue
        gaps = ((sketches[known.moments["n"]] - known.moments["sketch"]) ** 2).sum(axis=1)
        for place in numpy.argsort(gaps, kind="stable"):
            name = names[place]
            each = pair(known, twin[name], least)
            if gaps[place] > known.moments["square"] * GROSS**2:
                break
            if name not in taken and each is not None and each.alike:
                found[layer] = name
                taken.add(name)
                break
    return found


def healed(layers: Iterable[str], readers: Mapping[str, Iterable[str]], agreeing: set[str], unclear: set[str]) -> set[str]:
    """Layers of which all that is computed from them agrees, at once or behind ``unclear`` ones: those without a pair, or with a strange one."""
    found: set[str] = set()
    for layer in reversed(list(layers)):
        ahead = set(readers.get(layer, ()))
        if ahead and all(each in agreeing or (each in unclear and each in found) for each in ahead):
            found.add(layer)
    return found
