"""The ladder: all rungs of one comparison, and several candidates against one reference.

    compare("reports/runs/...torch...", "reports/runs/...mlx...", margin=2.0).verdict.name     # "EQUIVALENT"

Pure functions of bundles: nothing here needs the data set, a model or a runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.errors import UsageError
from workbench.metrics.stats import DIFFERENT, INCONCLUSIVE, Margin, holm, mcnemar
from workbench.parity.answers import answers_rung, incomparable, judge, strata_of
from workbench.parity.artifact import artifact_rung
from workbench.parity.captures import compare_captures, layers_beside_answers
from workbench.parity.comparable import join, mismatches
from workbench.parity.comparison import Comparison, Mismatch, Rung
from workbench.parity.families import SPEECH, by_family
from workbench.parity.inputs import inputs_rung
from workbench.parity.profiles import profile_of
from workbench.parity.sides import Side, collector_paused, name_apart, read_sides
from workbench.parity.timing import time_rung
from workbench.parity.tokens import tokens_rung
from workbench.parity.transcripts import failed_on_both, has_words, judge_words, transcripts_rung, word_strata
from workbench.run.bundle import Run

DEFAULT_MARGIN = 2.0
SIGNIFICANCE = 0.05
LISTED = 5

Source = str | Path | Run


def compare(
    reference: Source | Sequence[Source],
    candidate: Source | Sequence[Source],
    *,
    margin: float = DEFAULT_MARGIN,
    relative: bool = False,
    partial: bool = False,
) -> Comparison:
    """Compare two runs, or two sets of runs (one a task), the first being the reference.

    ``margin`` is in percentage points, or with ``relative`` in per cent of the reference's score. Raises UsageError or
    BundleError for runs that cannot be read; runs that may not be compared give the verdict INCOMPARABLE.
    """
    sides = []
    for source in (reference, candidate):
        several = [source] if isinstance(source, (str, Path, Run)) else list(source)
        found = read_sides(several, partial=partial)
        if len(found) != 1:
            labels = ", ".join(side.label for side in found) or "no run"
            raise UsageError(
                "one side holds runs of several models", why=labels, fix="compare_all(read_sides([...])) for several candidates"
            )
        sides += found
    name_apart(sides)
    return compare_sides(*sides, make_margin(margin, relative))


def make_margin(value: float, relative: bool) -> Margin:
    """The margin a user typed. Raises UsageError for one that no interval could lie in."""
    try:
        if value >= 100:
            raise ValueError(f"a margin must be below 100, not {value:g}")
        return Margin(value, "relative" if relative else "absolute")
    except ValueError as error:
        raise UsageError("this margin cannot be used", why=str(error), fix="--margin 2.0") from error


@collector_paused()
def compare_sides(reference: Side, candidate: Side, margin: Margin) -> Comparison:
    """The rungs that can be judged, the verdict, and every paired item."""
    labels = (reference.label, candidate.label)
    notes = notes_on(reference, candidate)
    if (
        not reference.runs
        and not candidate.runs
        or not (reference.runs and candidate.runs)
        and reference.captures
        and candidate.captures
    ):
        return compare_captures(reference, candidate, notes)
    fields = mismatches(reference, candidate)
    pairs, unpaired = ([], {}) if fields else join(reference, candidate)
    if pairs and reference.family == SPEECH and not has_words(pairs):
        fields, pairs = [Mismatch("data.words (no reference holds a word, so there is no word error rate)", 0, 0)], []
    if pairs and all(map(failed_on_both, pairs)):
        fields, pairs = [Mismatch("output (no item was answered on either side)", *[f"{len(pairs):,} failed"] * 2)], []
    if not fields and not pairs:
        only = [f"{len(names):,} items, none of them on the other side" for names in unpaired.values()]
        fields = [Mismatch("data.items", *only)]
    if fields:
        speech = reference.family == candidate.family == SPEECH
        unjudged = (
            Rung(number, "not run", "Not judged: the two were not asked and scored alike.", of_speech=speech)
            for number in (2, 3, 4, 5)
        )
        rungs = (artifact_rung(reference, candidate), *unjudged, time_rung(reference, candidate))
        return Comparison(reference, candidate, rungs, incomparable(fields, margin, labels), unpaired=unpaired, notes=tuple(notes))
    for side, names in unpaired.items():
        if names:
            shown = ", ".join(names[:LISTED]) + (" and more" if len(names) > LISTED else "")
            notes.append(f"{len(names):,} items are only on the {side}'s side and are not compared: {shown}")
    if reference.family == SPEECH:
        strata = word_strata(pairs)
        verdict = judge_words(pairs, strata[0], margin, labels, profile_of(reference))
        fifth = transcripts_rung(pairs, strata, verdict, profile_of(reference))
    else:
        strata = strata_of(pairs)
        verdict = judge(pairs, strata[0].paired, margin, labels)
        fifth = answers_rung(pairs, strata, verdict)
    rungs = (
        artifact_rung(reference, candidate),
        inputs_rung(reference, candidate, pairs),
        layers_beside_answers(reference, candidate),
        tokens_rung(reference, candidate, pairs),
        fifth,
        time_rung(reference, candidate, pairs),
    )
    return Comparison(reference, candidate, rungs, verdict, strata, pairs, unpaired, tuple(notes))


def compare_all(sides: Sequence[Side], margin: Margin) -> list[Comparison]:
    """Every other side of a family of models (vision-language, speech-to-text) against the first of it. Raises UsageError when
    no family has two.

    With several candidates of one reference, "this one differs" is claimed of all of them: a DIFFERENT must survive Holm's correction of
    the exact McNemar tests (of speech: of the matched pairs tests). "All are equivalent" needs no correction (intersection-union), and
    what is INCOMPARABLE claims nothing.
    """
    groups = by_family(sides)
    if all(len(members) < 2 for members in groups.values()):
        known = " and ".join(side.label for side in sides) or "nothing"
        alone = f", and {' and '.join(groups)} models are not compared with each other" if len(sides) > 1 else ""
        raise UsageError(
            "a comparison needs runs of two models", why=f"all runs given are of {known}{alone}", fix="workbench parity RUN_A RUN_B"
        )
    return [
        comparison
        for reference, *others in groups.values()
        for comparison in corrected([compare_sides(reference, other, margin) for other in others])
    ]


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """DIFFERENT becomes INCONCLUSIVE where Holm's adjusted p-value exceeds 0.05; the sentence says so."""
    tested = [each for each in comparisons if each.overall is not None]
    if len(tested) < 2:
        return list(comparisons)
    p_values = [
        each.overall.p if each.overall.p is not None else mcnemar(each.overall.broke, each.overall.fixed) for each in tested
    ]
    adjusted = dict(zip(map(id, tested), holm(p_values), strict=True))
    return [each if id(each) not in adjusted else with_p_value(each, adjusted[id(each)], len(tested)) for each in comparisons]


def with_p_value(comparison: Comparison, p: float, candidates: int) -> Comparison:
    """The comparison with its adjusted p-value as a note, and its verdict held against it."""
    note = f"p = {p:.3g} after Holm's correction for {candidates} candidates"
    verdict = comparison.verdict
    rungs = tuple(replace(rung, facts={**rung.facts, "p_value_holm": p}) if rung.number == 5 else rung for rung in comparison.rungs)
    if verdict.name == DIFFERENT and p > SIGNIFICANCE:
        numbers = verdict.sentence.rpartition(" (")[2].removesuffix(").")
        sentence = (
            f"INCONCLUSIVE: alone, {comparison.candidate.label} would count as different from {comparison.reference.label} on "
            f"{verdict.n:,} items, margin {verdict.margin.text} ({numbers}); but {note}."
        )
        verdict = replace(verdict, name=INCONCLUSIVE, sentence=sentence)
        rungs = tuple(replace(rung, status="unclear") if rung.number == 5 else rung for rung in rungs)
        return replace(comparison, verdict=verdict, rungs=rungs, notes=(*comparison.notes, note))
    return replace(comparison, rungs=rungs)


def notes_on(reference: Side, candidate: Side) -> list[str]:
    """What a reader must know of the bundles: hand-edited results, mixed conditions, failed items, unfinished runs, duplicates."""
    notes = []
    for side in (reference, candidate):
        for old, new in side.superseded.items():
            notes.append(f"{old} is left out: {new} is a newer run of the same command (name both to compare them)")
        lines = side.lines  # first: reading them also makes run.checked
        for run in side.all_runs:
            notes += run.checked
            if run.manifest.get("mixed_fields"):
                notes.append(f"{run.name} was continued across a change of {', '.join(run.manifest['mixed_fields'])}")
            if run.status != "complete":
                notes.append(f"{run.name} is not complete; it should have {run.manifest['n']:,} items")
        for task, items in lines.items():
            failed = sum(line["output"]["finish"] == "error" for line in items.values())
            if failed:
                one, many = ("utterance", "utterances") if side.family == SPEECH else ("item", "items")
                count = f"1 {one}" if failed == 1 else f"{failed:,} {many}"
                as_what = "with every word deleted" if side.family == SPEECH else "as wrong"
                notes.append(f"{side.label}: {count} of {task} failed and count{'s' if failed == 1 else ''} {as_what}")
            unscored = sum(line["score"]["value"] is None and line["output"]["finish"] != "error" for line in items.values())
            if unscored and side.family == SPEECH:
                count = "1 utterance of {} has" if unscored == 1 else f"{unscored:,} utterances of {{}} have"
                notes.append(
                    f"{side.label}: {count.format(task)} no word in the reference; what was heard there counts as inserted"
                )
            elif unscored:
                count = "1 item of {} has" if unscored == 1 else f"{unscored:,} items of {{}} have"
                notes.append(f"{side.label}: {count.format(task)} no score and count{'s' if unscored == 1 else ''} as 0")
    for task in dict.fromkeys([*reference.tasks, *candidate.tasks]):
        if task not in reference.runs or task not in candidate.runs:
            notes.append(f"{task} was run on one side only and is not compared")
    backends = [side.manifest["key"]["backend"] for side in (reference, candidate)]
    if {each["name"] for each in backends} == {"torch", "mlx"} and "torch" in [each.get("setup.blas_route") for each in backends]:
        notes.append(
            "MLX's float32 matrix products went through PyTorch's library here (blas_route torch), so their agreement is no "
            "independent evidence; a run with ?blas=off is the control"
        )
    return notes
