"""``workbench view [REPORT | RUN...]``: opens a report in the browser, building it first where runs are named.

workbench view                                  # the newest report under reports/
workbench view reports/report-1a2b3c4d5e
workbench view reports/runs/*torch* reports/runs/*mlx*
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workbench.cli.comparing import add_options
from workbench.cli.report import REPORTS, build, open_page
from workbench.errors import EXIT_OK, UsageError

PAGE = "index.html"


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("view", help="open a report, or runs, in the browser", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="*", metavar="REPORT|RUN", help="a report's folder or page, or runs; default: the newest report"
    )
    add_options(parser)
    parser.add_argument("--no-open", action="store_true", help="print the path and open nothing")


def run(arguments: argparse.Namespace) -> int:
    path = find(arguments)
    print(path)
    if not arguments.no_open:
        open_page(path)
    return EXIT_OK


def find(arguments: argparse.Namespace) -> Path:
    """The page to show. Raises UsageError when there is none."""
    if not arguments.runs:
        return newest(REPORTS)
    pages = [page for text in arguments.runs if (page := page_of(Path(text)))]
    if not pages:
        return build(arguments, None)[0]
    if len(arguments.runs) > 1:
        raise UsageError("one report is shown at a time", why=f"{pages[0]} is a report", fix=f"workbench view {pages[0].parent}")
    return pages[0]


def page_of(path: Path) -> Path | None:
    """The page of a report's folder, or of the page itself; None for anything else."""
    if path.suffix == ".html" and path.is_file():
        return path
    page = path / PAGE
    return page if page.is_file() and not (path / "manifest.json").exists() else None


def newest(folder: Path) -> Path:
    """The page written last under ``folder``."""
    pages = [page for page in folder.glob(f"*/{PAGE}") if not page.parent.name.startswith(".")]  # those are drafts
    pages.sort(key=lambda page: page.stat().st_mtime_ns)
    if not pages:
        raise UsageError(f"there is no report in {folder}/", fix="workbench report RUN...")
    return pages[-1]
