"""A comparison as text for a terminal, and as a small HTML block for a notebook. The whole page is ``workbench report``."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.parity.comparison import Comparison

SYMBOLS = {"same": "=", "close": "≈", "different": "≠", "unclear": "?", "not run": "·", "information": "i"}
WIDTH = 118
MOST_LAYERS = 12
NAME = 40
NUMBERS = ("relative_rms", "snr_db", "times_own", "made_times_own")
"""Of a layer; where no value is finite on both sides there are none."""


def printable(text: str) -> str:
    """Names come from somebody's bundle: what would steer the terminal is shown, not obeyed."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def wrapped(text: str, **indents: str) -> list[str]:
    """``text`` in lines of at most ``WIDTH`` characters; names with dashes and paths stay whole."""
    return textwrap.wrap(printable(text), WIDTH, break_on_hyphens=False, break_long_words=False, **indents)


def comparison_text(comparison: Comparison) -> str:
    """Verdict, ladder, strata of at most one axis, notes."""
    lines = [*wrapped(comparison.verdict.sentence), ""]
    width = max(9, *(len(rung.name) for rung in comparison.rungs))
    for rung in comparison.rungs:
        head = f"{rung.number} {rung.name:<{width}} {SYMBOLS[rung.status]} {rung.status:<12}"
        lines += wrapped(rung.finding, initial_indent=f"{head} ", subsequent_indent=" " * (len(head) + 1))
        if rung.fix:
            lines += wrapped(f"try: {rung.fix}", initial_indent=" " * (len(head) + 1), subsequent_indent=" " * (len(head) + 6))
    broken = comparison.first_broken
    if broken:
        lines += ["", f"The first rung that differs is {broken.number} ({broken.name}): look there first."]
    if comparison.verdict.margin is None:
        lines += layer_lines(comparison)
    tasks = [stratum for stratum in comparison.strata if stratum.axis == "task"]
    if tasks:
        lines += [
            "",
            *(["Word error rates; a positive difference is worse:"] if comparison.of_speech else []),
            f"{'task':<24}{'n':>7}{'reference':>11}{'candidate':>11}{'difference':>12}  90 % interval (points)   broke  fixed",
        ]
        for each in tasks:
            found = each.paired
            interval = f"{100 * found.low90:+.2f} to {100 * found.high90:+.2f}"
            lines.append(
                f"{printable(each.name)[:23]:<24}{found.n:>7,}{100 * found.reference:>10.2f}%{100 * found.candidate:>10.2f}%{100 * found.difference:>+12.2f}  {interval:<24}{found.broke:>6}{found.fixed:>7}"
            )
    if comparison.notes:
        lines += [""]
        for note in comparison.notes:
            lines += wrapped(f"note: {note}", subsequent_indent="      ")
    return "\n".join(lines)


def layer_lines(comparison: Comparison) -> list[str]:
    """Of captures: the layers around the first that departs and the first guilty one, else those with the largest errors."""
    facts = next((rung.facts for rung in comparison.rungs if rung.number == 3), {})
    compared = [
        row if row["n"] else {**row, **dict.fromkeys(NUMBERS)} for row in facts.get("layers") or () if "relative_rms" in row
    ]
    if not compared:
        return []
    named = [(facts.get("first_departing"), "first departing"), (facts.get("first_guilty"), "first guilty")]
    centres = [place for place, row in enumerate(compared) if row["layer"] in dict(named)]
    if centres:
        nearest = sorted(range(len(compared)), key=lambda place: min((abs(place - each), place < each) for each in centres))
        shown, title = sorted(nearest[:MOST_LAYERS]), "layers around the finding"
    else:
        worst = sorted(
            range(len(compared)), key=lambda place: -(compared[place]["times_own"] or compared[place]["relative_rms"] or 0.0)
        )
        shown, title = sorted(worst[: MOST_LAYERS // 2]), "layers with the largest errors"
    localised = any(row.get("made_times_own") is not None for row in compared)
    made = f"{'makes':>9}" if localised else ""
    found = ["", f"{f'{title} ({len(shown)} of {len(compared)})':<44}{'RMS error':>10}{'SNR dB':>9}{'× own':>9}{made}"]
    for before, place in zip([shown[0] - 1, *shown], shown, strict=False):
        row = compared[place]
        found += ["  ..."] if place > before + 1 else []
        cells = f"{number(row['relative_rms'], '.1e'):>10}{'inf' if row['relative_rms'] == 0 else number(row['snr_db'], '.1f'):>9}{number(row['times_own'], '.3g'):>9}"
        cells += f"{number(row['made_times_own'], '.3g'):>9}" if localised else ""
        marks = [said for name, said in named if name == row["layer"]]
        marks += ["not finite"] if row["non_finite_reference"] or row["non_finite_candidate"] else []
        found.append(f"  {printable(shortened(row['layer'])):<42}{cells}{'  < ' if marks else ''}{', '.join(marks)}")
    return found


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def shortened(name: str) -> str:
    """Both ends of a long name, on one line."""
    name = name.replace("\n", " ")
    return name if len(name) <= NAME else f"{name[: NAME // 2 - 2]}...{name[-(NAME // 2 - 1) :]}"


def comparison_html(comparison: Comparison) -> str:
    """Verdict and ladder as a table; everything escaped."""
    rows = "".join(
        f"<tr><td>{rung.number}</td><td>{rung.name}</td><td>{SYMBOLS[rung.status]}&nbsp;{rung.status}</td>"
        f"<td style='text-align:left'>{html.escape(rung.finding)}</td></tr>"
        for rung in comparison.rungs
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes)
    return (
        f"<div><p><strong>{html.escape(comparison.verdict.sentence)}</strong></p>"
        f"<table><thead><tr><th></th><th>rung</th><th>status</th><th style='text-align:left'>finding</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )
