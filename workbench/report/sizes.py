"""What compression costs: size on disk against score, for sides whose weights are other files, family by family.

    block = size_blocks(sides, comparisons)[0]
    block.rows[1].size_bytes, block.rows[1].value, block.rows[1].compressed      # 4_210_000, 92.4, "28 of 31"

The picture shows what was measured and joins nothing: between two compressions lies no third. It holds numbers of ours alone; the
table beside it says which number is which model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any

from markupsafe import Markup

from workbench.metrics.stats import Margin, wilson
from workbench.parity.comparison import Comparison
from workbench.parity.converted_artifact import is_compressed, is_skipped
from workbench.parity.families import SPEECH, by_family
from workbench.parity.sides import Side
from workbench.report.blocks import SYMBOLS, interval
from workbench.report.forest import margin_bounds
from workbench.report.speech import speech_rows
from workbench.report.text import byte_text, markdown, points
from workbench.report.timings import size_on_disk

COLUMNS = ("side", "family", "label", "stored_as", "size_bytes", "of_reference", "compressed", "asked", "score", "unit", "low95", "high95", "n", "difference_points", "low90", "high90", "verdict")  # fmt: skip


@dataclass(frozen=True)
class SizeRow:
    """``value``, ``low`` and ``high`` in per cent (of speech: the word error rate). ``comparison`` is None for the reference."""

    number: int
    side: Side
    size_bytes: int
    stored_as: str
    compressed: int | None
    asked: int | None
    value: float | None
    low: float | None
    high: float | None
    n: int
    ratio: float | None
    comparison: Comparison | None

    @property
    def label(self) -> str:
        return self.side.label

    @property
    def weights(self) -> str:
        """``28 of 31``: weights compressed of those that were to be."""
        return "–" if self.compressed is None else f"{self.compressed:,} of {self.asked:,}" if self.asked else "none"

    @property
    def skipped(self) -> int:
        """Weights that were to be compressed and were not."""
        return max(0, (self.asked or 0) - (self.compressed or 0))

    @property
    def score(self) -> str:
        return "–" if self.value is None else f"{self.value:.2f} %"

    @property
    def bounds(self) -> str:
        return "–" if self.low is None or self.high is None else f"{self.low:.1f} to {self.high:.1f} %"

    @property
    def difference(self) -> str:
        overall = self.comparison.overall if self.comparison else None
        return "–" if overall is None else f"{points(overall.difference)} ({interval(overall.low90, overall.high90)})"

    @property
    def kind(self) -> str:
        return "reference" if self.comparison is None else self.comparison.verdict.name.lower()


@dataclass(frozen=True)
class SizeBlock:
    """The sides of one family that answered the same tasks; the reference is number 1. ``left_out``: labels of those that did not."""

    family: str
    tasks: tuple[str, ...]
    rows: list[SizeRow]
    left_out: tuple[str, ...]

    @property
    def of_speech(self) -> bool:
        return self.family == SPEECH

    @property
    def unit(self) -> str:
        return "word error rate" if self.of_speech else "score"

    @property
    def picture(self) -> Markup:
        return size_svg(self)


def size_blocks(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> list[SizeBlock]:
    """One a family with two sides or more of different weights; [] where all are of the same files, as torch and MLX mostly are."""
    found = []
    known = {id(each.candidate): each for each in comparisons}
    references = {id(each.reference) for each in comparisons}
    for family, members in by_family([side for side in sides if side.runs]).items():
        reference = next((side for side in members if id(side) in references), members[0] if members else None)
        if reference is None:
            continue
        tasks = tuple(reference.tasks)
        able = [side for side in members if set(tasks) <= set(side.tasks) and size_of(side) is not None]
        if not any(side is reference for side in able) or len({weights_of(side) for side in able}) < 2:
            continue
        ordered = [reference, *(side for side in able if side is not reference)]
        rows = [row_of(number, side, tasks, reference, known.get(id(side))) for number, side in enumerate(ordered, 1)]
        left_out = tuple(side.label for side in members if not any(side is other for other in able))
        found.append(SizeBlock(str(family), tasks, rows, left_out))
    return found


def weights_of(side: Side) -> Any:
    return side.manifest["key"]["model"].get("weights"), size_of(side)


def size_of(side: Side) -> int | None:
    return next((size for run in side.all_runs if (size := size_on_disk(run))), None)


def row_of(number: int, side: Side, tasks: Sequence[str], reference: Side, comparison: Comparison | None) -> SizeRow:
    size, base = size_of(side) or 0, size_of(reference)
    compressed, asked = compression_of(side)
    value, low, high, n = speech_score(side, tasks) if side.family == SPEECH else score_of(side, tasks)
    return SizeRow(
        number, side, size, stored_as(side), compressed, asked, value, low, high, n, size / base if base else None,
        comparison if side is not reference else None,
    )  # fmt: skip


def stored_as(side: Side) -> str:
    """The recipe of a converted model, the quantisation of any other, else the precision of its stored weights."""
    held = artifact_of(side)
    label = (held.get("converted") or {}).get("label")
    if label:
        return str(label)
    packed = side.loaded.get("quantisation") or held.get("quantisation")
    if isinstance(packed, dict) and packed.get("bits"):
        return f"{packed['bits']}-bit"
    if packed:
        return str(packed)
    kinds = dict.fromkeys(str(each.get("dtype")) for each in (held.get("tensors") or {}).values())
    return ", ".join(kinds) or "–"


def artifact_of(side: Side) -> dict[str, Any]:
    return next((held for run in side.all_runs if (held := run.artifact)), None) or {}


def compression_of(side: Side) -> tuple[int | None, int | None]:
    """(weights that are compressed, weights that were to be); (None, None) where nothing is known of single weights."""
    held = artifact_of(side)
    tensors = held.get("tensors") or {}
    if held.get("converted"):
        done = sum(map(is_compressed, tensors.values()))
        return done, done + sum(map(is_skipped, tensors.values()))
    packed = held.get("quantised")
    return (len(packed), len(packed)) if isinstance(packed, list) else (None, None)


def score_of(side: Side, tasks: Sequence[str]) -> tuple[float | None, float | None, float | None, int]:
    """(mean in per cent, 95 % interval where items are right or wrong, items) over all items of the tasks."""
    scores = [line["score"] for task in tasks for line in side.lines[task].values() if line["output"]["finish"] != "error"]
    failed = sum(len(side.lines[task]) for task in tasks) - len(scores)
    values = [score["value"] or 0.0 for score in scores] + [0.0] * failed
    if not values:
        return None, None, None, 0
    low = high = None
    if all(value in (0.0, 1.0) for value in values):
        low, high = (100 * bound for bound in wilson(int(sum(values)), len(values)))
    return 100 * sum(values) / len(values), low, high, len(values)


def speech_score(side: Side, tasks: Sequence[str]) -> tuple[float | None, float | None, float | None, int]:
    """(word error rate in per cent, its 95 % interval where there is one task, utterances): errors over words, pooled."""
    rows = [row for row in speech_rows([side]) if row.task in tasks]
    words, n = sum(row.words for row in rows), sum(row.utterances for row in rows)
    low, high = rows[0].bounds if len(rows) == 1 else (None, None)
    bounds = [None if bound is None or not isfinite(bound) else 100 * bound for bound in (low, high)]
    return (100 * sum(row.errors for row in rows) / words if words else None), bounds[0], bounds[1], n


def size_svg(block: SizeBlock) -> Markup:
    """Sizes from 0 on the horizontal axis, scores on the vertical one; the band is the margin around the reference's score."""
    shown = [row for row in block.rows if row.value is not None]
    if not shown:
        return Markup("")
    widest = rounded_up(max(row.size_bytes for row in shown) * 1.04)
    base = shown[0] if shown[0].number == 1 else None
    margin = next((row.comparison.verdict.margin for row in shown if row.comparison and row.comparison.verdict.margin), None)
    band = band_of(margin, base.value) if margin and base and base.value is not None else None
    ends = [end for row in shown for end in (row.value, row.low, row.high) if end is not None] + list(band or ())
    low, high = min(ends), max(ends)
    room = max(0.08 * (high - low), 0.5)
    low, high = max(0.0, low - room), high + room if block.of_speech else min(100.0, high + room)
    across = lambda size: round(9 + 88 * size / widest, 2)  # noqa: E731
    up = lambda value: round(86 - 80 * (value - low) / (high - low), 2)  # noqa: E731
    parts = []
    if band is not None:
        top, bottom = up(min(high, band[1])), up(max(low, band[0]))
        parts.append(f'<rect class="band" x="9%" y="{top}%" width="89%" height="{round(bottom - top, 2)}%"/>')
        parts.append(f'<line class="zero" x1="9%" x2="98%" y1="{up(base.value)}%" y2="{up(base.value)}%"/>')  # type: ignore[union-attr]
    for tick in steps(low, high):
        parts.append(f'<line class="rail" x1="9%" x2="98%" y1="{up(tick)}%" y2="{up(tick)}%"/>')
        parts.append(f'<text class="tick" x="8%" y="{up(tick)}%" dy=".3em" text-anchor="end">{tick:g}</text>')
    for tick in steps(0.0, widest / 1e6):
        place = across(tick * 1e6)
        parts.append(f'<line class="tick" x1="{place}%" x2="{place}%" y1="88%" y2="90%"/>')
        parts.append(f'<text class="tick" x="{place}%" y="96%" text-anchor="middle">{tick:g}</text>')
    places = [(across(row.size_bytes), up(row.value)) for row in shown]
    for row, place in reversed(list(zip(shown, places, strict=True))):  # the reference on top
        parts.append(point(row, place[0], up, corner(place, [other for other in places if other is not place])))
    words = "; ".join(f"{row.number}: {row.size_bytes / 1e6:.2f} MB, {row.value:.2f} %" for row in shown)
    return Markup(
        f'<svg class="plot sizes" role="img" aria-label="Size on disk and {block.unit}: {words}" width="100%" height="100%">{"".join(parts)}</svg>'
    )


def corner(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> tuple[str, str, str]:
    """Where a point's number stands (dx, dy, anchor): away from the points that are near."""
    near = [other for other in others if abs(other[0] - place[0]) < 9 and abs(other[1] - place[1]) < 12]
    right, left = any(other[0] >= place[0] for other in near), any(other[0] < place[0] for other in near)
    return ("0", "-1em", "middle") if right and left else ("-9", "-.5em", "end") if right else ("9", "-.5em", "start")


def point(row: SizeRow, x: float, up: Any, at: tuple[str, str, str]) -> str:
    y = up(row.value)
    whisker = ""
    if row.low is not None and row.high is not None:
        whisker = f'<line class="whisker thin" x1="{x}%" x2="{x}%" y1="{up(row.low)}%" y2="{up(row.high)}%"/>'
    shape = (
        f'<svg x="{x}%" y="{y}%" overflow="visible"><path class="point" d="M0 -7 L7 0 L0 7 L-7 0 Z"/></svg>'
        if row.comparison is None
        else f'<circle class="point v-{row.kind}" cx="{x}%" cy="{y}%" r="5"/>'
    )
    return (
        f'{whisker}{shape}<text class="mark" x="{x}%" y="{y}%" dx="{at[0]}" dy="{at[1]}" text-anchor="{at[2]}">{row.number}</text>'
    )


def band_of(margin: Margin, value: float) -> tuple[float, float]:
    low, high = margin_bounds(margin, value / 100)
    return value + 100 * low, value + 100 * high


def rounded_up(value: float) -> float:
    power = 10.0 ** floor(log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if value <= step * power * (1 + 1e-9))


def steps(low: float, high: float) -> list[float]:
    """Round numbers within the bounds, three to six of them."""
    raw = (high - low) / 4
    power = 10.0 ** floor(log10(raw)) if raw > 0 else 1.0
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if raw <= each * power * (1 + 1e-9))
    first = floor(low / step + 0.999999)
    return [round(step * number, 10) for number in range(int(first), int(floor(high / step + 1e-9)) + 1)]


def size_parts(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The same in Markdown."""
    blocks = size_blocks(sides, comparisons)
    if blocks:
        yield "## What compression costs"
    for block in blocks:
        yield f"Size on disk against {block.unit} on {markdown(', '.join(block.tasks), 300)}."
        columns = ("", "model", "stored as", "size on disk", "of the reference", "weights compressed", block.unit, "95 % interval", "n", "difference (points)", "verdict")  # fmt: skip
        lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        for row in block.rows:
            cells = (
                str(row.number), markdown(row.label), markdown(row.stored_as, 160), byte_text(row.size_bytes), ratio_text(row), row.weights,
                row.score, row.bounds, f"{row.n:,}", row.difference, verdict_text(row),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        yield "\n".join(lines)


def ratio_text(row: SizeRow) -> str:
    return "–" if row.ratio is None else f"{100 * row.ratio:.0f} %"


def verdict_text(row: SizeRow) -> str:
    name = row.comparison.verdict.name if row.comparison else None
    return "reference" if name is None else f"{SYMBOLS[name]} {name}"


def size_lines(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> Iterator[Sequence[Any]]:
    """Lines of sizes.csv, as ``COLUMNS``."""
    for block in size_blocks(sides, comparisons):
        for row in block.rows:
            overall = row.comparison.overall if row.comparison else None
            paired = [None] * 3 if overall is None else [100 * each for each in (overall.difference, overall.low90, overall.high90)]
            yield (
                row.number, block.family, row.label, row.stored_as, row.size_bytes, row.ratio, row.compressed, row.asked, row.value,
                "% WER" if block.of_speech else "%", row.low, row.high, row.n, *paired,
                row.comparison.verdict.name if row.comparison else "reference",
            )  # fmt: skip
