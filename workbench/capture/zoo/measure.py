"""One row of the zoo: both sides on every case, compared at every position and in every layer, then layer by layer with the
reference's activations swapped in, and the causality probe on both.

The yardstick is the error that torch itself makes in float32: the reference runs once in float32 and once in float64, and an error is
judged by how many times it exceeds what torch's own float32 is away from float64 at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from workbench.capture import names
from workbench.capture.hooks import module_paths, tapped
from workbench.capture.taps import Kept, Swapped
from workbench.capture.zoo.family import Case, Family
from workbench.metrics.drift import Layer, alignable
from workbench.metrics.tensors import tensor_error

LOGITS = "logits"


@dataclass
class Pass:
    """One forward pass: every recorded layer in order, ``logits`` last."""

    order: list[str]
    arrays: dict[str, Any]

    @property
    def logits(self) -> Any:
        return self.arrays[LOGITS]


class ReferenceFailed(Exception):
    """The reference itself breaks on an input, so the port was not judged."""


@dataclass
class CaseResult:
    name: str
    layers: list[Layer]
    argmax_agreement: float | None
    """Share of positions whose most likely token is the same; None where the positions are not the same."""
    moved_reference: float | None
    moved_port: float | None
    """Largest change of an earlier logit when only the last token changes, over the largest logit; None for a family without probe."""

    @property
    def logits(self) -> Layer:
        return self.layers[-1]


def forward(run: Any, model: Any, arrays: Mapping[str, Any], renames: Any, tap: Kept | None = None) -> Pass:
    """Run a side with every layer of ``names.FINE`` tapped."""
    tap = Kept() if tap is None else tap
    known = names.names_of(module_paths(model), renames)
    outputs = names.chosen(known, names.FINE)
    with tapped(model, outputs, names.first_blocks(known), tap):
        logits = as_numpy(run(model, arrays))
    return Pass([*tap.order, LOGITS], {**tap.arrays, LOGITS: logits})


def as_numpy(value: Any):
    """Logits of torch or MLX as numpy, float64 where they are."""
    import numpy

    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    from mlx import core

    return numpy.array(value.astype(core.float32))


def measure(family: Family, case: Case, reference: Any, exact: Any, ported: Any) -> CaseResult:
    """``reference`` and ``exact`` are the same model in float32 and float64, ``ported`` the port's."""
    import numpy

    try:
        mine = forward(family.run_reference, reference, case.for_reference, family.reference_names)
        true = forward(family.run_reference, exact, case.for_reference, family.reference_names)
    except Exception as error:
        raise ReferenceFailed(f"the reference breaks: {type(error).__name__}: {error}") from error
    theirs = forward(family.run_port, ported, case.for_port, family.port_names)
    swap = Swapped(aligned(mine, theirs))
    made = forward(family.run_port, ported, case.for_port, family.port_names, swap)
    layers = [compare_layer(name, mine, true, theirs, made) for name in mine.order]
    layers[-1:-1] = [Layer(name, reason="the reference has no such layer") for name in theirs.order if name not in mine.arrays]
    same = None
    if mine.logits.shape == theirs.logits.shape:
        same = float(numpy.mean(numpy.argmax(mine.logits, axis=-1) == numpy.argmax(theirs.logits, axis=-1)))
    moved = (
        probe(family.run_reference, reference, case.for_reference, family.probe, mine.logits),
        probe(family.run_port, ported, case.for_port, family.probe, theirs.logits),
    )
    return CaseResult(case.name, layers, same, *moved)


def aligned(mine: Pass, theirs: Pass) -> dict[str, Any]:
    """The reference's arrays that may be put into the port."""
    return {
        name: array
        for name, array in mine.arrays.items()
        if name in theirs.arrays and name != LOGITS and alignable(array.shape, theirs.arrays[name].shape)
    }


def compare_layer(name: str, mine: Pass, true: Pass, theirs: Pass, made: Pass) -> Layer:
    before, exactly = mine.arrays[name], true.arrays[name]
    own = tensor_error(exactly, before)
    after = theirs.arrays.get(name)
    if after is None:
        return Layer(name, own=own, reason="the port has no such layer")
    if not alignable(before.shape, after.shape):
        return Layer(name, own=own, reason=f"shapes {before.shape} and {after.shape}")
    swapped = made.arrays.get(name)
    return Layer(
        name,
        tensor_error(before, after),
        own,
        None if swapped is None or swapped.size != before.size else tensor_error(before, swapped),
    )


def probe(run: Any, model: Any, arrays: Mapping[str, Any], name: str | None, logits: Any) -> float | None:
    """Change the last token: how far earlier logits move, relative to the largest."""
    import numpy

    if name is None:
        return None
    changed = arrays[name].copy()
    changed[0, -1] = changed[0, -1] - 1 if changed[0, -1] > 20 else changed[0, -1] + 1
    other = as_numpy(run(model, {**arrays, name: changed}))
    return float(numpy.abs(other[:-1] - logits[:-1]).max(initial=0.0) / numpy.abs(logits).max())


def folders(family: Family, layout: str, folder: Path, seed: int) -> tuple[Any, Path]:
    """Draw the family's model, write it, and return (the model, the folder that the port is to read)."""
    from workbench.capture.zoo.reference import draw

    model = family.build(family.config())
    draw(model, seed)
    saved = folder / "v5"
    family.save(model, saved)
    if layout == "v5":
        return model, saved
    (family.to_hub or convert_unchecked)(saved, folder / "hub")
    return model, folder / "hub"


def convert_unchecked(saved: Path, target: Path) -> None:
    """The command's own conversion. What it checks by reloading, the row measures."""
    from workbench.convert.hub_layout import to_hub_layout

    to_hub_layout(saved, target, check=False)


def compare_logits(family: Family, case: Case, reference: Any, ported: Any) -> float:
    """The largest relative error of the logits, without recording any layer. Raises ValueError where their shapes differ."""
    mine = as_numpy(family.run_reference(reference, case.for_reference))
    theirs = as_numpy(family.run_port(ported, case.for_port))
    error = tensor_error(mine, theirs)
    return error.max_relative if error.finite and error.max_relative is not None else inf
