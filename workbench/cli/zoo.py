"""``workbench zoo``: tiny random checkpoints of every family, in transformers and in the port, compared at every position.

    workbench zoo --family llava --family ./mine.py --layout hub

Exit code 0 when every row was made: a port that differs is a result. 6 when rows crashed, ran out of time or memory, or could not begin.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK

REPORT = Path("reports/zoo-report")
GIB = 2**30
WIDTH = 120
PROVEN = 1e-4
"""Largest error, relative to the largest logit, with which a patched row counts as explained."""
SHORT = {"no reference here": "no reference", "composite reference": "composite"}
COLORS = {"agrees": "green", "scaled": "yellow", "differs": "red", "refused": "magenta", "not run": "dim"}


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("zoo", help="check a port's families without weights", description=__doc__.splitlines()[0])
    choose = parser.add_argument_group("which rows (default: every family that is not slow, in both layouts)")
    choose.add_argument(
        "--family",
        action="append",
        default=[],
        metavar="NAME|FILE.py",
        help="only this family, or those of a file of yours; repeatable",
    )
    choose.add_argument("--modality", choices=("vision", "text"), help="only families of images and text, or of text alone")
    choose.add_argument(
        "--layout",
        action="append",
        default=[],
        choices=("hub", "v5"),
        help="hub: as published checkpoints are; v5: as transformers 5 saves; repeatable",
    )
    choose.add_argument("--slow", action="store_true", help="also families of hundreds of millions of parameters")
    limits = parser.add_argument_group("the run")
    limits.add_argument("--jobs", type=int, metavar="N", help="rows at a time, each in a process (default: one a usable core)")
    limits.add_argument("--timeout", type=float, metavar="SECONDS", help="a row's time limit (default 300; slow families 900)")
    limits.add_argument(
        "--memory", type=float, metavar="GIB", help="a row's limit of resident memory (default 4; slow families 12)"
    )
    limits.add_argument("--runs", type=Path, metavar="FOLDER", help="where bundles go (default: reports/runs)")
    limits.add_argument("--fresh", action="store_true", help="start anew; a former run is set aside, not deleted")
    limits.add_argument(
        "--html", nargs="?", type=Path, const=REPORT, metavar="FOLDER", help=f"also write the page (default: {REPORT})"
    )
    limits.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    from workbench.capture.zoo.run import run_zoo
    from workbench.run.bundle import DEFAULT_RUNS
    from workbench.run.progress import automatic

    progress = automatic()
    done = run_zoo(
        arguments.family or None,
        modality=arguments.modality,
        layouts=arguments.layout or None,
        slow=arguments.slow,
        jobs=arguments.jobs,
        runs=arguments.runs or DEFAULT_RUNS,
        fresh=arguments.fresh,
        progress=progress,
        timeout=arguments.timeout,
        memory_bytes=None if arguments.memory is None else arguments.memory * GIB,
    )
    if done.was_complete:
        progress.say(f"zoo  is complete already: {done.folder}")
    items = list(done.iter_items())
    page = None
    if arguments.html:
        from workbench.report.zoo import write_zoo_report

        page = write_zoo_report(done, arguments.html)
    if arguments.json:
        found = {"rows": [item["row"] for item in items], "bundle": str(done.folder)}
        print(json.dumps(found | ({} if page is None else {"report": str(page)})))
    else:
        print_rows([item["row"] for item in items])
        print(f"bundle: {done.folder}")
        if page is not None:
            print(f"page: {page}")
        print(f"next: {next_command(done, items, page)}")
    return EXIT_ITEM_ERRORS if unmade(items) else EXIT_OK


def unmade(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [item for item in items if item["output"]["finish"] == "error"]


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table (``error``: the largest difference of a logit over the largest logit; ``inputs``: how many of them differ), how many rows have each verdict, and why those that do not agree do not."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from workbench.parity.text import printable

    table = Table(title=None, pad_edge=False)
    for name, justify, width in (
        ("family", "left", None),
        ("layout", "left", None),
        ("kind", "left", None),
        ("verdict", "left", 7),
        ("error", "right", 7),
        ("inputs", "right", None),
        ("argmax", "right", 6),
        ("causal", "left", 12),
    ):
        table.add_column(name, justify=justify, no_wrap=True, min_width=width)
    table.add_column("first layer", overflow="fold")
    for row in rows:
        verdict = str(row["verdict"])
        cells = (
            row["family"],
            row["layout"],
            SHORT.get(row["kind"], row["kind"]),
            verdict,
            number(row.get("max_relative_error"), ".1e"),
            f"{row['inputs_differing']}/{row['inputs']}" if row.get("inputs") else "-",
            share(row.get("argmax_agreement")),
            causal(row),
            row.get("first_layer") or "-",
        )
        texts = [Text(printable(str(cell))) for cell in cells]
        texts[3].stylize(COLORS.get(verdict, "red"))
        table.add_row(*texts)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)
    counts = Counter(str(row["verdict"]) for row in rows)
    print(f"{len(rows)} rows: {', '.join(f'{count} {printable(name)}' for name, count in counts.most_common())}")
    for line in reasons(rows):
        print(printable(line))


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a row that does not agree, and one for the cause where a finding proves it; layouts of one reason together."""
    said: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        if row["verdict"] == "agrees":
            continue
        proof, cause = row.get("counterfactual"), ""
        if proof:
            titles = "; ".join(str(each["title"]) for each in proof["findings"])
            whole = proof["max_relative_error"] <= PROVEN
            cause = f"{'cause' if whole else 'not the whole cause'} (error with it patched: {number(proof['max_relative_error'], '.1e')}): {titles}"
        said.setdefault((str(row["family"]), str(row["verdict"]), str(row.get("reason") or ""), cause), []).append(
            str(row["layout"])
        )
    lines = []
    for (family, verdict, reason, cause), layouts in said.items():
        lines += [short(f"{family}/{'+'.join(layouts)} {verdict}: {reason}"), *([f"  {short(cause, WIDTH - 2)}"] if cause else [])]
    return lines


def short(text: str, width: int = WIDTH) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")


def number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "-"


def share(value: Any) -> str:
    """Per cent; 100 only where every position agrees."""
    if not isinstance(value, (int, float)):
        return "-"
    return f"{100 * value:.0f} %" if value == 1 else f"{min(100 * value, 99.9):.1f} %"


def causal(row: Mapping[str, Any]) -> str:
    """Of the port; with the reference's where that is not causal either."""
    words = {True: "yes", False: "NO", None: "-"}
    found = words.get(row.get("causal"), "-")
    return f"{found}, ref. too" if row.get("causal_reference") is False else found


def next_command(done: Any, items: Sequence[Mapping[str, Any]], page: Path | None) -> str:
    """What a user most likely wants now: rows that were not made again, else the page."""
    if unmade(items):
        words = [word for word in sys.argv[1:] if word not in ("--json", "--fresh")]
        return f"workbench {shlex.join(words)} --fresh"
    return f"workbench report {shlex.quote(str(done.folder))}" if page is None else f"workbench view {shlex.quote(str(page))}"
