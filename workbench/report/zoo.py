"""The zoo's page: which ports compute the same function as transformers, where the others part, and what was proven about it.

    path = write_zoo_report(Run("reports/runs/zoo-all-1a2b3c4d5e6f"), Path("reports/zoo-report"))     # .../index.html

One self-contained file beside two CSV files, as safe as the other page (``workbench.report.page``) and by the same means. Everything is
in the page as text and can be read without JavaScript, which only filters.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.metrics.drift import LIMIT
from workbench.report import page, zoo_words
from workbench.report.drift import drift_figure
from workbench.report.folder import PAGE, refuse_others, swap, unwritable
from workbench.report.sheets import write_sheet
from workbench.report.zoo_rows import DIFFERENT, LAYOUTS, MEASURES, VERDICTS, Zoo, colour, symbol
from workbench.run.bundle import Run

OWN_FILES = {PAGE, "rows.csv", "layers.csv"}
"""All that a zoo's report holds."""
MOST_LAYERS = 500
"""Layers of one row's table on the page; layers.csv has all."""


def write_zoo_report(run: Run, out: str | Path, *, title: str | None = None, command: str | None = None) -> Path:
    """Write the report of a zoo's bundle to the folder ``out`` and return the path of its ``index.html``.

    ``command`` is printed at the foot. The same bundle gives the same bytes. An earlier report in ``out`` is replaced; raises
    UsageError when something else is there (a report of runs, too), BundleError when it cannot be written or the bundle is damaged.
    """
    zoo, out = Zoo.of(run), Path(out)
    refuse_others(out, OWN_FILES)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.draft-", dir=out.parent))
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        (draft / PAGE).write_text(render(zoo, title=title, command=command), encoding="utf-8", newline="\n")
        write_sheet(draft / "rows.csv", ROWS, row_lines(zoo))
        write_sheet(draft / "layers.csv", LAYERS, layer_lines(zoo))
        draft.chmod(0o755)
        swap(draft, out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out / PAGE


def render(zoo: Zoo, *, title: str | None = None, command: str | None = None) -> str:
    """The page."""
    import workbench

    style, script = ((page.HERE / name).read_text(encoding="utf-8") for name in ("style.css", "zoo.js"))
    proofs, unproven = zoo_words.proofs(zoo)
    made = page.environment()
    made.filters |= {
        "causal": zoo_words.causal_text,
        "facts": zoo_words.facts_of,
        "beside": zoo_words.beside,
        "short": zoo_words.short,
        "symbol": symbol,
        "colour": colour,
    }
    return made.get_template("zoo.html.j2").render(
        zoo=zoo,
        title=title or zoo_words.title_of(zoo),
        sentences=zoo_words.sentences(zoo),
        proofs=proofs,
        unproven=unproven,
        notes=zoo_words.notes_of(zoo),
        facts=zoo_words.environment(zoo),
        method=zoo_words.METHOD,
        limits=zoo_words.LIMITS,
        meanings=VERDICTS,
        different=DIFFERENT,
        layout_words=LAYOUTS,
        kinds=zoo_words.KINDS,
        drift_figure=drift_figure,
        most_layers=MOST_LAYERS,
        limit=LIMIT,
        command=command,
        versions={"workbench": workbench.__version__, "python": platform.python_version()},
        style=page.safe(style),
        script=page.safe(script),
        policy=page.policy(style, script),
    )


ROWS = (
    *("id", "family", "title", "layout", "modality", "kind", "verdict", "max_relative_error", "own_relative_error", "times_own"),
    *("argmax_agreement", "causal", "causal_reference", "first_layer", "worst_case", "scale", "reason", "note", "findings"),
    *("error_after", "parameters", "seconds", "peak_memory_bytes"),
)


def row_lines(zoo: Zoo) -> Iterator[Sequence[Any]]:
    """One line a row, in the order of the page."""
    for row in zoo.rows:
        given = {"findings": "; ".join(str(each.get("name")) for each in row.findings)}
        yield [given[name] if name in given else getattr(row, name) for name in ROWS]


LAYERS = ("id", "case", "layer", "reason", *MEASURES)


def layer_lines(zoo: Zoo) -> Iterator[Sequence[Any]]:
    """One line a row, input and layer."""
    for row in zoo.rows:
        for lines in row.layers.values():
            for line in lines:
                yield [line.get(name) for name in LAYERS]
