"""The arguments that ``parity``, ``report`` and ``view`` share: which runs, which is the reference, what counts as a difference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def add_options(parser: Any) -> None:
    """``--reference``, ``--margin`` or ``--relative-margin``, ``--partial``."""
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        action="append",
        help="the reference: a model's text or a run's name (default: the first run's model). Runs of several families of models (vision-language, speech-to-text) have a reference each: repeat it",
    )
    margin = parser.add_mutually_exclusive_group()
    margin.add_argument(
        "--margin", type=float, metavar="POINTS", help="largest difference that counts as none, in percentage points (default 2.0)"
    )
    margin.add_argument("--relative-margin", type=float, metavar="PER_CENT", help="the same in per cent of the reference's score")
    parser.add_argument("--partial", action="store_true", help="also read runs that are not complete")


MANY_ITEMS = 20_000


def announce(sides: Sequence[Any]) -> None:
    """Say on stderr what of a folder is not compared, and that a large comparison takes its time."""
    from workbench.parity.families import by_family
    from workbench.parity.text import printable

    for name in dict.fromkeys(name for side in sides for name in side.passed_over):
        print(
            printable(f"{name} is a table of the zoo and is left out; it has a page of its own: workbench report {name}"),
            file=sys.stderr,
        )
    groups = by_family(sides)
    for family, members in groups.items():
        if len(groups) > 1 and len(members) == 1:
            print(
                printable(f"{members[0].label} is compared with nothing: no other run here is of a {family} model"), file=sys.stderr
            )
    runs = [run for side in sides for run in side.all_runs]
    items = sum(run.manifest["n"] for run in runs)
    if items > MANY_ITEMS:
        print(f"comparing {items:,} items of {len(runs)} runs; this takes a while", file=sys.stderr, flush=True)


def read_margin(arguments: argparse.Namespace) -> Any:
    """The ``Margin`` that was typed, or the default. Raises UsageError."""
    from workbench.parity.ladder import DEFAULT_MARGIN, make_margin

    if arguments.relative_margin is not None:
        return make_margin(arguments.relative_margin, True)
    return make_margin(DEFAULT_MARGIN if arguments.margin is None else arguments.margin, False)
