"""The picture of paired differences: a forest plot, drawn here as SVG so that it needs no script.

    scale = Scale.of([stratum.paired for stratum in strata], margin_low=-0.02, margin_high=0.02)
    row_svg(stratum.paired, scale)     # '<svg class="plot" ...>' : interval, point, margin band, zero line

Positions are per cent of the width, so one drawing is sharp and readable from 390 to 1400 pixels; colours are classes of the page's
style sheet, so that light, dark and print are right. Everything in it is a number of ours: no foreign text enters an SVG.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup

from workbench.metrics.stats import Margin, PairedDifference
from workbench.report.text import points


def margin_bounds(margin: Margin, reference: float) -> tuple[float, float]:
    """The margin around a difference of 0, as fractions; a relative margin is one of the reference's score."""
    low, high = margin.bounds
    return (low, high) if margin.kind == "absolute" else (reference * (low - 1), reference * (high - 1))


@dataclass(frozen=True)
class Scale:
    """A symmetric axis in fractions, from ``-limit`` to ``limit``, with the margin."""

    limit: float
    margin_low: float
    margin_high: float

    @classmethod
    def of(cls, differences: Iterable[PairedDifference], margin_low: float, margin_high: float) -> Scale:
        """An axis that shows the margin well and the first difference (of all items) whole.

        It reaches nine of ten intervals, up to six margins: a few small groups must not flatten the rest. Longer intervals end
        in an arrow.
        """
        ends = [max(abs(paired.low90), abs(paired.high90)) for paired in differences]
        widest = max(abs(margin_low), abs(margin_high))
        most = sorted(ends)[min(len(ends) - 1, int(0.9 * len(ends)))] if ends else 0.0
        reach = max(1.6 * widest, min(1.06 * most, 6 * widest), 1.06 * (ends[0] if ends else 0.0))
        return cls(rounded_up(min(1.0, reach)), margin_low, margin_high)

    def at(self, fraction: float) -> float:
        """Per cent of the width, kept inside the axis."""
        return round(min(99.4, max(0.6, 50 + 48 * fraction / self.limit)), 2)

    @property
    def ticks(self) -> list[float]:
        """Five marks: both ends, the halves and zero."""
        return [-self.limit, -self.limit / 2, 0.0, self.limit / 2, self.limit]


def rounded_up(value: float) -> float:
    """The next of 1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    step = next(step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if value <= step * power * (1 + 1e-9))
    return min(1.0, step * power)


def frame(scale: Scale) -> str:
    low, high, zero = scale.at(scale.margin_low), scale.at(scale.margin_high), scale.at(0.0)
    return (
        f'<rect class="band" x="{low}%" y="0" width="{round(high - low, 2)}%" height="100%"/>'
        f'<line class="edge" x1="{low}%" x2="{low}%" y1="0" y2="100%"/><line class="edge" x1="{high}%" x2="{high}%" y1="0" y2="100%"/>'
        f'<line class="zero" x1="{zero}%" x2="{zero}%" y1="0" y2="100%"/>'
    )


def row_svg(paired: PairedDifference, scale: Scale, strong: bool = False) -> Markup:
    """One row: the 90 % interval as a line with ends (a triangle where it leaves the axis), the difference as a point."""
    low, high, centre = scale.at(paired.low90), scale.at(paired.high90), scale.at(paired.difference)
    parts = [frame(scale), f'<line class="whisker" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>']
    for value, place, turn in ((paired.low90, low, "180"), (paired.high90, high, "0")):
        if abs(value) > scale.limit:
            arrow = f'<svg x="{place}%" y="50%" overflow="visible"><path class="arrow" d="M-6 -4 L1 0 L-6 4 Z" transform="rotate({turn})"/></svg>'
            parts.append(arrow)
        else:
            parts.append(f'<svg x="{place}%" y="50%" overflow="visible"><path class="whisker" d="M0 -4 V4"/></svg>')
    size = 5 if strong else 3.5
    shape = (
        f'<svg x="{centre}%" y="50%" overflow="visible"><path class="point" d="M0 -7 L7 0 L0 7 L-7 0 Z"/></svg>'
        if strong
        else f'<circle class="point" cx="{centre}%" cy="50%" r="{size}"/>'
    )
    words = f"difference {points(paired.difference)} points, 90 % interval {points(paired.low90)} to {points(paired.high90)}"
    return Markup(f'<svg class="plot" role="img" aria-label="{words}" width="100%" height="100%">{"".join(parts)}{shape}</svg>')


def axis_svg(scale: Scale) -> Markup:
    """The axis with its ticks, in points."""
    digits = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-9 for tick in scale.ticks) else 1 if scale.limit >= 0.01 else 2
    parts = []
    for number, tick in enumerate(scale.ticks):
        place = scale.at(tick)
        anchor = ("start", "middle", "middle", "middle", "end")[number]
        parts.append(f'<line class="tick" x1="{place}%" x2="{place}%" y1="0" y2="5"/>')
        text = "0" if tick == 0 else points(tick, digits)
        parts.append(f'<text class="tick" x="{place}%" y="17" text-anchor="{anchor}">{text}</text>')
    return Markup(f'<svg class="plot axis" aria-hidden="true" width="100%" height="20">{"".join(parts)}</svg>')


def share_svg(value: float, low: float | None, high: float | None, strong: bool = False) -> Markup:
    """A score in per cent as a point on 0 to 100, with its interval."""
    parts = ['<line class="rail" x1="1%" x2="99%" y1="50%" y2="50%"/>']
    if low is not None and high is not None:
        parts.append(f'<line class="whisker" x1="{at_percent(low)}%" x2="{at_percent(high)}%" y1="50%" y2="50%"/>')
    kind = "point first" if strong else "point"
    parts.append(f'<circle class="{kind}" cx="{at_percent(value)}%" cy="50%" r="4"/>')
    return Markup(
        f'<svg class="plot share" role="img" aria-label="{value:.1f} of 100" width="100%" height="100%">{"".join(parts)}</svg>'
    )


def at_percent(value: float) -> float:
    return round(1 + 0.98 * min(100.0, max(0.0, value)), 2)
