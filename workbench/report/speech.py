"""Word error rates as the report shows them: never without profile, version, words, errors and interval.

    speech_rows(sides)[0].wer        # 0.0421
    speech_rows(sides)[0].intervals  # [("speaker", 0.031, 0.055), ("utterance", 0.036, 0.049)]: the first one counts

The numbers are those of ``results.json``; of shards, and of runs that are not finished, what the items' counts give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.parity.comparison import Comparison
from workbench.parity.families import SPEECH
from workbench.parity.profiles import normaliser_of
from workbench.parity.sides import Side
from workbench.parity.word_errors import counts_words, errors_of

RATES = ("wer", "cer", "mer", "wil", "sentence_error_rate")
KINDS = ("substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class SpeechRow:
    """Rates and interval bounds are fractions. ``intervals`` are 95 %: (resampled, low, high), the one that counts first."""

    task: str
    side: int
    label: str
    profile: str
    utterances: int
    words: int
    errors: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float | None
    cer: float | None
    mer: float | None
    wil: float | None
    sentence_error_rate: float | None
    intervals: tuple[tuple[str, float, float], ...]
    item_errors: int
    remarks: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        return self.intervals[0][1:] if self.intervals else (None, None)

    @property
    def text(self) -> str:
        """``4.21 %``."""
        return "–" if self.wer is None else f"{100 * self.wer:.2f} %"

    @property
    def told(self) -> list[tuple[str, str]]:
        """(resampled, ``3.1 to 5.5 %``) of each interval."""
        return [(name, f"{100 * low:.2f} to {100 * high:.2f} %") for name, low, high in self.intervals]


def of_speech(sides: Sequence[Side], comparisons: Sequence[Comparison] = ()) -> bool:
    """Is there any recogniser among them?"""
    return any(side.family == SPEECH for side in sides) or any(each.of_speech for each in comparisons)


def compared_with_nothing(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> list[Side]:
    """The sides with runs that are in no comparison: the only ones of their family, or all where there is no comparison."""
    compared = [side for each in comparisons for side in (each.reference, each.candidate)]
    return [side for side in sides if side.runs and not any(side is other for other in compared)]


def speech_rows(sides: Sequence[Side]) -> list[SpeechRow]:
    """Rows by task, then side."""
    spoken = [(number, side) for number, side in enumerate(sides) if side.runs and side.family == SPEECH]
    tasks = list(dict.fromkeys(task for _, side in spoken for task in side.tasks))
    return [speech_row(side, number, task) for task in tasks for number, side in spoken if task in side.runs]


def speech_row(side: Side, number: int, task: str) -> SpeechRow:
    runs = side.runs[task]
    results = runs[0].results if len(runs) == 1 else None
    remarks: list[str] = []
    if results is None or not all(isinstance(results.get(name), (int, float)) for name in ("wer", "words")):
        results = pooled(side, task)
        asked = sum(run.manifest["n"] for run in runs)
        remarks.append(f"pooled over {len(runs)} shards" if len(runs) > 1 else f"not finished: {results['n']:,} of {asked:,} items")
    if empty := (results.get("empty_references") or {}).get("n"):
        remarks.append(f"{empty:,} references without a word")
    if results.get("missing"):
        remarks.append(f"{results['missing']:,} items missing, not scored")
    kinds = {name: int(results.get(name) or 0) for name in KINDS}
    return SpeechRow(
        task,
        number,
        side.label,
        ", ".join(dict.fromkeys(normaliser_of(run) or run.manifest["task"]["scorer"] for run in runs)),
        results["n"],
        int(results["words"]),
        int(results["errors"]) if results.get("errors") is not None else sum(kinds.values()),
        **kinds,
        **{name: results.get(name) for name in RATES},
        intervals=intervals_of(results),
        item_errors=results.get("item_errors") or 0,
        remarks=tuple(remarks),
    )


def intervals_of(results: Mapping[str, Any]) -> tuple[tuple[str, float, float], ...]:
    """The interval of the results first, then the others."""
    chosen = results.get("interval") or {}
    found = {str(chosen.get("resampled") or "utterance"): chosen} if chosen else {}
    for name, each in (results.get("intervals") or {}).items():
        if each and None not in (each.get("low"), each.get("high")):
            found.setdefault(str(name), each)
    return tuple((name, each["low"], each["high"]) for name, each in found.items())


def pooled(side: Side, task: str) -> dict[str, Any]:
    """What the lines of several shards, or of a run that is not finished, give."""
    from workbench.metrics import wer

    lines = list(side.lines[task].values())
    counts = [{**dict.fromkeys(wer.NAMES, 0), **line["score"]["counts"]} for line in lines if counts_words(line)]
    speakers = [line.get("group") for line in lines if counts_words(line)]
    found = wer.intervals(counts, speakers) if counts else {}
    if speakers and len(set(speakers)) == len(speakers):
        found.pop("speaker", None)
    failed = sum(line["output"]["finish"] == "error" for line in lines)
    return {
        "n": len(lines),
        **wer.total(counts),
        **wer.rates(counts),
        "errors": sum(map(errors_of, counts)),
        "interval": found.get("speaker") or found.get("utterance"),
        "intervals": found,
        "item_errors": failed,
    }
