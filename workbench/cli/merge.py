"""``workbench merge``: the shards of one run as one new run. The shards stay as they are.

    workbench merge SHARD1 SHARD2 SHARD3
    workbench merge from-three-machines.zip --out reports/runs/whole

``workbench score SHARD1 SHARD2`` prints the same scores and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_OK


def add_parser(parsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = parsers.add_parser("merge", help="put the shards of one run together", description=__doc__.splitlines()[0])
    parser.add_argument("shards", metavar="SHARD", nargs="+", type=Path, help="folders of complete shards, or zips of them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the new run's folder (default: beside the first shard)")
    parser.add_argument("--task", metavar="FILE.py", help="the eval's file, where the shards' own name does not find it")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises WorkbenchError (exit code 2) when the shards do not fit together; nothing is written then."""
    from workbench.run.bundle import Run
    from workbench.run.merge import merge_to
    from workbench.run.summary import interval_text, score_text

    merged = merge_to([each for path in args.shards for each in Run.open(path)], args.out, args.task)
    results = merged.results
    if args.json:
        print(json.dumps({"run": str(merged.folder), "merged": merged.manifest["merged"], **results}, allow_nan=False))
        return EXIT_OK
    missing = f"; {results['missing']} items of the data are in no shard" if results["missing"] else ""
    print(f"{merged.folder}: {len(merged.manifest['merged'])} shards, n = {results['n']}{missing}")
    print(f"score {score_text(results)} ({interval_text(results)})")
    if note := results["performance"].get("note"):
        print(note)
    return EXIT_OK
