"""``workbench report RUN...``: one page that says what the runs show, with a Markdown twin and CSV files.

    workbench report reports/runs/*torch* reports/runs/*mlx* --margin 2 --open

Reads bundles only, so runs of machines with other runtimes meet on one that has none. Runs, captures, or both; the bundle of a zoo has
a page of its own. Exit code 0 when the report was written; the verdict's exit codes are those of ``workbench parity``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.cli.comparing import add_options, announce, read_margin
from workbench.errors import EXIT_OK, UsageError

REPORTS = Path("reports")


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("report", help="one page, Markdown and CSV of runs", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="bundles, packed zips, or folders of bundles; the first is the reference"
    )
    add_options(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: reports/report-HASH")
    parser.add_argument("--no-media", action="store_true", help="leave images and sounds out")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    path, comparisons = build(arguments, arguments.out, media="none" if arguments.no_media else "auto")
    if arguments.json:
        print(json.dumps({"report": str(path), "verdicts": [verdict_json(each) for each in comparisons]}, ensure_ascii=False))
    else:
        for comparison in comparisons:
            print(comparison.verdict.sentence)
        print(path)
    if arguments.open:
        open_page(path)
    return EXIT_OK


def build(arguments: argparse.Namespace, out: Path | None, media: Any = "auto") -> tuple[Path, list[Any]]:
    """(path of index.html, comparisons) of the runs that were named. Raises WorkbenchError."""
    from workbench.parity.families import by_family
    from workbench.parity.sides import ZooAlone, read_sides
    from workbench.report import write

    margin = read_margin(arguments)
    try:
        sides = read_sides(arguments.runs, reference=arguments.reference, partial=arguments.partial)
    except ZooAlone as found:
        return zoo_page(found.run, arguments, out), []
    announce(sides)
    comparisons: list[Any] = []
    if any(len(members) > 1 for members in by_family(sides).values()):
        from workbench.parity.ladder import compare_all

        comparisons = list(compare_all(sides, margin=margin))
    path = write(sides, comparisons, out or default_folder(sides, arguments), media=media, command=command_of(sides, arguments))
    return path, comparisons


def zoo_page(run: Any, arguments: argparse.Namespace, out: Path | None) -> Path:
    """The page of a zoo's bundle. Raises WorkbenchError, also for what only runs have."""
    from workbench.report import write_zoo_report

    for flag in ("reference", "margin", "relative_margin"):
        if getattr(arguments, flag) is not None:
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(
                f"{name} says nothing of a zoo", why="its rows were compared when it was run", fix=f"workbench report {run.name}"
            )
    key = "".join(filter(str.isalnum, str(run.manifest.get("run_key"))))[:10]  # a bundle's text, and part of a path
    return write_zoo_report(run, out or REPORTS / f"zoo-report-{key}", command=f"workbench report {run.name}")


def default_folder(sides: Sequence[Any], arguments: argparse.Namespace) -> Path:
    """One folder for the same runs read in the same way: another margin, or a redacted copy, must not replace the first report."""
    from workbench.fingerprint import of_json

    runs = [[[run.manifest["run_key"], bool(run.manifest.get("redacted"))] for run in side.all_runs] for side in sides]
    read = [arguments.margin, arguments.relative_margin, arguments.partial, getattr(arguments, "no_media", False)]
    return REPORTS / f"report-{of_json([runs, read], 10)}"


def command_of(sides: Sequence[Any], arguments: argparse.Namespace) -> str:
    """The command as a reader may repeat it: runs by name, since a path may name a user."""
    parts = ["workbench report", *(run.name for side in sides for run in side.all_runs)]
    for flag, value in (("--margin", arguments.margin), ("--relative-margin", arguments.relative_margin)):
        if value is not None:
            parts.append(f"{flag} {value:g}")
    if arguments.partial:
        parts.append("--partial")
    return " ".join(parts)


def verdict_json(comparison: Any) -> dict[str, Any]:
    verdict = comparison.verdict
    return {
        "candidate": comparison.candidate.label,
        "reference": comparison.reference.label,
        "verdict": verdict.name,
        "sentence": verdict.sentence,
        "n": verdict.n,
        "margin": None if verdict.margin is None else verdict.margin.text,
    }


def open_page(path: Path) -> bool:
    """Show the page in a browser; where there is none, say so on stderr. Returns whether one was started."""
    import webbrowser

    try:
        started = webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        started = False
    if not started:
        print(f"no browser could be started here; open this file: {path.resolve()}", file=sys.stderr)
    return started
