"""What the page and the Markdown twin say of one candidate, ready to print: verdict, figures, ladder, groups.

Candidate(comparison).figures     # [('difference', '+0.25 points'), ('90 % interval', '−0.61 to +1.11'), ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from workbench.metrics.stats import DIFFERENT, EQUIVALENT, INCOMPARABLE, INCONCLUSIVE
from workbench.parity.comparison import AGREE, QUESTIONS, Comparison, Rung, Stratum
from workbench.parity.profiles import profile_of
from workbench.parity.sides import Side
from workbench.report.forest import Scale, axis_svg, margin_bounds, row_svg, share_svg
from workbench.report.layers import Depth, about_layers
from workbench.report.scores import GroupRow, group_rows
from workbench.report.text import error_text, percent, points, share_text

SYMBOLS = {
    EQUIVALENT: "✓",
    AGREE: "≅",
    DIFFERENT: "≠",
    INCONCLUSIVE: "?",
    INCOMPARABLE: "×",
    "same": "=",
    "close": "≈",
    "different": "≠",
    "unclear": "?",
    "not run": "–",
    "information": "i",
}
"""Beside every colour stands a symbol, and beside every symbol its word."""

JUDGED = (1, 2, 4, 5)
"""The rungs of runs that this version judges when their evidence is there; rung 3 comes from captures."""
JUDGED_IN_CAPTURES = (1, 2, 3, 4)

MOST_ROWS = 60
"""Groups of one axis on the page, those with the most items; ``strata.csv`` has all."""

MOST_TABLE_ROWS = 200
MOST_UNPAIRED = 200
NO_MARGIN = (-0.02, 0.02)
"""Of a picture that is not drawn."""


@dataclass(frozen=True)
class AxisBlock:
    """The groups of one axis. ``rows`` are ``(stratum, picture)``."""

    key: str
    title: str
    rows: list[tuple[Stratum, Any]]
    hidden: int


class Candidate:
    """One comparison as the report shows it."""

    def __init__(self, comparison: Comparison):
        self.comparison = comparison
        self.label = comparison.candidate.label
        self.reference = comparison.reference.label
        self.verdict = comparison.verdict
        self.symbol = SYMBOLS[comparison.verdict.name]
        self.kind = comparison.verdict.name.lower()
        self.overall = comparison.overall
        self.notes = comparison.notes
        self.about_layers, self.depth = about_layers(comparison), Depth.of(comparison)
        self.of_speech = comparison.of_speech
        self.overall_words = comparison.strata[0].words if comparison.strata else None
        self.rungs = [comparison_rung(comparison, number) for number in QUESTIONS]
        self.scale = self._scale([each.paired for each in comparison.strata])

    @property
    def sentence(self) -> str:
        """The verdict's sentence; the word itself stands in the badge."""
        return self.verdict.sentence.removeprefix(f"{self.verdict.name}: ")

    @property
    def first_different(self) -> str:
        """The lowest rung that differs, as a reader sees it. A rung may differ on purpose (another precision), so it is not a fault."""
        if self.verdict.name == INCOMPARABLE:
            return "not judged"
        rung = self.comparison.first_broken
        if rung is not None:
            return f"{rung.number} {rung.name}"
        numbers = JUDGED_IN_CAPTURES if self.about_layers else (*JUDGED, 3) if self.depth else JUDGED
        judged = all(each.status in ("same", "close") for each in self.rungs if each.number in numbers)
        return "none" if judged else "none of those judged"

    @property
    def figures(self) -> list[tuple[str, str]]:
        """The numbers under the sentence."""
        if self.about_layers:
            layers = self.depth.figures if self.depth else []
            return [
                ("inputs", f"{self.verdict.n:,}"),
                *layers,
                *self.next_tokens,
                ("first rung that differs", self.first_different),
            ]
        found = []
        if self.overall is not None:
            found += [
                ("difference of WER" if self.overall_words else "difference", f"{points(self.overall.difference)} points"),
                ("90 % interval", interval(self.overall.low90, self.overall.high90)),
                *self.word_figures,
            ]
        found += [
            ("margin", self.verdict.margin.text),
            ("n", f"{self.verdict.n:,} {'utterances' if self.overall_words else 'items'}"),
        ]
        if self.overall is not None:
            found.append(("flips", f"{self.overall.broke:,} broke, {self.overall.fixed:,} fixed"))
        found.append(("first rung that differs", self.first_different))
        if self.verdict.needed is not None:
            items = "utterances" if self.overall_words else "items"
            found.append((f"{items} that would settle it", f"{self.verdict.needed:,}"))
        return found

    @property
    def profile(self) -> str:
        """Of the word error rates: profile and normaliser."""
        return profile_of(self.comparison.reference)

    @property
    def word_figures(self) -> list[tuple[str, str]]:
        """Of speech: rates, words, errors, the other interval, and how often the candidate was better."""
        words = self.overall_words
        if words is None:
            return []
        before, after = words.reference, words.candidate
        chance = words.decisive.probability_of_improvement
        return [
            ("resampled", f"{words.resampled}s"),
            *((f"90 %, {each.resampled}s", interval(each.low90, each.high90)) for each in words.intervals[1:]),
            ("WER, reference and candidate", f"{percent(before.rate)} and {percent(after.rate)} %"),
            ("errors", f"{before.errors:,} and {after.errors:,} in {before.words:,} words"),
            ("probability of improvement", "–" if chance is None else f"{100 * chance:.0f} %"),
        ]

    @property
    def next_tokens(self) -> list[tuple[str, str]]:
        """What rung 4 found, where it was run."""
        facts = comparison_rung(self.comparison, 4).facts
        if facts.get("kl_mean") is None or facts.get("top1_agreement") is None:
            return []
        bound = "at least " if facts.get("kl_is_lower_bound") else ""
        same = f"{share_text(facts['top1_agreement'])} of {facts.get('positions', 0):,}"
        return [("KL, nats a token", f"{bound}{error_text(facts['kl_mean'])}"), ("same next token", same)]

    @property
    def margin(self) -> str:
        """Of a verdict on answers; a dash for captures."""
        return "–" if self.verdict.margin is None else self.verdict.margin.text

    @property
    def picture(self):
        """The overall difference against the margin, on an axis of its own; None where nothing is paired."""
        return None if self.overall is None else row_svg(finite(self.overall), self._scale([self.overall]), strong=True)

    @property
    def picture_axis(self):
        return axis_svg(self._scale([] if self.overall is None else [self.overall]))

    @property
    def axis(self):
        return axis_svg(self.scale)

    @property
    def axes(self) -> list[AxisBlock]:
        """The strata by axis: all items, tasks, then each task's own axes."""
        found: dict[tuple[str, str | None], list[Stratum]] = {}
        for stratum in self.comparison.strata:
            task = stratum.task if stratum.axis not in ("all", "task") else None
            found.setdefault((stratum.axis, task), []).append(stratum)
        several = len({task for _, task in found if task is not None}) > 1
        blocks = []
        for (axis, task), strata in found.items():
            shown = sorted(strata, key=lambda each: -each.paired.n)[:MOST_ROWS] if len(strata) > MOST_ROWS else strata
            title = {"all": "all items", "task": "by task"}.get(axis, f"by {axis}")
            rows = [(each, row_svg(finite(each.paired), self.scale, strong=axis == "all")) for each in shown]
            blocks.append(
                AxisBlock(
                    f"{axis} {task or ''}", f"{title} · {task}" if several and task else title, rows, len(strata) - len(shown)
                )
            )
        return blocks

    @property
    def unpaired(self) -> list[tuple[str, int, Sequence[str]]]:
        """(side's label, how many items only it has, the first of them)."""
        sides = (("reference", self.reference), ("candidate", self.label))
        found = [(label, list(self.comparison.unpaired.get(name, ()))) for name, label in sides]
        return [(label, len(ids), ids[:MOST_UNPAIRED]) for label, ids in found if ids]

    def _scale(self, differences: Sequence[Any]) -> Scale:
        low, high = NO_MARGIN
        if self.verdict.margin is not None:
            low, high = margin_bounds(self.verdict.margin, self.overall.reference if self.overall else 1.0)
        return Scale.of([finite(each) for each in differences], low, high)


@dataclass(frozen=True)
class Together:
    """The overall differences of several candidates on one axis, as the table of verdicts shows them."""

    axis: Any
    pictures: list[Any]

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Together:
        found = [finite(each.overall) for each in candidates if each.overall is not None]
        first = next((each for each in candidates if each.overall is not None), None)
        low, high = margin_bounds(first.verdict.margin, first.overall.reference) if first else NO_MARGIN
        widest = max(found, key=lambda paired: max(abs(paired.low90), abs(paired.high90)), default=None)
        scale = Scale.of([widest] if widest else [], low, high)
        drawn = [None if each.overall is None else row_svg(finite(each.overall), scale, strong=True) for each in candidates]
        return cls(axis_svg(scale), drawn)


@dataclass(frozen=True)
class ReferenceGroup:
    """The candidates of one reference, which are of one family of models."""

    family: str
    reference: str
    candidates: list[Candidate]
    together: Together

    @property
    def of_speech(self) -> bool:
        return self.candidates[0].of_speech

    @classmethod
    def all_of(cls, candidates: Sequence[Candidate]) -> list[ReferenceGroup]:
        """In the order of the candidates."""
        found: dict[int, list[Candidate]] = {}
        for each in candidates:
            found.setdefault(id(each.comparison.reference), []).append(each)
        return [
            cls(str(members[0].comparison.reference.family or "other"), members[0].reference, members, Together.of(members))
            for members in found.values()
        ]


@dataclass(frozen=True)
class SideGroups:
    """The groups of a run that is compared with nothing, by axis."""

    side: Side

    @property
    def axes(self) -> list[tuple[str, list[tuple[GroupRow, Any]], int]]:
        """(title, rows with their pictures, how many more groups there are); where there are too many, those with the most items."""
        found: dict[str, list[tuple[GroupRow, Any]]] = {}
        for row in group_rows(self.side):
            drawn = share_svg(row.value, row.low, row.high) if row.unit == "%" and row.value is not None else ""
            title = f"by {row.axis} · {row.task}" if len(self.side.tasks) > 1 else f"by {row.axis}"
            found.setdefault(title, []).append((row, drawn))
        largest = {
            title: rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda each: -each[0].n) for title, rows in found.items()
        }
        return [(title, rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS)) for title, rows in largest.items()]


def comparison_rung(comparison: Comparison, number: int) -> Rung:
    """The rung; one that the comparison does not have was not run."""
    return next((rung for rung in comparison.rungs if rung.number == number), None) or Rung(
        number, "not run", "There is no evidence for this rung."
    )


def finite(paired: Any) -> Any:
    """A copy whose interval can be drawn: no bound at all is drawn as the whole axis."""
    from dataclasses import replace

    low, high = paired.low90, paired.high90
    if isfinite(low) and isfinite(high):
        return paired
    return replace(paired, low90=low if isfinite(low) else -1.0, high90=high if isfinite(high) else 1.0)


def interval(low: float, high: float) -> str:
    """Two fractions in points: ``−0.61 to +1.11``."""
    if not (isfinite(low) and isfinite(high)):
        return "no interval (too few groups)"
    return f"{points(low)} to {points(high)}"


def title_of(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> str:
    """The page's heading when none was given."""
    if len(comparisons) == 1:
        return f"{comparisons[0].candidate.label} against {comparisons[0].reference.label}"
    if comparisons:
        references = list(dict.fromkeys(each.reference.label for each in comparisons))
        if len(references) > 1 and len(comparisons) == len(references):
            return " · ".join(f"{each.candidate.label} against {each.reference.label}" for each in comparisons)
        return f"{len(comparisons)} candidates against {' and '.join(references)}"
    return ", ".join(side.label for side in sides[:3]) + (f" and {len(sides) - 3} more" if len(sides) > 3 else "")


def directions(candidates: Sequence[Candidate]) -> str:
    """Which side of zero is worse, as the start of a sentence."""
    kinds = {each.of_speech for each in candidates if not each.about_layers}
    if kinds == {True}:
        return "Word error rates: right of zero the candidate makes more errors"
    if kinds == {True, False}:
        return "Left of zero the candidate is worse; of word error rates it is right of zero"
    return "Left of zero the candidate is worse"


def run_warnings(sides: Sequence[Side]) -> list[str]:
    """What a cheap check of every bundle warns of; with comparisons their own notes say so."""
    return [warning for side in sides for run in side.all_runs for warning in run.checked]


def words(name: str) -> str:
    """A fact's name as a reader sees it: ``interval90_points`` -> ``interval90 points``."""
    return str(name).replace("_", " ")
