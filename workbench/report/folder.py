"""Writes a report: a folder made beside its place and put there whole, so that a reader never meets half of one.

path = write(sides, compare_all(sides), Path("reports/report-1a2b3c"))     # .../index.html
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from workbench.errors import BundleError, UsageError
from workbench.parity.comparison import Comparison
from workbench.parity.families import by_family
from workbench.parity.ladder import DEFAULT_MARGIN, Source, compare_all, make_margin
from workbench.parity.sides import Side, ZooAlone, read_sides
from workbench.report.items import Speech, Texts, item_view
from workbench.report.layers import about_layers
from workbench.report.markdown import markdown_text
from workbench.report.media import Thumbnails
from workbench.report.page import render
from workbench.report.shapes import check
from workbench.report.sheets import SHEETS, write_sheets
from workbench.report.speech import compared_with_nothing

PAGE = "index.html"
OWN_FILES = {PAGE, "report.md", *SHEETS}
"""All that a report's folder may hold; a folder with anything else is never replaced."""
MARK = b'name="generator" content="parity-workbench '
"""Stands in the head of every page that was written here."""


def write(
    sides: Sequence[Side],
    comparisons: Sequence[Comparison],
    out: str | Path,
    *,
    title: str | None = None,
    media: Literal["auto", "none"] = "auto",
    command: str | None = None,
) -> Path:
    """Write the report of ``sides`` to the folder ``out`` and return the path of its ``index.html``.

    ``comparisons`` may be empty: then there is no verdict. ``media``: thumbnails of what is in the bundles or in the tasks' own
    data here, or none. ``command`` is printed at the foot. The same bundles give the same bytes. An earlier report in ``out`` is
    replaced; raises UsageError when something else is there, BundleError when it cannot be written or a bundle is damaged.
    """
    if not sides:
        raise UsageError("there is nothing to report", why="no run was given", fix="workbench list runs")
    for side in sides:
        for run in side.all_runs:
            check(run)
    out = Path(out)
    refuse_others(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.draft-", dir=out.parent))
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        write_page(draft / PAGE, sides, comparisons, title, media, command)
        (draft / "report.md").write_text(markdown_text(sides, comparisons, title=title, command=command), encoding="utf-8")
        write_sheets(draft, sides, comparisons)
        draft.chmod(0o755)
        swap(draft, out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out / PAGE


def write_report(
    sources: Sequence[Source],
    out: str | Path,
    *,
    reference: str | Sequence[str] | None = None,
    margin: float = DEFAULT_MARGIN,
    relative: bool = False,
    partial: bool = False,
    media: Literal["auto", "none"] = "auto",
) -> Path:
    """Write the report of runs, the first being the reference: ``Run`` objects, bundles, packed zips or folders of bundles.

    ``margin`` is in percentage points, or with ``relative`` in per cent of the reference's score. A zoo's bundle, alone, has a report of
    its own. Returns the path of ``index.html``. Raises UsageError or BundleError as ``read_sides`` and ``write`` do.
    """
    try:
        sides = read_sides(sources, reference=reference, partial=partial)
    except ZooAlone as found:
        from workbench.report.zoo import write_zoo_report

        return write_zoo_report(found.run, out)
    several = any(len(members) > 1 for members in by_family(sides).values())
    comparisons = compare_all(sides, make_margin(margin, relative)) if several else []
    return write(sides, comparisons, out, media=media)


def write_page(
    path: Path, sides: Sequence[Side], comparisons: Sequence[Comparison], title: str | None, media: str, command: str | None
) -> None:
    thumbnails = Thumbnails([run for side in sides for run in side.all_runs], wanted=media != "none")
    speech = Speech.of(sides, wanted=media != "none")
    speech.sounds.reserve(comparisons)
    texts = Texts()
    answered: list[Any] = [each for each in comparisons if not about_layers(each)]
    answered += compared_with_nothing(sides, comparisons)
    views = [item_view(source, texts, thumbnails, speech) for source in answered]
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for piece in render(sides, comparisons, views, thumbnails, texts, speech, title=title, command=command):
            file.write(piece)


def swap(draft: Path, out: Path) -> None:
    """Put ``draft`` in the place of ``out``; the earlier report goes only after that."""
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent)) / "report"
        os.replace(out, old)
    try:
        os.replace(draft, out)
    except OSError:
        if old is not None:
            os.replace(old, out)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)


def refuse_others(out: Path, own_files: Collection[str] = frozenset(OWN_FILES)) -> None:
    """Raises UsageError unless ``out`` is free, an empty folder, or an earlier report that holds ``own_files`` alone."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageError(f"{out} is not a folder", why="a report is a folder", fix="--out FOLDER")
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if name not in own_files] or ([] if is_report(out) else names)
    if others:
        what = "no report of this kind" if is_report(out) else "no report"
        raise UsageError(
            f"{out} is {what}", why=f"it holds {others[0]!r}, and a report replaces its folder", fix="--out ANOTHER_FOLDER"
        )


def is_report(folder: Path) -> bool:
    """Whether its page was written here."""
    try:
        with open(folder / PAGE, "rb") as file:
            return MARK in file.read(4_000)
    except OSError:
        return False


def unwritable(out: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot write the report to {out}", why=str(error.strerror or error), fix="--out FOLDER")
