"""The suite ``demo`` on both runtimes, item by item: how often they give the same answer, and where they do not.

python -m tests.bench.agreement --runs reports/runs
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from workbench.metrics.stats import wilson
from workbench.run.bundle import Run
from workbench.tasks.catalogue import load_task

MODELS = ("demo:vlm@torch", "demo:vlm@mlx")


def evaluate(runs: Path) -> list[Run]:
    """The eight bundles; complete ones are reused."""
    models = [part for model in MODELS for part in ("--model", model)]
    command = [sys.executable, "-m", "workbench", "eval", "demo", *models, "--runs", str(runs), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Run(row["run"]) for row in json.loads(done.stdout)["runs"]]


def compare(first: Run, second: Run) -> list[dict[str, Any]]:
    """The items on which two runs of one task answer differently."""
    one, other = first.items(), second.items()
    if {name: item["input_hash"] for name, item in one.items()} != {name: item["input_hash"] for name, item in other.items()}:
        raise SystemExit("the two runs were not asked the same")
    return [
        {
            "id": name,
            "answers": [item["output"]["value"] for item in (one[name], other[name])],
            "values": [one[name]["score"]["value"], other[name]["score"]["value"]],
        }
        for name in one
        if one[name]["output"]["value"] != other[name]["output"]["value"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("reports/runs"))
    runs = evaluate(parser.parse_args().runs)
    total = differing = 0
    for first, second in zip(runs[:4], runs[4:], strict=True):
        task = load_task(first.manifest["task"]["name"])
        chance = 100 * sum(map(task.chance, task.load().samples)) / first.results["n"]
        for run in (first, second):
            results = run.results
            low, _ = (100 * bound for bound in wilson(results["correct"], results["n"]))
            verdict = "yes" if low - chance >= 20 else "NO"
            share = 100 * results["correct"] / results["n"]
            print(
                f"{task.name:<17} {run.manifest['model']['text']:<15} n = {results['n']}  {share:5.1f} %  lower 95 % bound {low:5.1f} %  "
                f"chance {chance:4.1f} %  20 points above chance: {verdict}"
            )
        rows = compare(first, second)
        total, differing = total + first.results["n"], differing + len(rows)
        for row in rows:
            print(
                f"  differs: {row['id']}: {row['answers'][0]!r} and {row['answers'][1]!r}, scores {row['values'][0]} and {row['values'][1]}"
            )
    print(f"same answer on {total - differing} of {total} items ({100 * (total - differing) / total:.2f} %)")


if __name__ == "__main__":
    main()
