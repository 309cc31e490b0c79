"""The page: one self-contained HTML file, its words from a template, its rows packed beside them.

    text, blocks = render(sides, comparisons, views, thumbnails, texts, speech, title="...", command="workbench report ...")

Safe by construction: jinja2 escapes every value, ``finalize`` makes unseen characters visible before that, the content security
policy allows exactly one script and one style sheet (by hash) and no connection at all, and item texts are packed as base64 and shown
by ``textContent``. Works from ``file://``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from workbench.metrics.drift import LIMIT
from workbench.parity.comparison import Comparison
from workbench.parity.families import SPEECH
from workbench.parity.sides import Side
from workbench.report import blocks, layers, sheets, text
from workbench.report.environment import environment_rows
from workbench.report.forest import share_svg
from workbench.report.items import CHANGES, CHUNK, ItemView, Speech, Texts
from workbench.report.kits import kits_of
from workbench.report.media import Thumbnails
from workbench.report.program import program_views
from workbench.report.readiness import ABOUT, readiness_views
from workbench.report.reasons import REASONS, item_failures, reason_rows
from workbench.report.scores import score_rows
from workbench.report.sizes import size_blocks
from workbench.report.speech import compared_with_nothing, of_speech, speech_rows
from workbench.report.timings import timing_blocks

HERE = Path(__file__).parent
PAGE_SIZE = 50
MOST_FAILURES = 100
DATA = "<!--data-->"
"""Where the packed rows go. Foreign text cannot hold it: ``<`` is escaped."""


def render(
    sides: Sequence[Side],
    comparisons: Sequence[Comparison],
    views: Sequence[ItemView],
    thumbnails: Thumbnails,
    texts: Texts,
    speech: Speech,
    *,
    title: str | None = None,
    command: str | None = None,
) -> Iterator[str]:
    """The page in pieces, in order: written one by one, 100,000 items need no second copy in memory."""
    # Pages without speech carry nothing of it.
    spoken = any(view.speech for view in views)
    files = (("style.css", "speech.css"), ("speech.js", "page.js")) if spoken else (("style.css",), ("page.js",))
    style, script = ("\n".join((HERE / name).read_text(encoding="utf-8") for name in names) for names in files)
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            **context(sides, comparisons, views, thumbnails, texts, speech, title=title, command=command),
            style=safe(style),
            script=safe(script),
            policy=policy(style, script, sounds=bool(speech.sounds.kept)),
            data_here=safe(DATA),
        )
    )
    head, tail = page.split(DATA)
    yield head
    yield f'<script type="application/json" id="config">{script_json(config(views, thumbnails))}</script>\n'
    for number, view in enumerate(views):
        yield block(f"index-{number}", view.index)
        for part, chunk in enumerate(view.chunks):
            yield block(f"rows-{number}-{part}", chunk)
    for number, picture in enumerate(thumbnails.kept):
        yield block(f"picture-{number}", picture.url)
    for number, sound in enumerate(speech.sounds.kept):
        yield block(f"sound-{number}", sound.url)
    yield tail


def context(
    sides: Sequence[Side],
    comparisons: Sequence[Comparison],
    views: Sequence[ItemView],
    thumbnails: Thumbnails,
    texts: Texts,
    speech: Speech,
    *,
    title: str | None,
    command: str | None,
) -> dict[str, Any]:
    """Everything the template shows, ready to print."""
    import workbench

    candidates = [blocks.Candidate(comparison) for comparison in comparisons]
    alone = compared_with_nothing(sides, comparisons) if comparisons else []
    spoken = speech_rows(sides)
    failures = item_failures(sides)
    times = timing_blocks(sides)
    properties = environment_rows(sides)
    answered = any(side.runs for side in sides)
    layered = any(side.captures for side in sides)
    return {
        "title": title or blocks.title_of(sides, comparisons),
        "command": command,
        "sides": sides,
        "tasks": list(dict.fromkeys(task for side in sides for task in side.tasks)),
        "candidates": candidates,
        "answered": answered,
        "layered": layered,
        "layers_apart": not answered and (not candidates or any(each.depth for each in candidates)),
        "figure_names": list(dict.fromkeys(name for each in candidates for name, _ in each.figures)),
        "inputs": layers.input_rows(sides) if layered else [],
        "recorded": [] if answered or candidates else [(side, layers.recorded_layers(side)) for side in sides],
        "programs": program_views(sides) if layered else [],
        "limit": f"{LIMIT:g}",
        "sheets": sheets.names(sides, comparisons),
        "groups_shown": answered and (not candidates or any(not each.about_layers for each in candidates)),
        "reference_groups": blocks.ReferenceGroup.all_of(candidates),
        "references": references_of(sides, comparisons),
        "alone": alone,
        "direction": blocks.directions(candidates),
        "spoken": spoken,
        "speech": of_speech(sides, comparisons),
        "only_speech": bool(spoken) and all(side.family == SPEECH for side in sides),
        "sounds": speech.sounds,
        "alignments": speech.alignments,
        "warnings": [] if comparisons else blocks.run_warnings(sides),
        "groups": [blocks.SideGroups(side) for side in (alone if comparisons else sides)],
        "scores": score_rows(sides),
        "sizes": size_blocks(sides, comparisons),
        "times": times,
        "machines": len({time.hardware_key for time in times}),
        "reasons": reason_rows(sides),
        "reason_meanings": REASONS,
        "failures": failures[:MOST_FAILURES],
        "failures_in_all": len(failures),
        "topics": [(topic, list(rows)) for topic, rows in groupby(properties, key=lambda row: row.topic)],
        "differing": sum(row.differs for row in properties),
        "kits": kits_of(sides),
        "readiness": readiness_views(sides),
        "readiness_about": ABOUT,
        "views": views,
        "thumbnails": thumbnails,
        "texts": texts,
        "versions": {"workbench": workbench.__version__, "python": platform.python_version()},
        "share_svg": share_svg,
    }


def references_of(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> list[int]:
    """The numbers of the sides that others are compared with; without comparisons the first."""
    found = [number for number, side in enumerate(sides) if any(side is each.reference for each in comparisons)]
    return found if comparisons else [0]


def environment():
    """The jinja2 environment: autoescape on, every value made visible first, missing names are errors."""
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else text.visible(value)

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "points", "milliseconds", "byte_text", "fact", "significant", "bounded", "plain")
    made.filters |= {name: getattr(text, name) for name in names}
    made.filters |= {name: getattr(text, f"{name}_text") for name in ("error", "times", "share", "fixed")}
    made.filters |= {"words": blocks.words, "short_facts": layers.facts_of}
    made.globals |= {"symbols": blocks.SYMBOLS, "interval": blocks.interval, "most_rows": blocks.MOST_TABLE_ROWS}
    return made


def safe(source: str):
    """Our own style sheet or script, as it is."""
    from markupsafe import Markup

    return Markup(source)


def policy(style: str, script: str, sounds: bool = False) -> str:
    """The content security policy: one style sheet, one script, pictures (and ``sounds``) from this file, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in (style, script)]
    return (
        f"default-src 'none'; img-src data:; {'media-src data:; ' if sounds else ''}style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: no ``< > &`` and no line separators."""
    found = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return found


def block(name: str, content: str) -> str:
    """A data block of our own characters: base64, or a data URL."""
    return f'<script type="text/plain" id="{name}">{content}</script>\n'


def config(views: Sequence[ItemView], thumbnails: Thumbnails) -> dict[str, Any]:
    return {
        "pictures": [[each.width, each.height, int(each.pixelated)] for each in thumbnails.kept],
        "pageSize": PAGE_SIZE,
        "chunk": CHUNK,
        "changes": list(CHANGES),
        "reasons": REASONS,
        "views": [
            {"label": view.label, "sides": view.sides, "n": view.n, "counts": view.counts}
            | ({"speech": True} if view.speech else {})
            for view in views
        ],
    }
