"""The Markdown twin of the page, for an issue, a pull request or a terminal.

    markdown_text(sides, comparisons, title="...")      # '# demo:vlm@mlx against demo:vlm@torch\n\n**EQUIVALENT** ...'

Foreign text is escaped (``workbench.report.text.markdown``): no markup, HTML or link of a model's comes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from workbench.parity.comparison import Comparison
from workbench.parity.sides import Side
from workbench.parity.word_errors import errors_of
from workbench.report.blocks import SYMBOLS, Candidate, SideGroups, interval, run_warnings, title_of
from workbench.report.environment import environment_rows
from workbench.report.items import Entry, entries
from workbench.report.kits import kit_parts
from workbench.report.layers import input_rows
from workbench.report.program_markdown import program_parts
from workbench.report.readiness import readiness_parts
from workbench.report.reasons import REASONS, reason_rows
from workbench.report.scores import score_rows
from workbench.report.sizes import size_parts
from workbench.report.speech import compared_with_nothing, speech_rows
from workbench.report.text import byte_text, fact, markdown, milliseconds, percent, plain, points
from workbench.report.timings import timing_blocks
from workbench.report.words import Alignments, marked

MOST_FLIPS = 50
MOST_LAYERS = 100
MOST_APART = 30
MOST_INPUTS = 50
LONGEST_TRANSCRIPT = 1_000


def markdown_text(
    sides: Sequence[Side], comparisons: Sequence[Comparison], *, title: str | None = None, command: str | None = None
) -> str:
    """The whole twin; ends with a newline."""
    candidates = [Candidate(comparison) for comparison in comparisons]
    parts = [f"# {markdown(title or title_of(sides, comparisons))}", *verdicts(candidates)]
    answered = any(side.runs for side in sides)
    alone = compared_with_nothing(sides, comparisons)
    if candidates and alone:
        parts.append(
            f"Compared with nothing, since no other run is of the same family: {', '.join(markdown(side.label) for side in alone)}."
        )
    if not candidates:
        parts += ["No reference, so no verdict.", *bullets(run_warnings(sides))]
    for candidate in candidates:
        parts += ladder(candidate, several=len(candidates) > 1)
    parts += program_parts(sides)
    for candidate in candidates:
        parts += depth_of(candidate, several=len(candidates) > 1)
    if answered:
        parts += ["## Scores", scores(sides), *spoken_scores(sides), *size_parts(sides, comparisons)]
        for candidate in candidates:
            parts += strata(candidate, several=len(candidates) > 1)
        parts += side_groups(alone)
        parts += timings(sides)
        parts += ["## Reasons", reasons(sides)]
    else:
        parts += inputs(sides)
    parts += readiness_parts(sides)
    parts += environment(sides)
    parts += kit_parts(sides)
    for candidate in candidates:
        if not candidate.about_layers:
            parts += flips(candidate.comparison, several=len(comparisons) > 1)
    if command:
        parts.append(f"Made by: {markdown(command, 1_000)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """A pipe table; the columns in ``right`` are aligned right. Cells must be escaped already."""
    marks = ["---:" if number in right else "---" for number in range(len(columns))]
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(marks)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bullets(texts: Iterable[str]) -> list[str]:
    found = "\n".join(f"- {markdown(text, 1_000)}" for text in texts)
    return [found] if found else []


def verdicts(candidates: Sequence[Candidate]) -> Iterator[str]:
    for candidate in candidates:
        yield f"**{candidate.symbol} {candidate.verdict.name}**: {markdown(candidate.sentence, 2_000)}"
        notes = [*candidate.notes, *(f"{count:,} items only on the side of {label}" for label, count, _ in candidate.unpaired)]
        notes += [str(field) for field in candidate.verdict.fields]
        yield from bullets(notes)
    if len(candidates) > 1:
        rows = [
            (
                markdown(each.label),
                each.verdict.name,
                points(each.overall.difference) if each.overall else "–",
                interval(each.overall.low90, each.overall.high90) if each.overall else "–",
                each.margin,
                f"{each.verdict.n:,}",
                f"{each.overall.broke:,} / {each.overall.fixed:,}" if each.overall else "–",
                each.first_different,
            )
            for each in candidates
        ]
        columns = ("candidate", "verdict", "difference", "90 % interval", "margin", "n", "broke / fixed", "first rung that differs")
        yield table(columns, rows, right=(2, 5, 6))


def heading(text: str, candidate: str, several: bool) -> str:
    return f"## {text}: {markdown(candidate)}" if several else f"## {text}"


def ladder(candidate: Candidate, *, several: bool) -> Iterator[str]:
    yield heading("Ladder", candidate.label, several)
    rows = []
    for rung in candidate.rungs:
        more = f" Next: {markdown(rung.fix)}" if rung.fix else ""
        rows.append((str(rung.number), rung.name, f"{SYMBOLS[rung.status]} {rung.status}", markdown(rung.finding, 1_000) + more))
    yield table(("", "rung", "status", "finding"), rows)


def depth_of(candidate: Candidate, *, several: bool) -> Iterator[str]:
    """Rung 3 layer by layer; the layers around the first that departs where there are too many."""
    depth = candidate.depth
    if depth is None:
        return
    yield heading("Layers", candidate.label, several)
    yield "\n".join(f"- {name}: {markdown(value)}" for name, value in depth.told)
    found = list(depth.cells)
    first = max(0, min(depth.place - MOST_LAYERS // 4, len(found) - MOST_LAYERS))
    rows = []
    for row, cells in found[first : first + MOST_LAYERS]:
        marks = "; ".join(depth.marks(row))
        name = f"{markdown(row['layer'], 160)} **◀ {markdown(marks)}**" if marks else markdown(row["layer"], 160)
        rows.append((name, *(value for _, value in cells)))
    if rows:
        columns = [name for name, _ in found[0][1]]
        yield table(("layer", *columns), rows, right=range(1, 1 + len(columns)))
    if len(depth.compared) > len(rows):
        yield f"{len(depth.compared) - len(rows):,} more are in layers.csv."
    for reason, names in depth.apart.items():
        more = f" and {len(names) - MOST_APART:,} more" if len(names) > MOST_APART else ""
        yield f"Not aligned ({markdown(reason)}): {', '.join(markdown(name, 160) for name in names[:MOST_APART])}{more}."


def inputs(sides: Sequence[Side]) -> Iterator[str]:
    found = input_rows(sides)
    if not found:
        return
    rows = []
    for row in found[:MOST_INPUTS]:
        remarks = [
            *(f"not captured: {label}" for label in row.missing),
            *(f"failed, {label}: {said}" for label, said in row.failed),
        ]
        tokens = "–" if row.tokens is None else f"{row.tokens:,}"
        rows.append(
            (
                markdown(row.id, 100),
                markdown(row.asked, 160) or "–",
                tokens,
                markdown(row.arrays, 200) or "–",
                markdown("; ".join(remarks)),
            )
        )
    yield "## Inputs"
    yield table(("input", "asked", "tokens", "other arrays", "remarks"), rows, right=(2,))
    if len(found) > MOST_INPUTS:
        yield f"{len(found) - MOST_INPUTS:,} more are in the bundles."


def spoken_scores(sides: Sequence[Side]) -> Iterator[str]:
    """Word error rates: never without profile, words, errors and interval."""
    rows = [
        (
            markdown(row.task),
            markdown(row.label),
            row.text,
            "; ".join(f"{told} ({name}s)" for name, told in row.told) or "–",
            markdown("; ".join((row.profile, *row.remarks))),
            f"{row.words:,}",
            f"{row.errors:,}",
            f"{row.substitutions:,} / {row.deletions:,} / {row.insertions:,}",
            *(percent(rate) for rate in (row.cer, row.mer, row.wil, row.sentence_error_rate)),
            f"{row.utterances:,}",
        )
        for row in speech_rows(sides)
    ]
    if rows:
        columns = ("task", "side", "WER", "95 % interval", "profile", "words", "errors", "S / D / I", "CER %", "MER %", "WIL %", "sentence errors %", "utterances")  # fmt: skip
        yield table(columns, rows, right=(2, *range(5, 13)))


def scores(sides: Sequence[Side]) -> str:
    if not (found := score_rows(sides)):
        return ""
    rows = [
        (
            markdown(row.task),
            markdown(row.label),
            markdown(row.text),
            row.interval,
            f"{row.scored:,}",
            f"{row.errors:,}",
            markdown("; ".join((row.scorer, *row.remarks))),
        )
        for row in found
    ]
    return table(("task", "side", "score", "95 % interval", "n", "errors", "scorer"), rows, right=(2, 4, 5))


def strata(candidate: Candidate, *, several: bool) -> Iterator[str]:
    if not candidate.axes:
        return
    yield heading("Groups", candidate.label, several)
    rows = []
    for axis in candidate.axes:
        for each, _ in axis.rows:
            paired = each.paired
            rows.append(
                (
                    markdown(axis.title),
                    markdown(each.name),
                    f"{paired.n:,}" if each.words is None else f"{paired.n:,} ({each.words.reference.words:,})",
                    percent(paired.reference) + (f" ({each.words.reference.errors:,} errors)" if each.words else ""),
                    percent(paired.candidate) + (f" ({each.words.candidate.errors:,} errors)" if each.words else ""),
                    points(paired.difference),
                    interval(paired.low90, paired.high90),
                    f"{paired.broke:,} / {paired.fixed:,}",
                )
            )
    columns = ("axis", "group", "n", "reference %", "candidate %", "difference", "90 % interval", "broke / fixed")
    if candidate.of_speech:
        columns = ("axis", "group", "utterances (words)", "reference WER %", "candidate WER %", *columns[5:])
    yield table(columns, rows, right=(2, 3, 4, 5, 7))
    if candidate.of_speech and candidate.overall is not None:
        yield f"A positive difference is worse. {markdown(candidate.profile)}; {markdown(candidate.overall.method)}."


def side_groups(sides: Sequence[Side]) -> Iterator[str]:
    rows = [
        (
            *(markdown(side.label), markdown(title), markdown(row.name), f"{row.n:,}"),
            fact(row.value) + (f" (WER, {row.told})" if row.told else ""),
        )
        for side in sides
        for title, found, _ in SideGroups(side).axes
        for row, _ in found
    ]
    if rows:
        yield "## Groups"
        yield table(("side", "axis", "group", "n", "score"), rows, right=(3, 4))


def timings(sides: Sequence[Side]) -> Iterator[str]:
    yield "## Time and memory"
    yield "No speed-up is claimed: the runs were not measured in interleaved pairs. Machines are never compared."
    for block in timing_blocks(sides):
        yield f"**{markdown(block.evidence)}**: {markdown(block.hardware)}"
        rows = []
        for row in block.rows:
            times = (milliseconds(row.median), milliseconds(row.p90), milliseconds(row.first), fact(row.items_per_second))
            if block.evidence == "reference":
                times = ("no timing",) * 4
            rows.append(
                (markdown(row.task), markdown(row.label), *times, byte_text(row.peak_memory_bytes), byte_text(row.size_bytes))
            )
        columns = ("task", "side", "median ms", "p90 ms", "first token ms", "items/s", "peak memory", "weights on disk")
        yield table(columns, rows, right=(2, 3, 4, 5, 6, 7))
        if spoken := [row for row in block.rows if row.rtf is not None]:
            factors = [
                (markdown(row.task), markdown(row.label), fact(row.audio_seconds), fact(row.rtf), fact(row.rtfx)) for row in spoken
            ]
            yield table(("task", "side", "audio s", "RTF (processing / audio)", "RTFx"), factors, right=(2, 3, 4))


def reasons(sides: Sequence[Side]) -> str:
    rows = [
        (markdown(row.task), markdown(row.label), *(f"{row.counts.get(name, 0):,}" for name in REASONS), f"{row.random:,}")
        for row in reason_rows(sides)
    ]
    return table(("task", "side", *REASONS, "drawn at random"), rows, right=range(2, 3 + len(REASONS)))


def environment(sides: Sequence[Side]) -> Iterator[str]:
    rows = [row for row in environment_rows(sides) if row.differs or len(sides) == 1]
    yield "## Environment" if len(sides) == 1 else "## Environment: what differs"
    if not rows:
        yield "Nothing differs."
        return
    cells = [(row.topic, markdown(row.name), *(markdown(fact(value)) for value in row.values)) for row in rows]
    yield table(("", "property", *(markdown(side.label) for side in sides)), cells)


def flips(comparison: Comparison, *, several: bool) -> Iterator[str]:
    found = [entry for entry in entries(comparison) if entry.change in ("broke", "fixed")]
    yield heading("Flipped utterances" if comparison.of_speech else "Flipped items", comparison.candidate.label, several)
    if not found:
        yield "No item flipped."
        return
    if comparison.of_speech:
        yield from flipped_utterances(comparison, found)
        return
    rows = []
    for entry in found[:MOST_FLIPS]:
        gold = (entry.reference.get("input") or {}).get("target")
        told = [
            f"{markdown(plain(line['score'].get('answer')), 80) or '–'} ({markdown(line['score']['reason'], 40)})"
            for line in entry.lines
        ]
        rows.append((entry.change, markdown(entry.task), markdown(entry.reference["id"], 100), markdown(plain(gold), 80), *told))
    yield table(("change", "task", "item", "gold", "reference", "candidate"), rows)
    if len(found) > MOST_FLIPS:
        yield f"{len(found) - MOST_FLIPS:,} more are in items.csv."


def flipped_utterances(comparison: Comparison, found: Sequence[Entry]) -> Iterator[str]:
    """Their words as the page colours them: ``[said→heard]``, ``[−left out]``, ``[+made up]``."""
    sides = (comparison.reference, comparison.candidate)
    alignments = Alignments(sides)
    rows = []
    for entry in found[:MOST_FLIPS]:
        told = []
        for side, line in zip(sides, entry.lines, strict=True):
            aligned = alignments.of(side.label, entry.task, line, LONGEST_TRANSCRIPT)
            text = plain(line["score"].get("answer")) if aligned is None or aligned[1] is None else marked(aligned[1])
            told.append(f"{errors_of(line['score']['counts']):,}: {markdown(text, 160) or '–'}")
        gold = (entry.reference.get("input") or {}).get("target")
        rows.append((entry.change, markdown(entry.task), markdown(entry.reference["id"], 100), markdown(plain(gold), 160), *told))
    yield table(("change", "task", "utterance", "said", "reference: errors, words", "candidate: errors, words"), rows)
    if len(found) > MOST_FLIPS:
        yield f"{len(found) - MOST_FLIPS:,} more are in items.csv."
