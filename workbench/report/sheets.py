"""The report's numbers and items as CSV files, for a spreadsheet or a data frame.

    write_sheets(folder, sides, comparisons)      # scores.csv sizes.csv strata.csv items.csv rungs.csv timings.csv, of captures rungs.csv layers.csv

Text that a spreadsheet would take for a formula begins with an apostrophe, and a cell holds at most 32,000 characters and then says
how many there are (``workbench.report.text.csv_cell``). UTF-8 with a byte order mark, which Excel needs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.parity.comparison import Comparison
from workbench.parity.sides import Side
from workbench.parity.word_errors import KINDS, WordDifference, counts_words
from workbench.report.items import Entry, entries, prompt_of
from workbench.report.layers import LAYER_COLUMNS, Depth, facts_of
from workbench.report.scores import score_rows
from workbench.report.sizes import COLUMNS as SIZES
from workbench.report.sizes import size_blocks, size_lines
from workbench.report.speech import compared_with_nothing, of_speech, speech_rows
from workbench.report.text import csv_cell
from workbench.report.timings import timing_blocks

SHEETS = ("scores.csv", "sizes.csv", "strata.csv", "items.csv", "rungs.csv", "layers.csv", "timings.csv")


def names(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> list[str]:
    """The files that a report of these has: captures have no scores, items and times, and runs alone no layers."""
    found = set(SHEETS) if any(side.runs for side in sides) else {"rungs.csv", "layers.csv"}
    if not any(Depth.of(each) for each in comparisons):
        found -= {"layers.csv"}
    if not size_blocks(sides, comparisons):
        found -= {"sizes.csv"}
    return [name for name in SHEETS if name in found]


def write_sheets(folder: Path, sides: Sequence[Side], comparisons: Sequence[Comparison]) -> None:
    """Write the files that have something to hold into ``folder``."""
    spoken = of_speech(sides, comparisons)
    contents = {
        "scores.csv": ((*SCORES, *SPEECH_SCORES) if spoken else SCORES, score_lines(sides)),
        "sizes.csv": (SIZES, size_lines(sides, comparisons)),
        "strata.csv": ((*STRATA, *SPEECH_STRATA) if spoken else STRATA, strata_lines(comparisons, spoken)),
        "items.csv": ((*ITEMS, *SPEECH_ITEMS) if spoken else ITEMS, item_lines(sides, comparisons, spoken)),
        "rungs.csv": (RUNGS, rung_lines(comparisons)),
        "layers.csv": (LAYERS, layer_lines(comparisons)),
        "timings.csv": ((*TIMINGS, *SPEECH_TIMINGS) if spoken else TIMINGS, timing_lines(sides, spoken)),
    }
    for name in names(sides, comparisons):
        write_sheet(folder / name, *contents[name])


def write_sheet(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for line in lines:
            writer.writerow([csv_cell(value) for value in line])


SCORES = (
    "task",
    "side",
    "label",
    "score",
    "unit",
    "low95",
    "high95",
    "n",
    "scored",
    "item_errors",
    "random_fallbacks",
    "scorer",
    "remarks",
)


SPEECH_SCORES = ("profile", "words", "errors", "substitutions", "deletions", "insertions", "cer", "mer", "wil", "sentence_error_rate", "resampled", "utterance_low95", "utterance_high95", "speaker_low95", "speaker_high95")  # fmt: skip
"""Beside the others where there is speech: rates are fractions, ``score`` is the word error rate in per cent as in ``unit``."""


def score_lines(sides: Sequence[Side]) -> Iterator[Sequence[Any]]:
    """Word error rates after the other scores."""
    for row in score_rows(sides):
        yield (row.task, row.side, row.label, row.value, row.unit, row.low, row.high, row.n, row.scored, row.errors, row.random_fallbacks, row.scorer, "; ".join(row.remarks))  # fmt: skip
    for row in speech_rows(sides):
        low, high = (None if bound is None else 100 * bound for bound in row.bounds)
        bounds = {name: (100 * each[0], 100 * each[1]) for name, *each in row.intervals}
        yield (
            *(row.task, row.side, row.label, None if row.wer is None else 100 * row.wer, "% WER", low, high, row.utterances),
            *(row.utterances, row.item_errors, 0, "word error rate", "; ".join(row.remarks)),
            *(row.profile, row.words, row.errors, row.substitutions, row.deletions, row.insertions),
            *(row.cer, row.mer, row.wil, row.sentence_error_rate, row.intervals[0][0] if row.intervals else None),
            *(bound for name in ("utterance", "speaker") for bound in bounds.get(name, (None, None))),
        )


STRATA = ("candidate", "axis", "task", "group", "n", "reference_per_cent", "candidate_per_cent", "difference_points", "low90", "high90", "low95", "high95", "broke", "fixed", "p", "method")  # fmt: skip


SPEECH_STRATA = ("reference_words", "reference_errors", "candidate_words", "candidate_errors", "resampled", "probability_of_improvement", "profile")  # fmt: skip


def strata_lines(comparisons: Sequence[Comparison], spoken: bool = False) -> Iterator[Sequence[Any]]:
    for comparison in comparisons:
        for each in comparison.strata:
            paired = each.paired
            shares = (
                paired.reference,
                paired.candidate,
                paired.difference,
                paired.low90,
                paired.high90,
                paired.low95,
                paired.high95,
            )
            yield (comparison.candidate.label, each.axis, each.task, each.name, paired.n, *(100 * share for share in shares), paired.broke, paired.fixed, paired.p, paired.method, *(speech_stratum(each.words, comparison) if spoken else ()))  # fmt: skip


def speech_stratum(words: WordDifference | None, comparison: Comparison) -> Sequence[Any]:
    if words is None:
        return [None] * len(SPEECH_STRATA)
    before, after = words.reference, words.candidate
    improved, profile = words.decisive.probability_of_improvement, comparison.rung(5).facts.get("profile")
    return [before.words, before.errors, after.words, after.errors, words.resampled, improved, profile]


SIDE = ("response", "answer", "value", "reason", "finish", "error", "seconds")
ITEMS = (
    "candidate",
    "task",
    "id",
    "change",
    "groups",
    "prompt",
    "gold",
    *(f"reference_{name}" for name in SIDE),
    *(f"candidate_{name}" for name in SIDE),
)


SPEECH_ITEMS = (*(f"{side}_{name}" for side in ("reference", "candidate") for name in ("words", *KINDS)), "audio_seconds")


def item_lines(sides: Sequence[Side], comparisons: Sequence[Comparison], spoken: bool = False) -> Iterator[Sequence[Any]]:
    """Every paired item of every comparison; of sides that are compared with nothing every item, in the reference's columns."""
    for source in (*comparisons, *compared_with_nothing(sides, comparisons)):
        both = (source, source) if isinstance(source, Side) else (source.reference, source.candidate)
        timed = [side.manifest.get("evidence") != "reference" for side in both]
        for entry in entries(source):
            yield (both[1].label, *item_line(entry, timed), *(speech_item(entry) if spoken else ()))


def item_line(entry: Entry, timed: Sequence[bool] = (True, True)) -> Iterator[Any]:
    """``timed``: whether a side's evidence has timing; a reference executor's has none, whatever its bundle says."""
    asked = entry.reference.get("input") or {}
    groups = "; ".join(f"{axis}: {name}" for axis, name in entry.reference.get("groups") or ())
    yield from (entry.task, entry.reference["id"], entry.change, groups, prompt_of(asked), asked.get("target"))
    for line, clock in zip((entry.reference, entry.candidate), timed, strict=True):
        if line is None:
            yield from [None] * len(SIDE)
            continue
        output, score = line["output"], line["score"]
        error = "; ".join(str(part) for part in (output.get("error") or {}).values() if part)
        yield from (output["value"], score.get("answer"), score["value"], score["reason"], output["finish"], error, (line.get("timing") or {}).get("total") if clock else None)  # fmt: skip


def speech_item(entry: Entry) -> Iterator[Any]:
    """Words and errors of both sides, and the length of the recording; nothing where an item is scored otherwise."""
    for line in (entry.reference, entry.candidate):
        counts = {} if line is None or not counts_words(line) else line["score"]["counts"]
        yield from (counts.get(name) for name in ("words", *KINDS))
    yield (entry.reference.get("input") or {}).get("audio_seconds")


RUNGS = ("candidate", "rung", "name", "status", "kind", "title", "row", "column", "value")


def rung_lines(comparisons: Sequence[Comparison]) -> Iterator[Sequence[Any]]:
    """One line a finding, fact, and cell of a table."""
    for comparison in comparisons:
        for rung in comparison.rungs:
            start = (comparison.candidate.label, rung.number, rung.name, rung.status)
            yield (*start, "finding", None, None, None, rung.finding)
            if rung.fix:
                yield (*start, "fix", None, None, None, rung.fix)
            for name, value in facts_of(rung).items():
                yield (*start, "fact", name, None, None, value)
            for table in rung.tables:
                for number, row in enumerate(table.rows):
                    for column, value in zip(table.columns, row, strict=True):
                        yield (*start, "table", table.title, number, column, value)


LAYERS = ("candidate", *LAYER_COLUMNS)


def layer_lines(comparisons: Sequence[Comparison]) -> Iterator[Sequence[Any]]:
    """Every layer of every comparison, in the order of execution; those that were not aligned have a reason and no numbers."""
    for comparison in comparisons:
        depth = Depth.of(comparison)
        for row in depth.rows if depth else ():
            yield (comparison.candidate.label, *(row.get(name) for name in LAYER_COLUMNS))


TIMINGS = ("evidence", "hardware", "hardware_key", "task", "label", "run", "n", "median_seconds", "p90_seconds", "first_token_seconds", "items_per_second", "tokens_per_second", "cold_start_seconds", "peak_memory_bytes", "size_bytes")  # fmt: skip


SPEECH_TIMINGS = ("audio_seconds", "rtf", "rtfx")


def timing_lines(sides: Sequence[Side], spoken: bool = False) -> Iterator[Sequence[Any]]:
    for block in timing_blocks(sides):
        for row in block.rows:
            values = [value for name, value in asdict(row).items() if spoken or name not in SPEECH_TIMINGS]
            yield (block.evidence, block.hardware, block.hardware_key, *values)
