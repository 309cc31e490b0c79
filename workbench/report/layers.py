"""What a report shows of captures: rung 3 layer by layer, the inputs that were fed, and the layers of a capture alone.

    depth = Depth.of(comparison)
    depth.figures      # [('layers compared', '18'), ("torch's own error", 'in float32'), ('worst layer', "1.2 × torch's own, vision.norm"), ...]

Names of layers and inputs are foreign text; the numbers are ours (``workbench.parity.tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from workbench.metrics.drift import LIMIT
from workbench.parity.captures import lines_of
from workbench.parity.comparison import Comparison, Rung
from workbench.parity.sides import Side
from workbench.report.drift import drift_figure
from workbench.report.text import bounded, error_text, fact, fixed_text, plain, times_text
from workbench.run.layer_records import LayerRecords

BULKY = ("layers", "unaligned", "causality")
"""Facts of rung 3 that have a table, a picture or words of their own."""
ERRORS = (
    "relative_rms",
    "times_own",
    "made_relative_rms",
    "made_times_own",
    "growth",
    "snr_db",
    "max_abs",
    "max_over_rms",
    "needed_tolerance",
)
NAME = 120
"""Characters of a layer's name where it stands in a sentence."""
MOST_LAYERS = 500
ASKED = 300

LAYER_COLUMNS = (
    *("layer", "reason", "n", "relative_rms", "own_relative_rms", "times_own", "made_relative_rms", "made_times_own", "growth"),
    *("snr_db", "cosine", "max_abs", "max_over_rms", "needed_tolerance", "non_finite_reference", "non_finite_candidate"),
)


def about_layers(comparison: Comparison) -> bool:
    """Is this a comparison of captures, which hold no answers and have no margin?"""
    return comparison.verdict.margin is None


def facts_of(rung: Rung) -> dict[str, Any]:
    """The facts that are short; of rung 3 the long lists are left out, and causality is two numbers."""
    found = {name: value for name, value in rung.facts.items() if rung.number != 3 or name not in BULKY}
    moved = (rung.facts.get("causality") or {}) if rung.number == 3 else {}
    return found | {f"earlier_logits_moved_{side}": value for side, value in moved.items()}


@dataclass(frozen=True)
class Depth:
    """The layers of one comparison, in order of execution. ``rows``: as ``Layer.to_json`` makes them, with their ``growth``."""

    facts: Mapping[str, Any]
    fix: str | None = None

    @classmethod
    def of(cls, comparison: Comparison) -> Depth | None:
        """None where the comparison holds no layers."""
        rung = next((each for each in comparison.rungs if each.number == 3), None)
        return cls(rung.facts, rung.fix) if rung is not None and rung.facts.get("layers") else None

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """A layer without one value that is finite on both sides has no error, which is not an error of 0."""
        return [row if row.get("n") != 0 else {**row, **dict.fromkeys(ERRORS)} for row in self.facts["layers"]]

    @property
    def compared(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if "relative_rms" in row]

    @property
    def shown(self) -> list[Mapping[str, Any]]:
        """The compared rows that a page holds."""
        return self.compared[:MOST_LAYERS]

    @property
    def apart(self) -> dict[str, list[str]]:
        """Layers that were not aligned, by the reason."""
        found: dict[str, list[str]] = {}
        for each in self.facts.get("unaligned") or ():
            found.setdefault(each["reason"] or "nothing to compare", []).append(each["layer"])
        return found

    @property
    def departing(self) -> str | None:
        return self.facts.get("first_departing")

    @property
    def guilty(self) -> str | None:
        return self.facts.get("first_guilty")

    @property
    def localised(self) -> bool:
        """Were layers given the reference's activations?"""
        return any(row.get("made_relative_rms") is not None for row in self.rows)

    @property
    def judged(self) -> bool:
        """Is torch's own error known?"""
        return any(row.get("times_own") is not None for row in self.compared)

    @property
    def with_largest(self) -> bool:
        """Are largest errors known, which needs kept values?"""
        return any(row.get("max_over_rms") is not None for row in self.compared)

    @property
    def figure(self):
        """Error against depth, with the guilty layer marked; where none was localised, the first that departs."""
        if self.guilty is None and self.departing is not None:
            return drift_figure(self.rows, self.departing, "the candidate's error", mark="first departing layer")
        return drift_figure(self.rows, self.guilty, "the candidate's error")

    @property
    def place(self) -> int:
        """Where among ``shown`` the finding is; 0 where no layer departs."""
        return next((place for place, row in enumerate(self.shown) if self.wrong(row)), 0)

    def marks(self, row: Mapping[str, Any]) -> list[str]:
        """What is to be said beside a layer's name."""
        found = [
            said for said, name in (("first departing", self.departing), ("first guilty", self.guilty)) if row["layer"] == name
        ]
        bad = [(side, row.get(f"non_finite_{side}")) for side in ("reference", "candidate")]
        if any(count for _, count in bad):
            found.append(f"not finite: {', '.join(f'{side} {count or 0:,}' for side, count in bad)}")
        if row.get("reason"):
            found.append(f"on some inputs not aligned: {bounded(row['reason'], NAME)}")
        return found

    def wrong(self, row: Mapping[str, Any]) -> bool:
        return row["layer"] in (self.departing, self.guilty)

    @property
    def figures(self) -> list[tuple[str, str]]:
        """The numbers under the verdict's sentence."""
        compared, every = len(self.compared), len(self.rows)
        found = [("layers compared", f"{compared:,}" if compared == every else f"{compared:,} of {every:,}")]
        found += [
            ("torch's own error", f"in {self.facts['precision']}" if self.judged else "not recorded"),
            ("worst layer", self.worst),
        ]
        found += [("first departing layer", named(self.departing) if self.judged or self.departing else "not judged")]
        return [*found, ("first guilty layer", named(self.guilty) if self.localised else "not localised")]

    @property
    def worst(self) -> str:
        """The layer with the largest error in units of torch's own; without that, the one with the lowest signal to noise."""
        rated = [row for row in self.compared if row.get("times_own") is not None]
        if rated:
            # Where there are others: a layer that float16 states round is not measured in torch's own error.
            row = max(rated, key=lambda each: (not each.get("of_float16_states"), each["times_own"]))
            return f"{times_text(row['times_own'])} torch's own, {bounded(row['layer'], NAME)}"
        known = [row for row in self.compared if row.get("snr_db") is not None]
        if not known:
            return "–"
        row = min(known, key=lambda each: each["snr_db"])
        return f"SNR {row['snr_db']:.0f} dB, {bounded(row['layer'], NAME)}"

    @property
    def told(self) -> list[tuple[str, str]]:
        """All that is said of the layers in small print."""
        return [("inputs", fact(self.facts.get("items"))), *self.figures, *self.method]

    @property
    def method(self) -> list[tuple[str, str]]:
        """How the layers were compared, and the causality of both sides."""
        found = [("limit", f"{LIMIT:g} times torch's own error")]
        values = (
            "estimated from sketches (± 4 %) where a side kept no values"
            if self.facts.get("estimated_from_sketches")
            else "from the values"
        )
        found.append(("errors", values))
        if self.facts.get("of_program"):
            found.append(
                ("yardstick", "what rounding makes of the converted program: torch's own error in this precision is not recorded")
            )
        half = sum(bool(row.get("of_float16_states")) for row in self.rows)
        if half:
            found.append(("float16 states", f"{half:,} layers depend on them and are judged by what those make of the program"))
        moved = self.facts.get("causality")
        if not moved:
            return [*found, ("causality", "not probed on both sides")]
        return [
            *found,
            *(
                (f"earlier logits moved, {side}", f"{error_text(moved[side])} of the largest")
                for side in ("reference", "candidate")
            ),
        ]

    @property
    def cells(self) -> Iterator[tuple[Mapping[str, Any], list[tuple[str, str]]]]:
        """Each row of the table, and its numbers by column, short."""
        for row in self.shown:
            found = [("RMS error", error_text(row.get("relative_rms"))), ("× torch's own", times_text(row.get("times_own")))]
            if self.localised:
                found += [
                    ("made here", error_text(row.get("made_relative_rms"))),
                    ("made, × torch's own", times_text(row.get("made_times_own"))),
                ]
            found += [
                ("growth", times_text(row.get("growth"))),
                ("SNR, dB", snr_text(row)),
                ("cosine", fixed_text(row.get("cosine"), 6)),
            ]
            if self.with_largest:
                found += [
                    ("max error / RMS", error_text(row.get("max_over_rms"))),
                    ("needed tolerance", error_text(row.get("needed_tolerance"))),
                ]
            yield row, found


def snr_text(row: Mapping[str, Any]) -> str:
    """``57.3``; no error at all has no end."""
    return "∞" if row.get("relative_rms") == 0 else fixed_text(row.get("snr_db"), 1)


def named(layer: str | None) -> str:
    return "none" if layer is None else bounded(layer, NAME)


@dataclass(frozen=True)
class InputRow:
    """One input that was fed, as the first side that has it holds it. ``missing``: sides without it. ``failed``: (side, what it said)."""

    id: str
    asked: str
    tokens: int | None
    arrays: str
    missing: list[str]
    failed: list[tuple[str, str]]


def input_rows(sides: Sequence[Side]) -> list[InputRow]:
    """The inputs of all captures, in the order of the first side."""
    found = [(side, lines_of(side)) for side in sides if side.captures]
    rows = []
    for name in dict.fromkeys(name for _, lines in found for name in lines):
        here = [(side, lines[name]) for side, lines in found if name in lines]
        asked = here[0][1].get("input") or {}
        seen = next((seen for _, line in here if (seen := (line.get("input") or {}).get("seen"))), None) or {}
        shapes = [f"{array} {'×'.join(map(str, about['shape']))}" for array, about in (seen.get("arrays") or {}).items()]
        errors = [(side.label, line["output"].get("error") or {}) for side, line in here if line["output"]["finish"] == "error"]
        rows.append(
            InputRow(
                name,
                bounded(plain(asked.get("text")), ASKED),
                (seen.get("tokens") or {}).get("n") or None,  # a program is given none
                ", ".join(shapes),
                [side.label for side, lines in found if name not in lines],
                [(label, said_of(error)) for label, error in errors],
            )
        )
    return rows


def said_of(error: Any) -> str:
    """What an item's error says; a bundle may hold anything there."""
    return (plain(error.get("what")) if isinstance(error, Mapping) else "") or "no reason was recorded"


@dataclass(frozen=True)
class Recorded:
    """A layer of a capture that is compared with nothing, pooled over its inputs, in the model's own precision."""

    layer: str
    path: str
    shape: str
    inputs: int
    rms: float | None
    largest: float | None
    non_finite: int


def recorded_layers(side: Side) -> list[Recorded]:
    """In order of execution. Raises BundleError where a bundle is damaged."""
    pooled: dict[str, list[Mapping[str, Any]]] = {}
    for run in side.captures:
        for lines in LayerRecords(run).lines.values():
            own = next(iter(lines))[0]
            for (kind, layer), line in lines.items():
                if kind == own:
                    pooled.setdefault(layer, []).append(line)
    return [recorded(layer, lines) for layer, lines in pooled.items()]


def recorded(layer: str, lines: Sequence[Mapping[str, Any]]) -> Recorded:
    n = sum(line["n"] - line["non_finite"] for line in lines)
    ends = [abs(line[end]) for line in lines for end in ("min", "max") if line.get(end) is not None]
    shapes = dict.fromkeys("×".join(map(str, line["shape"])) for line in lines)
    return Recorded(
        layer,
        plain(lines[0].get("path")),
        next(iter(shapes)) + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""),
        len(lines),
        sqrt(max(0.0, sum(line["square"] for line in lines)) / n) if n > 0 else None,
        max(ends, default=None),
        sum(line["non_finite"] for line in lines),
    )
