"""``workbench kit``: run the demo suite on this machine's runtimes and pack all evidence into one zip that anybody can read.

    workbench kit --dry-run                      # what would run here, and what this machine lacks
    workbench kit                                # 50 items of each set, 140 utterances; kit-apple-m4-max-quick.zip
    workbench kit --full --out my-mac.zip        # all items
    workbench report my-mac.zip reports/demo     # here or elsewhere, alone or beside other runs

Each step runs in a process of its own; one that fails or aborts is recorded and the kit goes on. Typed again, finished steps are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK, BundleError, UsageError

if TYPE_CHECKING:
    from workbench.cli.kit_plan import Plan
    from workbench.run.bundle import Run
    from workbench.run.kit import Kit, Runtime, Step
    from workbench.run.scrub import Private

RUNS = Path("reports/kit")
NEEDED_BYTES = 500_000_000
FULL_DISK_BYTES = 20_000_000
LONGEST_REASON = 600
LIBRARIES = (
    *("torch", "transformers", "mlx", "mlx-vlm", "mlx-whisper", "mlx-audio", "coremltools"),
    *("numpy", "safetensors", "tokenizers", "soundfile"),
)


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "kit",
        help="run the demo suite on this machine's runtimes and pack the evidence into one zip",
        description="Run the two bundled models on every runtime of this machine, and pack runs, captures and environment into one zip.",
        epilog="Exit codes: 0 every step complete, 6 the zip is there but a step failed, 130 interrupted: type the same command again.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="50 items of each of the four sets with pictures, 140 utterances (the default)"
    )
    size.add_argument("--full", action="store_true", help="all items")
    size.add_argument("--limit", type=int, metavar="N", help="N items of each set")
    names = "runtimes (torch, mlx, coreml), models (vlm, stt), eval or capture, variants or steps as --dry-run names them"
    parser.add_argument("--only", action="append", default=[], metavar="A,B", help=f"only these: {names}. The reference stays")
    parser.add_argument("--skip", action="append", default=[], metavar="A,B", help="all but these")
    parser.add_argument(
        "--runs", type=Path, default=RUNS, metavar="FOLDER", help=f"where bundles go, and are reused (default: {RUNS})"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.zip", help="default: kit-PROCESSOR-quick.zip in this folder")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Plan, run, pack. Raises WorkbenchError before anything runs where the zip could not be written at the end."""
    from workbench.backends.hardware import describe_hardware
    from workbench.cli.kit_plan import look, plan

    made = plan(look(), items_of(arguments), only=listed(arguments.only), skip=listed(arguments.skip))
    if arguments.dry_run:
        print(json.dumps(plan_json(made)) if arguments.json else plan_text(made))
        return EXIT_OK
    machine = describe_hardware()
    target = arguments.out or Path(default_name(machine, arguments))
    check_target(target, machine, [step.name for step in made.steps])
    check_space(arguments.runs)
    kit, runs = run_all(made, arguments.runs, machine)
    left_out = pack_kit(kit, runs, target)
    report(kit, runs, target, left_out, arguments)
    return EXIT_ITEM_ERRORS if kit.failed or left_out else EXIT_OK


def items_of(arguments: argparse.Namespace) -> Mapping[str, int | None]:
    """By model, how many items of each set. Raises UsageError."""
    from workbench.cli.kit_plan import FULL, QUICK

    if arguments.full:
        return FULL
    if arguments.limit is None:
        return QUICK
    if arguments.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {arguments.limit}")
    return dict.fromkeys(QUICK, arguments.limit)


def listed(values: Sequence[str]) -> list[str]:
    """``["torch,coreml", "mlx"]`` -> ``["torch", "coreml", "mlx"]``."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


def default_name(machine: dict[str, Any], arguments: argparse.Namespace) -> str:
    """``kit-apple-m4-max-quick.zip``: the processor, not the computer's own name."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(machine.get("cpu") or machine.get("machine") or "machine").lower()).strip("-")
    size = "full" if arguments.full else f"{arguments.limit}-items" if arguments.limit else "quick"
    return f"kit-{slug[:60]}-{size}.zip"


def check_target(target: Path, machine: dict[str, Any], steps: Sequence[str]) -> None:
    """Raises UsageError or BundleError where the zip could not be put there, before an hour was spent on it.

    An earlier kit of this machine is replaced by one of the same ``steps`` or more; any other file is not.
    """
    from workbench.run.archive import read_kit

    folder = target.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "it cannot be written" if folder.is_dir() else "there is no such folder"
        raise BundleError(f"cannot write {target}", why=f"{folder}: {why}", fix="--out FOLDER/FILE.zip")
    if not target.exists():
        return
    try:
        earlier = read_kit(target) if target.is_file() else None
    except BundleError:
        earlier = None
    why = None
    if earlier is None or earlier.machine.get("hardware_key") != machine["hardware_key"]:
        why = "it is no kit of this machine"
    elif more := [step.name for step in earlier.steps if step.name not in steps]:
        why = f"it is a kit with steps that would be lost, such as {more[0]}"
    if why is not None:
        raise BundleError(f"{target} is there already", why=why, fix="--out ANOTHER.zip")


def check_space(runs: Path) -> None:
    from workbench.run.writer import make_folder

    make_folder(runs)
    free = shutil.disk_usage(runs).free
    if free < NEEDED_BYTES:
        why = f"{free / 1e6:.0f} MB are free, and a kit's runs take up to {NEEDED_BYTES / 1e6:.0f} MB"
        raise BundleError(f"there is too little space in {runs}", why=why, fix="free some, or --runs FOLDER on another disk")


def run_all(made: Plan, folder: Path, machine: dict[str, Any]) -> tuple[Kit, list[Run]]:
    """Run every step, whatever became of those before it; (the record, the bundles in its order)."""
    import workbench
    from workbench.cli.kit_steps import run_step
    from workbench.fingerprint import versions
    from workbench.run.bundle import Run
    from workbench.run.kit import WITH_RUNS, Kit
    from workbench.run.progress import shown
    from workbench.run.scrub import Private

    private = Private.here(folder)
    done: list[Step] = []
    answered: set[str] = set()
    for number, step in enumerate(made.steps, 1):
        say(f"[{number}/{len(made.steps)}] {step.name}: {step.model}")
        try:
            ended = run_step(step, folder, private, lambda line: say(f"    {shown(line)}"), follow=step.follow in answered)
        except KeyboardInterrupt:
            say(f"to go on without this step, add: --skip {shlex.quote(step.name)}")
            raise
        if ended.status in WITH_RUNS and step.what == "eval":
            answered.add(step.model)
        if ended.ended:
            say(f"    {ended.status}: {ended.ended}; recorded, and the kit goes on")
        if ended.status not in WITH_RUNS and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
            fix = "free some space, then type the same command again: finished steps are reused"
            raise BundleError(f"the disk with {folder} is full", why=f"{step.name} could not go on", fix=fix)
        done.append(ended)
    found = {"cpu": None, **machine}
    gpus = [{name: gpu.get(name) for name in ("name", "memory_bytes", "driver")} for gpu in found["gpus"]]
    kept = {name: found.get(name) for name in ("cpu", "cores", "memory_bytes", "system", "system_release", "machine", "python")}
    about = {**kept, "hardware_key": found["hardware_key"], "gpus": gpus}
    lacking = tuple(scrubbed(each, private) for each in made.not_here)
    kit = Kit(workbench.__version__, made.items, about, versions(LIBRARIES), tuple(done), lacking, made.left_out)
    return kit, [Run(folder / name) for name in kit.runs]


def scrubbed(runtime: Runtime, private: Private) -> Runtime:
    """A library that cannot be loaded says where it lies."""
    from dataclasses import replace

    fix = private.scrubbed(runtime.fix)[:LONGEST_REASON] if runtime.fix else None
    return replace(runtime, reason=private.scrubbed(runtime.reason)[:LONGEST_REASON], fix=fix)


def pack_kit(kit: Kit, runs: Sequence[Run], target: Path) -> dict[str, str]:
    """Write the zip; returns what was left out of it, by name, and why. A run that names a place on this machine stays here."""
    from workbench.cli.kit_readme import readme
    from workbench.run.archive import pack
    from workbench.run.kit import KIT_FILE, README_FILE, parse
    from workbench.run.scrub import Private

    private = Private.here(*{run.folder.parent for run in runs})
    named = {run.name: place for run in runs if (place := private_text(run, private))}
    sent = [run for run in runs if run.name not in named]
    kit = without(kit, named)
    content = kit.encode()
    parse(content)  # what no reader would take is not sent
    left_out = pack(sent, target, beside={KIT_FILE: content, README_FILE: readme(kit, target.name)}, replace=True)
    return {
        **{name: f"{place} names a place on this machine" for name, place in named.items()},
        **dict.fromkeys(left_out, "no part of a bundle"),
    }


def without(kit: Kit, names: dict[str, str]) -> Kit:
    """The record without some bundles: their steps ended as they did, and made nothing that can be sent."""
    from dataclasses import replace

    steps = tuple(replace(step, runs=tuple(name for name in step.runs if name not in names)) for step in kit.steps)
    return replace(kit, steps=steps)


def private_text(run: Run, private: Private) -> str | None:
    """The first file of a bundle, of those that hold text, in which a folder of this machine is named."""
    for path in sorted(run.folder.glob("*.json*")):
        with open(path, encoding="utf-8", errors="replace") as file:
            if any(private.found_in(line) for line in file):
                return path.name
    return None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def plan_text(made: Plan) -> str:
    """The plan for a terminal: steps in their order, what is not here, what was not wanted."""
    from workbench.run.kit import items_text

    width = max(len(step.name) for step in made.steps)
    lines = [f"{len(made.steps)} steps, in this order; {items_text(made.items)}:"]
    for number, step in enumerate(made.steps, 1):
        lines.append(f"  {number:>2}  {step.name:<{width}}  {step.model}{'  (the reference)' if step.is_reference else ''}")
    for each in made.not_here:
        lines += [f"not here: {each.name}: {each.reason}", *([f"          try: {each.fix}"] if each.fix else [])]
    if made.left_out:
        lines.append(f"left out: {', '.join(made.left_out)}")
    return "\n".join(lines)


def plan_json(made: Plan) -> dict[str, Any]:
    steps = [
        {"name": step.name, "what": step.what, "model": step.model, "command": step.shown(True), "reference": step.is_reference}
        for step in made.steps
    ]
    lacking = [{"name": each.name, "reason": each.reason, "fix": each.fix} for each in made.not_here]
    return {"items": made.items, "steps": steps, "not_here": lacking, "left_out": list(made.left_out)}


def report(kit: Kit, runs: Sequence[Run], target: Path, left_out: dict[str, str], arguments: argparse.Namespace) -> None:
    """What is in the zip, what failed and what is not here; then the next command."""
    from workbench.parity.text import printable
    from workbench.run.bundle import CAPTURE
    from workbench.run.kit_check import step_text

    sent = [run for run in runs if run.name not in left_out]
    if arguments.json:
        names = [run.name for run in sent]
        failed = [{"name": step.name, "status": step.status, "ended": step.ended} for step in kit.failed]
        lacking = [{"name": each.name, "reason": each.reason, "fix": each.fix} for each in kit.not_here]
        found = {"zip": str(target), "bytes": target.stat().st_size, "runs": names, "steps": len(kit.steps)}
        print(json.dumps({**found, "failed": failed, "not_here": lacking, "left_out": left_out}))
        return
    captures = sum(run.kind == CAPTURE for run in sent)
    lines = [f"{kit.machine_text}: {kit.summary}"]
    lines += [f"failed: {step_text(step)}" for step in kit.failed]
    lines += [f"not here: {each.name}: {each.reason}{f' (try: {each.fix})' if each.fix else ''}" for each in kit.not_here]
    lines += [f"left out of the zip: {name}: {why}" for name, why in left_out.items()]
    counted = " and ".join(
        f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((len(sent) - captures, "run"), (captures, "capture"))
    )
    lines.append(f"{target}: {counted}, {target.stat().st_size / 1e6:.1f} MB, with kit.json and README.txt")
    name = shlex.quote(str(target))
    lines.append(
        f"next: workbench report {name} --open      # then send the zip; workbench report {name} OTHER_RUNS puts it beside others"
    )
    print(printable("\n".join(lines)))
