"""Rung 5: same score, and on the same items? And the verdict, which is about equivalence and not about p > 0.05.

EQUIVALENT when the 90 % interval of the paired difference lies inside the margin; otherwise DIFFERENT when the 95 % interval
excludes no difference; otherwise INCONCLUSIVE, with the number of items that would settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.metrics.stats import (
    DIFFERENT,
    EQUIVALENT,
    INCOMPARABLE,
    INCONCLUSIVE,
    Margin,
    PairedDifference,
    decide,
    paired_difference,
    ratio_interval,
    wilson,
)
from workbench.parity.comparison import Mismatch, Pair, Rung, Stratum, Table, Verdict

OWN_AXES = {"all": "all (of the data set)", "task": "task (of the data set)"}
"""What a data set's own axis is called when its name is one of ours (MathVista has an axis "task")."""

STATUS = {EQUIVALENT: "close", DIFFERENT: "different", INCONCLUSIVE: "unclear"}


def strata_of(pairs: Sequence[Pair]) -> tuple[Stratum, ...]:
    """All items, each task when there are several, and each group of the tasks' own axes, in that order."""
    return tuple(stratum(axis, name, task, group) for (axis, name, task), group in groups_of(pairs).items())


def groups_of(pairs: Sequence[Pair]) -> dict[tuple[str, str, str | None], list[Pair]]:
    """``{(axis, name, task): pairs}`` of the strata, in their order; {} without a pair."""
    if not pairs:
        return {}
    members: dict[tuple[str, str, str | None], list[Pair]] = {("all", "all items", None): list(pairs)}
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    for pair in pairs:
        if len(tasks) > 1:
            members.setdefault(("task", pair.task, pair.task), []).append(pair)
    own: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    for pair in pairs:
        for axis, name in dict.fromkeys(map(tuple, pair.reference["groups"] or pair.candidate["groups"])):
            own.setdefault((OWN_AXES.get(axis, axis), pair.task), {}).setdefault(name, []).append(pair)
    for (axis, task), groups in own.items():
        members |= {(axis, name, task): group for name, group in groups.items()}
    return members


def stratum(axis: str, name: str, task: str | None, pairs: Sequence[Pair]) -> Stratum:
    before, after, groups = values_of(pairs)
    right_or_wrong = all(value in (0.0, 1.0) for value in (*before, *after))
    intervals = [wilson(int(sum(values)), len(values)) if right_or_wrong else None for values in (before, after)]
    return Stratum(axis, name, task, paired_difference(before, after, groups), intervals[0], intervals[1])


def values_of(pairs: Sequence[Pair]) -> tuple[list[float], list[float], list[str]]:
    """(scores of the reference, of the candidate, clusters). An item without a score counts as 0, on either side."""
    before, after = ([getattr(pair, side)["score"]["value"] or 0.0 for pair in pairs] for side in ("reference", "candidate"))
    return before, after, [f"{pair.task}\n{pair.reference.get('group') or pair.id}" for pair in pairs]


def judge(pairs: Sequence[Pair], overall: PairedDifference, margin: Margin, labels: tuple[str, str]) -> Verdict:
    """The verdict over all pairs, and its sentence."""
    share = margin.value / 100
    if margin.kind == "absolute":
        name = decide((overall.low90, overall.high90), (overall.low95, overall.high95), *margin.bounds)
        interval = f"{signed(100 * overall.difference)} points, 90 % interval {span(overall.low90, overall.high90)}"
    else:
        before, after, groups = values_of(pairs)
        bounds = [ratio_interval(before, after, groups, confidence) for confidence in (0.90, 0.95)]
        if None in bounds:
            sentence = f"INCONCLUSIVE: {labels[0]} scores 0 on {overall.n:,} items, and nothing is within {margin.text}."
            return Verdict(INCONCLUSIVE, sentence, margin, overall.n)
        name = decide(bounds[0], bounds[1], *margin.bounds, null=margin.null)
        ratio = overall.candidate / overall.reference
        interval = (
            f"{signed(100 * (ratio - 1))} % of the reference's score, 90 % interval {span(bounds[0][0] - 1, bounds[0][1] - 1)}"
        )
        share = overall.reference * (1 - margin.bounds[0])
    needed = overall.items_needed(share) if name == INCONCLUSIVE and (overall.clusters > 1 or overall.n == 1) else None
    if needed is not None:
        needed = max(needed, overall.n + 1)  # a ratio's interval can be wider than the difference's, from which items are counted
    return Verdict(name, sentence_of(name, labels, overall, margin, interval, needed, share), margin, overall.n, needed)


def sentence_of(
    name: str, labels: tuple[str, str], overall: PairedDifference, margin: Margin, interval: str, needed: int | None, share: float
) -> str:
    """One plain sentence with n and margin, which is ``share`` as a difference of fractions."""
    reference, candidate = labels
    items = "1 item" if overall.n == 1 else f"{overall.n:,} items"
    scores = f"{100 * overall.candidate:.1f} % against {100 * overall.reference:.1f} %; {interval}; {flips_text(overall)}"
    if name == EQUIVALENT:
        return f"EQUIVALENT: {candidate} scores within {margin.text} of {reference} on {items} ({scores})."
    if name == DIFFERENT:
        direction = "lower" if overall.difference < 0 else "higher"
        return f"DIFFERENT: {candidate} scores {direction} than {reference} on {items}, margin {margin.text} ({scores})."
    more = settles(overall, needed, share)
    few = "is" if overall.n == 1 else "are"
    return (
        f"INCONCLUSIVE: {items} {few} too few to say whether {candidate} is within {margin.text} of {reference} ({scores}); {more}."
    )


def settles(overall: PairedDifference, needed: int | None, share: float, items: str = "items", group: str = "group") -> str:
    """What would settle an INCONCLUSIVE verdict, as the end of its sentence."""
    if needed:
        return f"about {needed:,} {items} at these rates would settle it"
    if overall.clusters < 2:
        return f"they are all of one {group}, and only {items} of other {group}s would say more"
    if abs(abs(overall.difference) - share) < share / 2:
        return f"the difference is about as large as the margin: no number of {items} would settle it"
    return f"no number of {items} up to a billion would settle it"


def incomparable(fields: Sequence[Mismatch], margin: Margin, labels: tuple[str, str]) -> Verdict:
    """The verdict when the two were not asked the same."""
    named = "; ".join(map(str, fields[:4]))
    sentence = f"INCOMPARABLE: {labels[1]} and {labels[0]} were not asked and scored alike (margin {margin.text}, n = 0): {named}."
    return Verdict(INCOMPARABLE, sentence, margin, 0, None, tuple(fields))


def answers_rung(pairs: Sequence[Pair], strata: Sequence[Stratum], verdict: Verdict) -> Rung:
    """Score and flips as a finding; each stratum with its own interval as a table."""
    overall = strata[0].paired
    same = sum(pair.same_text is True for pair in pairs)
    hidden = sum(pair.same_text is None for pair in pairs)
    facts: dict[str, Any] = {
        "n": overall.n,
        "margin": verdict.margin.text,
        "reference_per_cent": 100 * overall.reference,
        "candidate_per_cent": 100 * overall.candidate,
        "difference_points": 100 * overall.difference,
        "interval90_points": [100 * overall.low90, 100 * overall.high90],
        "interval95_points": [100 * overall.low95, 100 * overall.high95],
        "interval_method": overall.method,
        "broke": overall.broke,
        "fixed": overall.fixed,
        "flip_rate": overall.flip_rate,
        "p_value": overall.p,
        "quality_of_inference": overall.quality_of_inference,
        "same_text": same,
        "redacted": hidden,
        "clusters": overall.clusters,
        "needed_items": verdict.needed,
    }
    status: Any = "same" if same == len(pairs) and not overall.flips else STATUS[verdict.name]
    told = "every answer is the same text" if same == len(pairs) else f"{same:,} of {len(pairs):,} answers are the same text"
    if hidden:
        told = "the answers are redacted" if hidden == len(pairs) else f"{told}, {hidden:,} are redacted"
    finding = f"{signed(100 * overall.difference)} points on {overall.n:,} items ({span(overall.low90, overall.high90)} at 90 %), {flips_text(overall)}; {told}."
    rows = [
        [
            each.axis,
            each.name,
            each.paired.n,
            *(
                round(100 * value, 2)
                for value in (
                    each.paired.reference,
                    each.paired.candidate,
                    each.paired.difference,
                    each.paired.low90,
                    each.paired.high90,
                )
            ),
            each.paired.broke,
            each.paired.fixed,
        ]
        for each in strata
    ]
    columns = ("axis", "group", "n", "reference %", "candidate %", "difference", "low 90 %", "high 90 %", "broke", "fixed")
    return Rung(5, status, finding, facts, (Table("Paired differences by group (points)", columns, rows),))


def flips_text(overall: PairedDifference) -> str:
    return f"{overall.broke:,} broke, {overall.fixed:,} fixed"


def signed(value: float) -> str:
    """``+0.25``, ``−1.50``, ``0.00``: two digits, a real minus sign."""
    text = f"{abs(value):.2f}".replace("inf", "∞")
    return text if text == "0.00" else f"{'−' if value < 0 else '+'}{text}"


def span(low: float, high: float) -> str:
    """Two fractions as signed points."""
    return f"{signed(100 * low)} to {signed(100 * high)}"
