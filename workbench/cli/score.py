"""``workbench score``: official scores of predictions made anywhere, and of finished runs again.

    workbench score mmmu --items rows.jsonl --predictions answers.jsonl
    workbench score mathvista --items testmini.parquet --predictions judged.jsonl --json
    workbench score reports/runs/mmmu-sample-demo-vlm-1a2b3c4d5e6f
    workbench score SHARD1 SHARD2 SHARD3
    workbench score asr --items rows.jsonl --predictions answers.jsonl --profile oal-2026-08

Rows are in the data set's own columns; only those that scoring reads are needed, and never an image. Without ``--items``
the task's own data are used. Speech to text is scored under a profile: a normaliser with its version, and how words are matched.
Nothing here loads a model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.cli.word_errors import GROUP_TITLES, group_cells, word_error_lines
from workbench.data.card import FromCard, make_samples
from workbench.data.predictions import match, read_predictions
from workbench.data.rows import Rows, read_rows
from workbench.errors import EXIT_OK, UsageError
from workbench.metrics.normalise import MANY
from workbench.tasks.asr import FAMILY as SPEECH_TO_TEXT
from workbench.tasks.asr import prepare, with_profile
from workbench.tasks.catalogue import load_task
from workbench.tasks.scoring import score_responses
from workbench.types import Sample, Task


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = subparsers.add_parser(
        "score",
        help="score predictions, or a finished run again, as the benchmark's authors do",
        description="Score predictions made anywhere by a benchmark's official rules, or a finished run again; without a model.",
        epilog='Predictions: one JSON object a line, {"id": "validation_Art_1", "response": "B"}; MathVista may add "extraction".',
    )
    parser.add_argument("task", metavar="TASK", help="task name, path of an own eval, or the folder of a finished run")
    parser.add_argument("shards", metavar="RUN", nargs="*", type=Path, help="folders of the other shards of that run")
    parser.add_argument(
        "--items", type=Path, metavar="ROWS", help="the data set's rows: .jsonl, .json or .parquet; without it the task's own data"
    )
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="the answers: JSON lines with id and response")
    parser.add_argument(
        "--partial", action="store_true", help="score only the items that have a prediction, and say how many have none"
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="speech to text: whisper (default), oal-2026-08 or none; of a finished run, score it again so",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises WorkbenchError (exit code 2) for anything that does not fit; nothing is printed then."""
    folder = Path(args.task)
    if folder.is_dir():
        results = rescore_run(folder, args)
    elif args.shards:
        raise UsageError(f"{args.task!r} is no folder of a run", why="only runs are put together", fix="workbench list runs")
    else:
        results = score_files(load_task(args.task), args.items, args.predictions, partial=args.partial, profile=args.profile)
    if args.json:
        print(json.dumps(results, allow_nan=False))
    else:
        print_results(results)
    return EXIT_OK


def rescore_run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    for each in (folder, *args.shards):
        if not (each / "manifest.json").is_file():
            raise UsageError(f"{str(each)!r} is not a run", why="it holds no manifest.json", fix="workbench list runs")
    if args.items or args.predictions or args.partial:
        raise UsageError("a run holds its own items and answers", fix=f"workbench score {folder}")
    if args.shards:
        from workbench.run.rescore import merge

        return merge([folder, *args.shards], args.profile)
    from workbench.run.rescore import rescore

    return rescore(folder, args.profile)


def score_files(
    task: Task, items: Path | None, predictions: Path | None, *, partial: bool = False, profile: str | None = None
) -> dict[str, Any]:
    """The results of a predictions file, of speech under ``profile`` (None: the task's own). Raises DataError or UsageError."""
    if profile is not None:
        task = with_profile(task, profile)
    if predictions is None:
        raise UsageError(
            "no predictions were given", fix=f"workbench score {task.name} --items rows.jsonl --predictions answers.jsonl"
        )
    responses = read_predictions(predictions)
    samples = task.load().samples if items is None else read_items(task, items)
    matched = match(responses, [sample.id for sample in samples], partial=partial)
    if task.family == SPEECH_TO_TEXT and len(samples) > MANY:
        prepare(samples, {name: response.text for name, response in matched.items()}, task.scorer.removeprefix("wer "))
    return score_responses(task, samples, matched).results


def read_items(task: Task, path: Path) -> Sequence[Sample]:
    """The rows of a file as the task's samples, with only the columns that scoring needs."""
    if isinstance(task.card, FromCard):
        card = task.card.card
        columns, optional, to_sample = card.score, card.optional, task.card.to_sample
    elif isinstance(task.card, Rows):
        columns, optional, to_sample = (), (), task.card.to_sample
    else:
        raise UsageError(f"task {task.name!r} reads its own data only", fix=f"workbench score {task.name} --predictions {path}")
    return make_samples(read_rows(path, columns, optional), to_sample, path.name)


def print_results(results: dict[str, Any]) -> None:
    """Headline, interval, fallbacks and groups as tables."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from workbench.parity.text import printable

    headline = results["headline"]
    lines = [("task", f"{results['task']} (scorer {results['scorer']}, version {results['version']})"), ("n", count_text(results))]
    speech = "normaliser" in results
    if speech:
        lines += word_error_lines(results)
    else:
        lines.append(("score", value_text(headline["value"], headline["unit"], headline["of"])))
    if (bounds := results["interval"]) and not speech:
        low, high = (value_text(bounds[name], bounds["unit"]) for name in ("low", "high"))
        lines.append((f"{100 * bounds['confidence']:.0f} % interval", f"{low} to {high} (Wilson, of the items scored)"))
    if results.get("recognition"):
        lines.append(("recognition", value_text(**results["recognition"])))
    if results.get("floor") is not None:
        lines.append(
            ("floor", f"{results['floor']:.2f} % for empty answers (nearest choice); {results['extractions']} extractions given")
        )
    if results["random_fallbacks"]:
        low, high = (value_text(value, headline["unit"]) for value in results["score_range_over_seeds"])
        lines.append(("random fallbacks", f"{results['random_fallbacks']}; over 200 other seeds the score is {low} to {high}"))
    lines.append(("answers", ", ".join(f"{number} {reason}" for reason, number in sorted(results["reasons"].items()))))
    if "changed" in results:
        lines.append(("changed", f"{len(results['changed'])} items score differently than before"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        console.print(Text(f"{name:<{width}}  {printable(text)}"))  # names of items and groups come from files
    for axis, groups in results["groups"].items():
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for title in (axis, *(GROUP_TITLES if speech else ("n", "correct", "score"))):
            table.add_column(title, justify="left" if title == axis else "right", overflow="fold")
        for name, group in groups.items():
            if speech:
                table.add_row(*map(Text, (printable(name), *group_cells(group))))
                continue
            right = "-" if group["correct"] is None else str(group["correct"])
            cells = (printable(name), str(group["n"]), right, value_text(group["value"], headline["unit"]))
            table.add_row(*map(Text, cells))
        console.print(table)


def count_text(results: dict[str, Any]) -> str:
    missing = f" of {results['n']}; {results['missing']} missing, not scored" if results["missing"] else ""
    return f"{results['scored']}{missing}"


def value_text(value: float | None, unit: str, of: int | None = None) -> str:
    """``36.67 %``, ``632 of 1000``."""
    if value is None:
        return "-"
    if unit == "items":
        return f"{value:.0f} of {of}" if of else f"{value:.0f}"
    return f"{value:.2f} {unit}"
