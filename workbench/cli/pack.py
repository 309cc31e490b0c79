"""``workbench pack``: runs as one zip, to be sent, kept or attached to a report.

    workbench pack reports/runs/mmmu-sample-demo-vlm-1a2b3c4d5e6f
    workbench pack RUN1 RUN2 --out both.zip
    workbench pack RUN --out public.zip --redact

Every reader takes the zip in place of the folder. The same runs give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_OK, UsageError

REDACTION = (
    "--redact replaces questions, prompts, gold answers, responses and what was read in them by keyed hashes, and leaves out token "
    "ids, images and tensors. Without --redact-key the key is random: equal answers are seen equal within one zip only. With it, "
    "zips made with the same text can be compared, and who knows the text can try out short answers. Ids, scores, "
    "groups (of own evals without their names) and the hashes of inputs stay: who has the data set can tell which items were asked."
)


def add_parser(parsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = parsers.add_parser("pack", help="runs as one zip", description=__doc__.splitlines()[0], epilog=REDACTION)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of complete runs, or zips of them")
    parser.add_argument("--out", type=Path, metavar="FILE.zip", help="default: the first run's name, in this folder")
    parser.add_argument("--redact", action="store_true", help="without the texts: see below")
    parser.add_argument("--redact-key", metavar="TEXT", help="make the keyed hashes of two zips comparable")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises WorkbenchError (exit code 2) for an unfinished run or a zip that is there already."""
    from workbench.cli.verify import plain
    from workbench.run.archive import pack
    from workbench.run.bundle import Run

    if args.redact_key is not None and not args.redact:
        raise UsageError("--redact-key is of use with --redact alone", fix="add --redact")
    runs = [each for path in args.runs for each in Run.open(path)]
    target = args.out or Path(f"{runs[0].name}{f'-and-{len(runs) - 1}-more' if len(runs) > 1 else ''}.zip")
    warnings = [warning for each in runs for warning in each.checked]
    left_out = pack_redacted(runs, target, args.redact_key) if args.redact else pack(runs, target)
    if args.json:
        names = [each.name for each in runs]
        found = {"zip": str(target), "bytes": target.stat().st_size, "runs": names, "left_out": left_out, "warnings": warnings}
        print(json.dumps(found))
        return EXIT_OK
    for warning in warnings:
        print(plain(f"warning: {warning}"), file=sys.stderr)
    for name in left_out:
        print(plain(f"left out, no part of a bundle: {name}"), file=sys.stderr)
    print(f"{target}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {target.stat().st_size / 1e6:.2f} MB")
    return EXIT_OK


def pack_redacted(runs: list[Any], target: Path, key: str | None) -> list[str]:
    """Pack copies without texts; they never leave a private temporary folder."""
    from workbench.run.archive import pack
    from workbench.run.redact import key_of, redact

    secret = key_of(key)
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        return pack([redact(each, Path(folder) / str(number) / each.name, secret) for number, each in enumerate(runs)], target)
