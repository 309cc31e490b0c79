"""The picture of an error against depth: where it starts, and which layer makes it. As SVG for pages, and with matplotlib.

    drift_svg(lines, guilty="vision.block.1.attention")      # '<svg class="plot drift" ...>', lines as in layers.jsonl, one input
    plot_drift(lines, ax)                                    # the same numbers in a notebook

A line: ``{"layer", "relative_rms", "own_relative_rms", "made_relative_rms", "times_own", "reason"}``; numbers may be None. The axis
is logarithmic. An error of 0 stands on a floor below it, a value that is no finite number on a ceiling above, and a missing one leaves
a gap. Positions are per cent of the width, as in ``workbench.report.forest``, and no name of a layer ever covers another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10
from typing import Any

from markupsafe import Markup, escape

from workbench.metrics.drift import LIMIT
from workbench.report.text import bounded, visible

HEIGHT, EDGE = 230, 16
"""Pixels of the plot, and of its floor and its ceiling."""
NAME = 26
"""Characters of a layer's name under the plot."""
NARROW, WIDE = 270.0, 620.0
"""Pixels that the plot has at least on a telephone, and on the page of a larger screen (style.css: ``.drift``)."""
PITCH = 13.0
"""Pixels between two names that stand beside each other, upright."""
MOST_DECADES = 60


@dataclass(frozen=True)
class Drift:
    """The layers that both sides have, in order: relative RMS errors, None where there is none.

    ``error``: the candidate's. ``own``: torch's own. ``limit``: what the layer may have before it departs. ``made``: what the layer
    makes from the reference's activations. ``broken``: values that are finite on one side only. ``left_out``: layers of one side only.
    """

    names: list[str]
    error: list[float | None]
    own: list[float | None]
    limit: list[float | None]
    made: list[float | None]
    broken: list[bool]
    left_out: int

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Drift:
        found = cls([], [], [], [], [], [], 0)
        left_out = 0
        for line in lines:
            error, times = number(line.get("relative_rms")), number(line.get("times_own"))
            if error is None and line.get("reason"):
                left_out += 1
                continue
            error = None if line.get("n") == 0 else error  # nothing was finite on both sides
            own = number(line.get("own_relative_rms"))
            yardstick = number(error / times) if error and times else own
            found.names.append(visible(str(line.get("layer"))))
            found.error.append(error)
            found.own.append(own)
            found.limit.append(LIMIT * yardstick if yardstick else None)
            found.made.append(number(line.get("made_relative_rms")))
            found.broken.append((line.get("non_finite_reference") or 0) != (line.get("non_finite_candidate") or 0))
        return cls(found.names, found.error, found.own, found.limit, found.made, found.broken, left_out)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def decades(self) -> tuple[int, int]:
        """Powers of ten at the ends of the axis: every positive value is inside, and they are at least two decades apart."""
        values = [each for each in (*self.error, *self.own, *self.limit, *self.made) if each]
        if not values:
            return -8, 0
        low, high = floor(log10(min(values))), ceil(log10(max(values)))
        return max(low, high - MOST_DECADES), max(high, low + 2)

    def across(self, place: int) -> float:
        """The middle of a layer, as a fraction of the width."""
        return (place + 0.5) / len(self)

    def chosen(self, pixels: float, guilty: str | None, taken: Sequence[int] = ()) -> list[int]:
        """The layers that are named where the plot is so wide: the guilty one, both ends, the starts of towers, whole blocks, others."""
        kept = list(taken)
        for place in sorted(range(len(self)), key=lambda each: self.rank(each, guilty)):
            if all(abs(self.across(place) - self.across(each)) * pixels >= PITCH for each in kept):
                kept.append(place)
        return sorted(kept)

    def rank(self, place: int, guilty: str | None) -> tuple[int, int]:
        name = self.names[place]
        tower, parts = name.partition(".")[0], name.split(".")
        if name == guilty:
            return 0, place
        if place in (0, len(self) - 1):
            return 1, place
        if tower != self.names[place - 1].partition(".")[0]:
            return 2, place
        return 3 if parts[-1].isdigit() else 4, place


def number(value: Any) -> float | None:
    """A finite number that is not negative; None for everything else. No error of a tensor is beyond 1e±100."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
        return None
    return 0.0 if value < 1e-100 else float(min(value, 1e100))


GUILTY = "first guilty layer"


def drift_svg(
    lines: Iterable[Mapping[str, Any]] | Drift, guilty: str | None = None, side: str = "the port's error", mark: str = GUILTY
) -> Markup:
    """The picture of one input's layers. ``guilty``: the layer to mark and name, ``mark``: as what. ``side`` says whose error it is."""
    drift = lines if isinstance(lines, Drift) else Drift.of(lines)
    low, high = drift.decades
    guilty = None if guilty is None else visible(guilty)
    below = 14 + 7 * min(NAME, max(map(len, drift.names), default=0))

    def up(value: float) -> float:
        inside = min(1.0, max(0.0, (log10(value) - low) / (high - low)))
        return round(EDGE + (HEIGHT - 2 * EDGE) * (1 - inside), 1)

    parts = [rails(low, high, up)]
    if guilty in drift.names:
        place = at(drift.across(drift.names.index(guilty)))
        parts.append(f'<line class="guilty" x1="{place}%" x2="{place}%" y1="0" y2="{HEIGHT + 4}"/>')
        parts.append(f'<svg x="{place}%" y="0" overflow="visible"><path class="guilty-mark" d="M-6 -7 H6 L0 2 Z"/></svg>')
    if len(drift):
        parts.append(curves(drift, up))
        parts.append(names(drift, guilty))
        parts.append(hover(drift))
    return Markup(
        f'<svg class="plot drift" role="img" aria-label="{escape(words(drift, guilty, side, mark))}" width="100%" height="{round(HEIGHT + below)}">'
        f"{''.join(parts)}</svg>"
    )


def drift_figure(
    lines: Iterable[Mapping[str, Any]], guilty: str | None = None, side: str = "the port's error", mark: str = GUILTY
) -> Markup:
    """The picture with its key, in a box that scrolls where the screen is narrower than a telephone's."""
    drift = Drift.of(lines)
    if not len(drift):
        return Markup('<p class="empty">No layer could be compared on both sides.</p>')
    keys = [("error", side), ("band", f"torch's own in the same precision, up to {LIMIT:g} times that")]
    keys += (
        [("made", "made by the layer itself, given the reference's activations")]
        if any(each is not None for each in drift.made)
        else []
    )
    keys += [("floor", "no error at all, below the axis")] if any(each == 0 for each in (*drift.error, *drift.made)) else []
    keys += [("lost", "not finite on one side")] if any(drift.broken) else []
    shown = "".join(f"<li>{KEYS[kind]}<span>{escape(visible(text))}</span></li>" for kind, text in keys)
    if guilty is not None and visible(guilty) in drift.names:
        shown += f'<li>{KEYS["guilty"]}<span>{escape(mark)}: <strong><bdi dir="auto">{escape(bounded(guilty, 120))}</bdi></strong></span></li>'
    n = drift.left_out
    left_out = f" {n} {'layer' if n == 1 else 'layers'} without a counterpart {'is' if n == 1 else 'are'} not drawn." if n else ""
    return Markup(
        f'<figure class="drift-figure"><ul class="drift-key">{shown}</ul><div class="drift-box">{drift_svg(drift, guilty, side, mark)}</div>'
        f"<figcaption>RMS of the error over RMS of the reference, layer by layer in the order of execution.{left_out}</figcaption></figure>"
    )


def _key(inner: str) -> str:
    return f'<svg class="plot drift key" aria-hidden="true" width="26" height="12">{inner}</svg>'


KEYS = {
    "error": _key('<path class="error" d="M1 6 H25"/><path class="error dots" d="M13 6 h0"/>'),
    "band": _key('<rect class="healthy" x="1" y="0" width="24" height="12"/><path class="own" d="M1 11 H25"/>'),
    "made": _key('<path class="made" d="M13 6 h0"/>'),
    "floor": _key(
        '<path class="floor-mark of-error" d="M2 3 H12 L7 10 Z"/><path class="floor-mark of-made" d="M14 3 H24 L19 10 Z"/>'
    ),
    "lost": _key('<path class="lost" d="M9 2 L17 10 M17 2 L9 10"/>'),
    "guilty": _key('<path class="guilty-mark" d="M7 1 H19 L13 11 Z"/>'),
}


def rails(low: int, high: int, up: Any) -> str:
    """A line and a label a decade (or every few), the floor of zero and the ceiling of what is not finite."""
    step = ceil((high - low) / 7)
    parts = []
    for power in range(low, high + 1, step):
        y = up(10.0**power)
        parts.append(f'<line class="rail" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="-6" y="{y + 4}" text-anchor="end">{power_text(power)}</text>')
    return "".join(parts)


def power_text(power: int) -> str:
    return "1" if power == 0 else f"10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def curves(drift: Drift, up: Any) -> str:
    """Band, lines and dots in one stretched drawing: strokes keep their width, and a dot is a line of no length with round ends."""
    n = len(drift)

    def path(values: Sequence[float | None]) -> str:
        """Runs of positive values; a zero or a gap ends one."""
        found, drawing = [], False
        for place, value in enumerate(values):
            if value:
                found.append(f"{'L' if drawing else 'M'}{place + 0.5} {up(value)}")
            drawing = bool(value)
        return " ".join(found)

    def dots(values: Sequence[float | None]) -> str:
        return " ".join(f"M{place + 0.5} {up(value)}h0" for place, value in enumerate(values) if value)

    band = "".join(
        f'<rect class="healthy" x="{place}" width="1" y="{up(limit)}" height="{round(up(own or limit / LIMIT) - up(limit), 1)}"/>'
        for place, (own, limit) in enumerate(zip(drift.own, drift.limit, strict=True))
        if limit
    )
    size = "" if n <= 120 else " small"
    drawn = (
        f'{band}<path class="own" d="{path(drift.own)}"/><path class="made{size}" d="{dots(drift.made)}"/>'
        f'<path class="error" d="{path(drift.error)}"/><path class="error dots{size}" d="{dots(drift.error)}"/>'
    )
    marks = []
    for place, (error, made, broken) in enumerate(zip(drift.error, drift.made, drift.broken, strict=True)):
        x = at(drift.across(place))
        for value, kind, y in ((error, "of-error", HEIGHT - 9), (made, "of-made", HEIGHT - 3)):
            if value == 0:
                marks.append(
                    f'<svg x="{x}%" y="{y}" overflow="visible"><path class="floor-mark {kind}" d="M-4 -3 H4 L0 2 Z"/></svg>'
                )
        if broken:
            marks.append(f'<svg x="{x}%" y="8" overflow="visible"><path class="lost" d="M-4 -4 L4 4 M4 -4 L-4 4"/></svg>')
    stretched = f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {n} {HEIGHT}" preserveAspectRatio="none">{drawn}</svg>'
    return stretched + "".join(marks)


def names(drift: Drift, guilty: str | None) -> str:
    """Upright names under the plot; those of class ``wide`` are shown where it is wide enough."""
    few = drift.chosen(NARROW, guilty)
    found = []
    for place in drift.chosen(WIDE, guilty, few):
        kinds = " ".join(["name", *(["strong"] if drift.names[place] == guilty else []), *([] if place in few else ["wide"])])
        found.append(
            f'<svg class="{kinds}" x="{at(drift.across(place))}%" y="{HEIGHT + 7}" overflow="visible">'
            f'<text transform="rotate(-90)" x="0" y="4" text-anchor="end">{escape(shortened(drift.names[place]))}</text></svg>'
        )
    return "".join(found)


def hover(drift: Drift) -> str:
    """A pane over each layer, whose title says its numbers."""
    found = []
    for place, name in enumerate(drift.names):
        said = [("error", drift.error[place]), ("torch's own", drift.own[place]), ("made here", drift.made[place])]
        text = f"{bounded(name, 120)}: " + ", ".join(f"{what} {value:.2g}" for what, value in said if value is not None)
        found.append(
            f'<rect class="pane" x="{at(place / len(drift))}%" width="{at(1 / len(drift))}%" y="0" height="{HEIGHT}"><title>{escape(text)}</title></rect>'
        )
    return "".join(found)


def words(drift: Drift, guilty: str | None, side: str, mark: str = GUILTY) -> str:
    """What the picture shows, for those who do not see it."""
    known = [(value, name) for value, name in zip(drift.error, drift.names, strict=True) if value is not None]
    said = f"{visible(side)} at {len(drift)} layers in order"
    if known:
        value, name = max(known, key=lambda each: each[0])
        said += f"; largest {value:.2g} at {bounded(name, 120)}"
    return said + (f"; {mark} {bounded(guilty, 120)}" if guilty is not None else "")


def shortened(name: str) -> str:
    """Both ends of a long name."""
    return name if len(name) <= NAME else f"{name[: NAME // 2 - 1]}…{name[-(NAME // 2) :]}"


def at(fraction: float) -> float:
    return round(100 * fraction, 3)


def plot_drift(
    layers: Iterable[Mapping[str, Any]],
    ax: Any = None,
    guilty: str | None = None,
    side: str = "the port's error",
    mark: str = GUILTY,
) -> Any:
    """The same picture with matplotlib, in ``ax`` (a new figure's when None), which is returned.

    Raises ValueError when no layer could be compared.
    """
    from workbench.report.plots import BAND, INK, POINT, literal, quiet

    drift = Drift.of(layers)
    if not len(drift):
        raise ValueError("no layer could be compared on both sides, so there is no error to draw")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(9, 4.6), layout="constrained")[1]
    nan = float("nan")
    low, high = drift.decades
    across = list(range(len(drift)))
    ends = [[(value or nan) for value in values] for values in (drift.own, drift.limit)]
    ax.fill_between(across, *ends, step="mid", color=BAND, linewidth=0, label=f"torch's own, up to {LIMIT:g} times that")
    ax.plot(across, ends[0], color=INK, linewidth=0.8, linestyle="--")
    ax.plot(across, [value or nan for value in drift.error], "o-", color=POINT, markersize=4, linewidth=1.4, label=literal(side))
    ax.plot(across, [value or nan for value in drift.made], "s", color="#a8331b", markersize=4, label="made by the layer itself")
    for values, marker, height, label in (
        ([0 in pair for pair in zip(drift.error, drift.made, strict=True)], "v", 10.0**low, "no error at all"),
        (drift.broken, "x", 10.0**high, "not finite on one side"),
    ):
        places = [place for place, here in enumerate(values) if here]
        if places:
            ax.plot(places, [height] * len(places), marker, color=INK, markersize=5, clip_on=False, label=label)
    if guilty is not None and visible(guilty) in drift.names:
        ax.axvline(
            drift.names.index(visible(guilty)), color="#a8331b", linewidth=1, label=literal(f"{mark}: {bounded(guilty, 60)}")
        )
    ax.set_yscale("log")
    ax.set_ylim(10.0**low, 10.0**high)
    ax.set_xlim(-0.5, len(drift) - 0.5)
    shown = drift.chosen(WIDE, None if guilty is None else visible(guilty))
    ax.set_xticks(shown, [literal(shortened(drift.names[place])) for place in shown], rotation=90, fontsize=7)
    ax.set_ylabel("RMS error / RMS of the reference")
    ax.legend(loc="best", frameon=False, fontsize=8)
    quiet(ax)
    return ax
