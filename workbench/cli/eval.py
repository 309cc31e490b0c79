"""``workbench eval TASK|SUITE --model M [--model M2 ...]``: one run bundle a model and task, then a table.

workbench eval demo --model demo:vlm@torch --model demo:vlm@mlx
workbench eval stt --model demo:stt@torch --model demo:stt@mlx
workbench eval demo --model demo:vlm@onnx --model 'demo:vlm@tensorrt?precision=fp16'
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK, UsageError

if TYPE_CHECKING:
    from workbench.types import ModelSpec

MODEL_OPTIONS = ("dtype", "device", "device_map", "batch_size", "min_pixels", "max_pixels")


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("eval", help="run a task or a suite on one or more models", description=__doc__.splitlines()[0])
    parser.add_argument("task", metavar="TASK|SUITE", help="a name (workbench list), or a Python file with one @task function")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="M",
        help="demo:vlm@torch, demo:stt@mlx, demo:vlm@coreml, demo:vlm@onnx, 'demo:vlm@tensorrt?precision=fp16', torch:ORG/NAME, mlx:./folder, onnx:./artifact, server:http://HOST:PORT#NAME; repeatable",
    )
    choose = parser.add_argument_group("which items")
    choose.add_argument("--limit", type=int, metavar="N", help="only the first N items")
    choose.add_argument("--subset", type=int, metavar="N", help="N items spread evenly over the set: the same every time")
    choose.add_argument("--sample-id", action="append", default=[], metavar="ID", help="only this item; repeatable")
    choose.add_argument("--shard", metavar="i/n", help="only the items of shard i of n (by hash of the id)")
    run_options = parser.add_argument_group("the run")
    run_options.add_argument("--runs", type=Path, metavar="FOLDER", help="where bundles go (default: reports/runs)")
    run_options.add_argument("--fresh", action="store_true", help="start anew; a former run is set aside, not deleted")
    run_options.add_argument(
        "--allow-mixed", action="store_true", help="continue a run across a difference such as an upgraded library"
    )
    run_options.add_argument("--retry-errors", action="store_true", help="try the items that failed again")
    run_options.add_argument(
        "--include", action="append", default=[], type=Path, metavar="FOLDER", help="look for evals/ and datasets/ here first"
    )
    run_options.add_argument(
        "--record",
        action="append",
        default=[],
        choices=("tokens", "inputs", "media"),
        help="keep evidence for a comparison: tokens (log-probabilities), inputs (the arrays the model got), media; repeatable",
    )
    run_options.add_argument(
        "--follow",
        action="append",
        default=[],
        metavar="RUN|MODEL",
        help="with --record tokens: follow the answers of this run, or of this model's run of the same task; repeatable",
    )
    run_options.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    model = parser.add_argument_group("the model")
    model.add_argument("--max-tokens", type=int, metavar="N", help="at most N new tokens (default: the benchmark's own)")
    model.add_argument("--seed", type=int, metavar="N", help="seed of sampled generation (greedy needs none)")
    model.add_argument("--batch-size", type=int, metavar="N", help="items answered together (default 1)")
    model.add_argument("--dtype", metavar="T", help="float32, float16 or bfloat16")
    model.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps")
    model.add_argument("--device-map", metavar="MAP", help="auto: spread a large model over devices (torch)")
    model.add_argument("--min-pixels", type=int, metavar="N", help="images are enlarged to at least N pixels")
    model.add_argument("--max-pixels", type=int, metavar="N", help="images are shrunk to at most N pixels")
    model.add_argument("--trust-remote-code", action="store_true", help="let a model folder run its own Python code")


def task_names(name: str) -> list[str]:
    """The tasks of a suite, or the task itself. Raises UsageError for a name that is neither."""
    from workbench.suites import load_suite, suite_names
    from workbench.tasks.catalogue import load_task

    if name in suite_names() or name.endswith(".toml"):
        return list(load_suite(name).tasks)
    load_task(name)
    return [name]


def run(arguments: argparse.Namespace) -> int:
    from workbench import locate
    from workbench.types import ModelSpec

    for folder in arguments.include:
        if not folder.is_dir():
            raise UsageError(f"--include {folder}: there is no such folder")
        locate.include(folder)
    if arguments.follow and "tokens" not in arguments.record:
        raise UsageError("--follow says whose tokens to record", why="no tokens are recorded", fix="add --record tokens")
    specs = [ModelSpec.parse(text) for text in arguments.model]
    tasks = task_names(arguments.task)
    if len(specs) > 1:
        from workbench.cli.apart import run_apart

        code, rows = run_apart(arguments)
    else:
        code, rows = run_here(arguments, specs[0], tasks)
    if arguments.json:
        print(json.dumps({"runs": rows}))
    elif rows:
        report(rows, arguments.follow)
    return code


def run_here(arguments: argparse.Namespace, spec: ModelSpec, tasks: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """Evaluate one model on every task, in this process; returns (exit code, a row a run)."""
    from workbench.run.bundle import DEFAULT_RUNS
    from workbench.run.progress import automatic
    from workbench.run.runner import evaluate
    from workbench.run.session import OpenModel

    options = {name: getattr(arguments, name) for name in MODEL_OPTIONS}
    if arguments.trust_remote_code:
        options["trust_remote_code"] = "true"
    model = spec.with_options(**options)
    progress = automatic()
    rows = []
    with OpenModel() as opened:
        for task in tasks:
            done = evaluate(
                task,
                model,
                runs=arguments.runs or DEFAULT_RUNS,
                fresh=arguments.fresh,
                allow_mixed=arguments.allow_mixed,
                retry_errors=arguments.retry_errors,
                progress=progress,
                models=opened,
                limit=arguments.limit,
                subset=arguments.subset,
                sample_ids=arguments.sample_id,
                shard=arguments.shard,
                max_tokens=arguments.max_tokens,
                seed=arguments.seed,
                record=arguments.record,
                follow=arguments.follow,
            )
            if done.was_complete:
                progress.say(f"{task}  {model.label}  is complete already: {done.folder}")
            rows.append({"run": str(done.folder), "was_complete": done.was_complete, "model": model.label, **done.results})
    return (EXIT_ITEM_ERRORS if any(row["item_errors"] for row in rows) else EXIT_OK), rows


def report(rows: list[dict[str, Any]], followed: Sequence[str] = ()) -> None:
    """The table at the end, what failed, the bundles' folders, and what to type next."""
    from workbench.run.bundle import Run
    from workbench.run.summary import print_table

    runs = [Run(row["run"]) for row in rows]
    print_table(runs)
    failed = [done for done in runs if done.results["item_errors"]]
    for done in failed:
        first = next(item for item in done.items().values() if item["output"]["finish"] == "error")
        error = first["output"]["error"]
        print(f"{done.name}: {done.results['item_errors']} items failed; the first is {first['id']}: {error['what']}")
        if error.get("fix"):
            print(f"  try: {error['fix']}")
    for done in runs:
        print(f"bundle: {done.folder}")
    if failed:
        print(f"next: workbench {shlex.join(sys.argv[1:])} --retry-errors")
    else:
        print(f"next: {next_command(runs, followed)}")


def next_command(runs: list[Any], followed: Sequence[str] = ()) -> str:
    """What a user most likely wants now: a comparison with the model that was followed, or when several models ran; else the list of runs."""
    reference = next((each for each in followed if not Path(each).exists()), None)
    if reference:
        return f"workbench parity {shlex.quote(str(runs[0].folder.parent))} --reference {shlex.quote(reference)}"
    models = list(dict.fromkeys(done.manifest["model"]["text"] for done in runs))
    parent = shlex.quote(str(runs[0].folder.parent))
    if len(models) < 2:
        return f"workbench list runs --runs {parent}"
    if len(runs) > 4:
        return f"workbench parity {parent} --reference {shlex.quote(models[0])}"
    return f"workbench parity {shlex.join(str(done.folder) for done in runs)}"
