"""``workbench parity RUN_A RUN_B [...]``: do these runs agree, where do they part, and does it matter?

    workbench parity reports/runs/*torch* reports/runs/*mlx*
    workbench parity reports/runs --reference demo:vlm@torch --gate

The first run's model is the reference; runs of one model on several tasks belong together. Runs of vision-language models and of
recognisers are compared within their own family, each with its own reference (``--reference`` may be repeated). Reads bundles only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from workbench.cli.comparing import add_options, announce, read_margin
from workbench.errors import EXIT_DIFFERENT, EXIT_INCOMPARABLE, EXIT_INCONCLUSIVE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from workbench.parity.comparison import Comparison, Stratum

WORST_FIRST = (EXIT_DIFFERENT, EXIT_INCOMPARABLE, EXIT_INCONCLUSIVE, EXIT_OK)


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "parity",
        help="compare runs rung by rung and say whether they agree",
        description="Compare runs, the first being the reference: weights, inputs, tokens, answers, time; and a verdict.",
        epilog="Exit codes: 0 EQUIVALENT (AGREE of captures alone), 1 DIFFERENT or a failed gate, 4 INCONCLUSIVE, 5 INCOMPARABLE.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="bundle folders, packed zips, or folders of bundles; the first is the reference"
    )
    add_options(parser)
    parser.add_argument(
        "--gate",
        action="store_true",
        help="for CI: fail (1) on anything but EQUIVALENT or AGREE, on differing inputs (rung 2), on items that only the candidate lacks or fails, and on edited runs",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    from workbench.parity.ladder import compare_all
    from workbench.parity.sides import read_sides
    from workbench.parity.text import printable

    margin = read_margin(arguments)
    sides = read_sides(arguments.runs, reference=arguments.reference, partial=arguments.partial)
    announce(sides)
    if len(sides) == 1:
        raise UsageError(
            "all runs given are of one model",
            why=f"{sides[0].label}: {', '.join(each.name for each in sides[0].all_runs)}",
            fix="workbench parity RUN_A RUN_B (the first is the reference)",
        )
    comparisons = compare_all(sides, margin)
    if (arguments.margin or arguments.relative_margin) and all(each.verdict.margin is None for each in comparisons):
        print("the margin is left aside: captures hold no answers; layers are judged by torch's own error", file=sys.stderr)
    failures = {each.candidate.label: gate_failures(each) for each in comparisons} if arguments.gate else {}
    codes = [exit_code(each, failures.get(each.candidate.label)) for each in comparisons]
    if arguments.json:
        print(
            json.dumps(
                plain(
                    {"comparisons": [as_json(each) for each in comparisons], "gate": failures or None, "exit_code": worst(codes)}
                ),
                default=str,
                allow_nan=False,
            )
        )
        return worst(codes)
    print("\n\n".join(str(each) for each in comparisons))
    for label, reasons in failures.items():
        print(printable(f"\ngate: {label} {'failed: ' + '; '.join(reasons) if reasons else 'passed'}"))
    reference = "".join(f" --reference {shlex.quote(each)}" for each in arguments.reference or ())
    print(f"\nnext: workbench report {shlex.join(arguments.runs[:6])}{' ...' if len(arguments.runs) > 6 else ''}{reference}")
    return worst(codes)


def gate_failures(comparison: Comparison) -> list[str]:
    """Why a gate must not pass; [] when it may."""
    reasons = [] if comparison.verdict.exit_code == EXIT_OK else [f"the verdict is {comparison.verdict.name}"]
    if comparison.rung(2).status == "different":
        reasons.append("the models were given different inputs (rung 2)")
    errors = [
        pair.id
        for pair in comparison.pairs
        if pair.candidate["output"]["finish"] == "error" and pair.reference["output"]["finish"] != "error"
    ]
    if errors:
        reasons.append(f"{len(errors)} items failed only in the candidate, for example {errors[0]}")
    if missing := comparison.unpaired.get("reference"):
        reasons.append(f"{len(missing):,} of the items of the reference were not run on the candidate, for example {missing[0]}")
    return [
        *reasons,
        *(said for side in (comparison.reference, comparison.candidate) for run in side.all_runs for said in run.checked),
    ]


def exit_code(comparison: Comparison, failures: list[str] | None) -> int:
    """The verdict's own code; with a gate, 1 when it failed, but 5 where nothing could be compared at all."""
    code = comparison.verdict.exit_code
    return EXIT_DIFFERENT if failures and code != EXIT_INCOMPARABLE else code


def worst(codes: Sequence[int]) -> int:
    return min(codes, key=WORST_FIRST.index)


def plain(value: Any) -> Any:
    """Numbers that JSON has not (an interval without an end) as null."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison but the items' texts: verdict, rungs with their facts, strata, flips by id, notes."""
    return {
        "reference": comparison.reference.label,
        "candidate": comparison.candidate.label,
        "verdict": {
            "name": comparison.verdict.name,
            "sentence": comparison.verdict.sentence,
            "n": comparison.verdict.n,
            "margin": asdict(comparison.verdict.margin) if comparison.verdict.margin else None,
            "needed": comparison.verdict.needed,
            "fields": [asdict(field) for field in comparison.verdict.fields],
        },
        "rungs": [
            {
                "number": rung.number,
                "name": rung.name,
                "status": rung.status,
                "finding": rung.finding,
                "facts": dict(rung.facts),
                "fix": rung.fix,
            }
            for rung in comparison.rungs
        ],
        "first_broken": comparison.first_broken.number if comparison.first_broken else None,
        "strata": [stratum_json(each) for each in comparison.strata],
        "flips": [{"task": pair.task, "id": pair.id, "change": pair.change} for pair in comparison.flips],
        "unpaired": {side: list(names) for side, names in comparison.unpaired.items()},
        "notes": list(comparison.notes),
    }


def stratum_json(stratum: Stratum) -> dict[str, Any]:
    """Of speech with words, errors and both intervals."""
    found = {"axis": stratum.axis, "name": stratum.name, "task": stratum.task, **asdict(stratum.paired)}
    return found if stratum.words is None else {**found, "words": stratum.words.as_json()}
