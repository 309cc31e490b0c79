"""What a comparison of layers is shown as: the table of all layers, and the facts that reports and JSON hold.

facts_of(depth)["layers"][0]     # {"layer": "vision.block.0", "snr_db": 138.2, "times_own": 0.9, "origin": None, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.metrics.drift import LIMIT, Layer, first_departing, first_guilty, growth
from workbench.parity.comparison import Table

COLUMNS = (
    "layer",
    "SNR (dB)",
    "cosine",
    "max abs",
    "max abs / RMS",
    "growth",
    "× torch's own",
    "makes (× own)",
    "tolerance needed",
    "not finite",
)


@dataclass
class Depth:
    """The layers of both sides over all common items, and how they were judged."""

    layers: list[Layer]
    items: int
    precision: str | None
    """Of torch's own error, the coarser one of both sides; None where it is not recorded."""
    estimated: bool
    """Are errors estimated from sketches, because a side kept no values or a sample of them?"""
    lacking: tuple[str, ...] = ()
    """Inputs that were fed to both, and of which a side holds no layer."""
    coarsest: str | None = None
    """The coarser one of both sides' precisions, whether torch's own error in it is known or not."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Of a converted model, the value that is a layer, its op, its torch module and line, in words; by layer."""
    half: frozenset[str] = frozenset()
    """Layers of an fp32 program that depend on a float16 state: they are judged by what rounding makes of this very program."""

    of_program: bool = False
    """Is that error no torch model's, but the rounding of a converted program, against the same program without any?"""

    def yardstick(self, layer: Layer) -> str:
        """What a layer's error is measured in, in words."""
        if layer.name in self.half:
            return "what float16 states make of the program"
        return f"{'the program' if self.of_program else 'torch'}'s own {self.precision} error"


def facts_of(depth: Depth) -> dict[str, Any]:
    first, guilty = first_departing(depth.layers), first_guilty(depth.layers)
    rows = [
        {**layer.to_json(), "growth": grown, "origin": depth.origins.get(layer.name), "of_float16_states": layer.name in depth.half}
        for layer, grown in zip(depth.layers, growth(depth.layers), strict=True)
    ]
    return {
        "items": depth.items,
        "precision": depth.precision,
        "of_program": depth.of_program,
        "limit": LIMIT,
        "estimated_from_sketches": depth.estimated,
        "first_departing": first.name if first else None,
        "first_guilty": guilty.name if guilty else None,
        "unaligned": [{"layer": layer.name, "reason": layer.reason} for layer in depth.layers if layer.error is None],
        "layers": rows,
    }


def tables_of(depth: Depth) -> tuple[Table, ...]:
    rows = []
    for layer, grown in zip(depth.layers, growth(depth.layers), strict=True):
        if layer.error is None:
            continue
        error = layer.error
        bad = f"{error.non_finite_reference} / {error.non_finite_candidate}" if not error.finite else ""
        rows.append(
            [
                layer.name,
                error.snr_db,
                error.cosine,
                error.max_abs,
                error.max_over_rms,
                grown,
                layer.times_own,
                layer.made_times_own,
                error.needed_tolerance,
                bad,
            ]
        )
    note = (
        "Energies are estimated from sketches (± 4 %) where a side kept no values, and then there is no largest error, or a sample of them, "
        "and then it is the sample's."
        if depth.estimated
        else None
    )
    tables = [Table("Layers, in order of execution", COLUMNS, rows, note)] if rows else []
    placed = [[layer.name, depth.origins[layer.name]] for layer in depth.layers if layer.name in depth.origins]
    if placed:
        tables.append(Table("Where the converted program computes a layer", ("layer", "value, op, torch module and line"), placed))
    unaligned = [[layer.name, layer.reason] for layer in depth.layers if layer.error is None]
    unaligned += [
        [layer.name, f"on some inputs: {layer.reason}"] for layer in depth.layers if layer.error is not None and layer.reason
    ]
    if unaligned:
        tables.append(Table("Layers that could not be aligned", ("layer", "why"), unaligned))
    return tuple(tables)
