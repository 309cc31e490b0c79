"""``workbench extract``: a language model extracts the answers of a MathVista run, or judges the answers of any run.

workbench extract reports/runs/mathvista-... --with server:http://127.0.0.1:8080#llm
workbench extract reports/runs/mathvista-... --with torch:ORG/NAME --prompt ext_ans.py
workbench extract reports/runs/mmmu-... --with http://127.0.0.1:8080 --judge
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK, UsageError


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "extract", help="let a language model extract or judge a run's answers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument(
        "--with", dest="model", required=True, metavar="MODEL|URL", help="torch:ORG/NAME, server:http://HOST:PORT#NAME, or a URL"
    )
    parser.add_argument(
        "--prompt", type=Path, metavar="FILE", help="the extraction prompt; the authors' own makes the score official"
    )
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="the model's name in the bundle (default: as typed, without keys)"
    )
    parser.add_argument("--judge", action="store_true", help="correct or incorrect, beside the official score: any task")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, or 6 when the model failed on items. Raises WorkbenchError."""
    from workbench.run import extract as reading
    from workbench.run.progress import automatic

    if arguments.judge and arguments.prompt:
        raise UsageError("--judge has its own prompt", why="--prompt is that of the extraction", fix="leave one of them out")
    if arguments.judge:
        found = reading.judge(arguments.bundle, arguments.model, name=arguments.name, progress=automatic())
    else:
        found = reading.extract(
            arguments.bundle, arguments.model, prompt=arguments.prompt, name=arguments.name, progress=automatic()
        )
    if arguments.json:
        print(json.dumps(found, allow_nan=False))
    else:
        for line in judged_lines(found) if arguments.judge else extracted_lines(found):
            print(line)
        print(f"bundle: {arguments.bundle}")
        if found["errors"]:
            print(f"next: workbench {shlex.join(sys.argv[1:])}  (tries the {found['errors']} items again that failed)")
        elif not arguments.judge:
            print(f"next: workbench score {shlex.quote(str(arguments.bundle))}")
    return EXIT_ITEM_ERRORS if found["errors"] else EXIT_OK


def extracted_lines(results: dict[str, Any]) -> list[str]:
    """Score, scorer, and who extracted how many."""
    from workbench.run.summary import interval_text, score_text

    lines = [f"score      {score_text(results)}  ({interval_text(results)})", f"scorer     {results['scorer']}"]
    if about := results.get("extractor"):
        missing = f", {about['n_missing']} missing" if about["n_missing"] else ""
        lines.append(f"extracted  {about['n_model']} by the model, {about['n_rules']} by the official rules{missing}")
    return [*lines, "nothing had to be done"] if results["was_complete"] else lines


def judged_lines(found: dict[str, Any]) -> list[str]:
    """The judge's share, and what it could not decide."""
    from workbench.run.summary import interval_text, score_text

    return [
        f"judged     {score_text(found)} correct  ({interval_text(found)}, of {found['judged']} items with a verdict)",
        f"scorer     {found['scorer']} (prompt {found['prompt_id']}); the run's own score is untouched",
        f"undecided  {found['unparsed']} unparsed replies, {found['errors']} errors",
        *(["nothing had to be done"] if found["was_complete"] else []),
    ]
