"""``workbench verify``: is a run what its evaluation wrote, and do its answers give its results?

    workbench verify reports/runs/mmmu-sample-demo-vlm-1a2b3c4d5e6f
    workbench verify shared.zip --json
    workbench verify --migrate reports/runs/old-run
    workbench verify reports/runs/my-eval-... --task my_eval.py
    workbench verify kit-apple-m4-quick.zip

Where the task's data are here, the answers are scored again; else results are worked out from the scores of the lines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_DIFFERENT, EXIT_OK, EXIT_USAGE, BundleError


def add_parser(parsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = parsers.add_parser("verify", help="is a run what its evaluation wrote", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run, or a zip made by workbench pack or workbench kit"
    )
    parser.add_argument("--task", metavar="FILE.py", help="an own eval's file, to score its answers again; its code is run")
    parser.add_argument("--migrate", action="store_true", help="first rewrite runs of an older schema in today's")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when all is well, 1 when a check failed, 2 when a run cannot be read (the others are still checked)."""
    found = [each for path in args.runs for each in verify_path(path, args)]
    if args.json:
        print(json.dumps({"runs": found}, allow_nan=False))
    else:
        for each in found:
            print_findings(each)
    return (
        EXIT_USAGE if any(each["error"] for each in found) else EXIT_DIFFERENT if any(not each["ok"] for each in found) else EXIT_OK
    )


def verify_path(path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """``{"run", "ok", "error", "migrated", "findings"}`` for each run of a folder or zip; before those of a kit one for its record."""
    from workbench.run.bundle import Run
    from workbench.run.kit_check import check_machine
    from workbench.run.verify import verify

    found = []
    try:
        found += verify_kit(path)
        for each in Run.open(path) if not found or found[0]["bundles"] else ():
            migrated = args.migrate and each.migrate()
            findings = [*verify(each, args.task), *check_machine(each)]
            ok = all(finding.level != "failed" for finding in findings)
            rows = [finding.to_dict() for finding in findings]
            found.append({"run": each.name, "ok": ok, "error": None, "migrated": migrated, "findings": rows})
    except BundleError as error:
        found.append({"run": path.name, "ok": False, "error": str(error), "migrated": False, "findings": []})
    return found


def verify_kit(path: Path) -> list[dict[str, Any]]:
    """One entry about the record of a kit, with the number of its ``bundles``; none where ``path`` is no kit. Raises BundleError."""
    from workbench.run.kit_check import check_record, open_record

    opened = open_record(path)
    if opened is None:
        return []
    findings = check_record(*opened)
    ok = all(finding.level != "failed" for finding in findings)
    rows = [finding.to_dict() for finding in findings]
    return [{"run": path.name, "ok": ok, "error": None, "migrated": False, "findings": rows, "bundles": len(opened[1])}]


def print_findings(found: dict[str, Any]) -> None:
    """One line a finding. Names and values come from the bundle, so what a terminal would obey is taken out."""
    state = "cannot be read" if found["error"] else "ok" if found["ok"] else "FAILED"
    print(plain(f"{found['run']}: {state}{' (rewritten in the newest schema)' if found['migrated'] else ''}"))
    for line in (found["error"] or "").splitlines():
        print(plain(f"  {line}"))
    width = max((len(each["what"]) for each in found["findings"]), default=0)
    for each in found["findings"]:
        print(plain(f"  {each['level']:<6}  {each['what']:<{width}}  {each['detail']}"))


def plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
