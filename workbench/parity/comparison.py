"""What a comparison of two runs says: its rungs, its paired items and its verdict.

    comparison = workbench.compare("reports/runs/...torch...", "reports/runs/...mlx...")
    comparison.verdict.sentence     # "EQUIVALENT: demo:vlm@mlx scores within ±2.0 points of demo:vlm@torch on 400 items ..."
    comparison.first_broken         # Rung(2, "inputs", ...) or None
    comparison.flips                # the items that one side gets right and the other wrong

Numbers are per cent and percentage points where a person reads them, fractions where the statistics are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from workbench.errors import EXIT_DIFFERENT, EXIT_INCOMPARABLE, EXIT_INCONCLUSIVE, EXIT_OK
from workbench.metrics.stats import DIFFERENT, EQUIVALENT, INCOMPARABLE, INCONCLUSIVE, Margin, PairedDifference
from workbench.parity.families import SPEECH
from workbench.parity.sides import Side
from workbench.parity.word_errors import KINDS, WordDifference, both_counts, counts_words, errors_of
from workbench.run.redact import is_redacted

Status = Literal["same", "close", "different", "unclear", "not run", "information"]
"""``same``: the evidence shows no difference. ``close``: they differ, within what was agreed or expected. ``different``: this
rung is broken. ``unclear``: too little evidence. ``not run``: no evidence. ``information``: judged by nobody (time)."""

QUESTIONS: dict[int, tuple[str, str]] = {
    1: ("artifact", "Same weights? What was compressed?"),
    2: ("inputs", "Same prompt, token ids and pixels?"),
    3: ("tensors", "Where does the error start?"),
    4: ("tokens", "Same next token, given the same past?"),
    5: ("answers", "Same score, and on the same items?"),
    6: ("time", "What does it buy?"),
}

SPEECH_QUESTIONS: dict[int, tuple[str, str]] = {
    **QUESTIONS,
    2: ("inputs", "Same log-mel, prompt and token ids?"),
    5: ("transcripts", "Same words, and errors in the same utterances?"),
}
"""The same rungs of speech to text."""

AGREE = "AGREE"
"""Of captures, which hold no answers: no layer departs beyond torch's own error. It says nothing about scores."""

EXIT_CODES = {
    EQUIVALENT: EXIT_OK,
    AGREE: EXIT_OK,
    DIFFERENT: EXIT_DIFFERENT,
    INCONCLUSIVE: EXIT_INCONCLUSIVE,
    INCOMPARABLE: EXIT_INCOMPARABLE,
}


@dataclass(frozen=True)
class Table:
    """Rows behind a finding. Cells are text, numbers or None; ``note`` says what is not shown."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    note: str | None = None


@dataclass(frozen=True)
class Rung:
    """One rung: its status, one plain sentence (``finding``), the numbers behind it, and what to type when it was not run."""

    number: int
    status: Status
    finding: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    fix: str | None = None
    of_speech: bool = False

    @property
    def name(self) -> str:
        return (SPEECH_QUESTIONS if self.of_speech else QUESTIONS)[self.number][0]

    @property
    def question(self) -> str:
        return (SPEECH_QUESTIONS if self.of_speech else QUESTIONS)[self.number][1]


@dataclass(frozen=True)
class Mismatch:
    """A field that makes two runs incomparable, with both values: ``generation.max_tokens: 16 and 32``.

    ``field`` ends in ``of TASK`` where the sides have several tasks."""

    field: str
    reference: Any
    candidate: Any

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.reference)} and {_short(self.candidate)}"


@dataclass(frozen=True)
class Verdict:
    """The answer in one word and one sentence. ``needed``: the items that would settle an INCONCLUSIVE one, None where no
    number would. ``fields`` name what makes it INCOMPARABLE. ``margin`` is None for captures, which have no scores."""

    name: str
    sentence: str
    margin: Margin | None
    n: int
    needed: int | None = None
    fields: tuple[Mismatch, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.name]


@dataclass(frozen=True)
class Stratum:
    """One group of items on both sides. ``axis`` is ``"all"``, ``"task"`` or a task's own (``"subject"``)."""

    axis: str
    name: str
    task: str | None
    paired: PairedDifference
    reference_interval: tuple[float, float] | None
    candidate_interval: tuple[float, float] | None
    """95 % Wilson intervals of both scores as fractions; None where scores are not right-or-wrong."""
    words: WordDifference | None = None
    """Of speech: words, errors and both intervals. ``paired`` then holds corpus word error rates, where higher is worse."""


@dataclass(frozen=True)
class Pair:
    """One item on both sides: its lines of ``samples.jsonl``, as ``workbench.run.bundle`` reads them."""

    task: str
    reference: Mapping[str, Any]
    candidate: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.reference["id"]

    @property
    def change(self) -> Literal["broke", "fixed", "same"]:
        """``broke``: the candidate scores lower on this item than the reference, or makes more word errors; ``fixed``: the other way round."""
        if self.of_speech:
            first, second = map(errors_of, both_counts(self.reference, self.candidate))
            return "broke" if second > first else "fixed" if second < first else "same"
        before, after = self.reference["score"]["value"] or 0.0, self.candidate["score"]["value"] or 0.0
        return "broke" if after < before else "fixed" if after > before else "same"

    @property
    def of_speech(self) -> bool:
        """Is it scored by its words?"""
        return counts_words(self.reference) or counts_words(self.candidate)

    @property
    def same_text(self) -> bool | None:
        """None where redaction hides it."""
        return self.reference["output"]["value"] == self.candidate["output"]["value"] or (None if self.hidden else False)

    @property
    def same_answer(self) -> bool | None:
        """None where redaction hides it."""
        return self.reference["score"].get("answer") == self.candidate["score"].get("answer") or (None if self.hidden else False)

    @property
    def hidden(self) -> bool:
        """Are the texts of one side redacted, so that they cannot be told equal or different? Under one key they can; since both sides
        were asked the same, their questions then have the same marker."""
        answers = [line["output"]["value"] for line in (self.reference, self.candidate)]
        asked = [(line.get("input") or {}).get("text") for line in (self.reference, self.candidate)]
        return any(map(is_redacted, (*answers, *asked))) and (asked[0] is None or asked[0] != asked[1])


@dataclass
class Comparison:
    """One candidate against the reference."""

    reference: Side
    candidate: Side
    rungs: tuple[Rung, ...]
    verdict: Verdict
    strata: tuple[Stratum, ...] = ()
    """``all`` first, then one a task when there are several, then the tasks' own axes."""
    pairs: Sequence[Pair] = ()
    unpaired: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Items on one side only: ``{"reference": ["task: id", ...], "candidate": [...]}``."""
    notes: tuple[str, ...] = ()

    @property
    def first_broken(self) -> Rung | None:
        """The lowest rung that differs: where to look first."""
        return next((rung for rung in self.rungs if rung.status == "different"), None)

    @property
    def overall(self) -> PairedDifference | None:
        return self.strata[0].paired if self.strata else None

    @property
    def of_speech(self) -> bool:
        """Are transcripts compared? Then ``overall`` holds word error rates, and a positive difference is a worse candidate."""
        return self.reference.family == SPEECH

    @cached_property
    def flips(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.change != "same"]

    def rung(self, number: int) -> Rung:
        return next(rung for rung in self.rungs if rung.number == number)

    def to_frame(self):
        """One row a paired item as a ``pandas.DataFrame``: task, id, change, and both sides' response, answer, value, reason, seconds (none of
        reference evidence)."""
        import pandas

        clocks = {
            name: side.manifest.get("evidence") != "reference"
            for name, side in (("reference", self.reference), ("candidate", self.candidate))
        }
        rows = []
        for pair in self.pairs:
            row: dict[str, Any] = {"task": pair.task, "id": pair.id, "change": pair.change, "same_text": pair.same_text}
            for side, line in (("reference", pair.reference), ("candidate", pair.candidate)):
                row |= {
                    f"{side}_response": line["output"]["value"],
                    f"{side}_answer": line["score"].get("answer"),
                    f"{side}_value": line["score"]["value"],
                    f"{side}_reason": line["score"]["reason"],
                    f"{side}_seconds": (line.get("timing") or {}).get("total") if clocks[side] else None,
                }
                if pair.of_speech:
                    counts = line["score"]["counts"]
                    row |= {f"{side}_{name}": counts.get(name) for name in ("words", *KINDS)}
            rows.append(row)
        return pandas.DataFrame(rows)

    def strata_frame(self):
        """One row a stratum as a ``pandas.DataFrame``; scores in per cent, differences in points with their 90 % interval; of speech
        also what its word error rates stand on."""
        import pandas

        told = self.rung(5).facts.get("profile") if self.strata else None
        return pandas.DataFrame(
            [
                {
                    "axis": stratum.axis,
                    "task": stratum.task,
                    "name": stratum.name,
                    "n": stratum.paired.n,
                    "reference": 100 * stratum.paired.reference,
                    "candidate": 100 * stratum.paired.candidate,
                    "difference": 100 * stratum.paired.difference,
                    "low90": 100 * stratum.paired.low90,
                    "high90": 100 * stratum.paired.high90,
                    "broke": stratum.paired.broke,
                    "fixed": stratum.paired.fixed,
                    **({} if stratum.words is None else {**stratum.words.as_columns(), "profile": told}),
                }
                for stratum in self.strata
            ]
        )

    def __str__(self) -> str:
        from workbench.parity.text import comparison_text

        return comparison_text(self)

    def __repr__(self) -> str:
        return f"Comparison({self.candidate.label} against {self.reference.label}: {self.verdict.name}, n = {self.verdict.n})"

    def _repr_html_(self) -> str:
        from workbench.parity.text import comparison_html

        return comparison_html(self)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
