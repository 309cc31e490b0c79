"""``workbench convert MODEL_FOLDER --to LAYOUT``: a model as something else, checked to be the same model.

    workbench convert ./my-finetune --to hub-layout
    workbench convert torch:./my-finetune --to hub-layout --out ./for-mlx

hub-layout: a folder saved by transformers 5 as published checkpoints are laid out, so that ports such as mlx-vlm read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_OK, UsageError

SHOWN = 12
"""Changed fields that are printed; ``--json`` has all."""


@dataclass(frozen=True)
class Target:
    """One kind of ``--to``: ``convert(args, folder, out)`` returns (what ``--json`` prints, the lines for people)."""

    words: str
    suffix: str
    convert: Callable[[argparse.Namespace, Path, Path], tuple[dict[str, Any], list[str]]]


def add_parser(parsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = parsers.add_parser(
        "convert",
        help="a model folder in another layout, checked to be the same model",
        description="Convert a model folder, and check that it is still the same model.",
        epilog="--to: " + "; ".join(f"{name}: {target.words}" for name, target in TARGETS.items()),
    )
    parser.add_argument("model", metavar="MODEL_FOLDER", help="a folder, or torch:FOLDER, torch:ORG/NAME[@REVISION]")
    parser.add_argument("--to", required=True, choices=list(TARGETS), help="what it becomes: see below")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="a new folder (default: beside the model, named NAME-hub)")
    parser.add_argument("--no-check", action="store_true", help="do not load both models in transformers to compare them")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="copy the folder's Python files too; they are not run here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Returns 0, also when there is nothing to do. Raises WorkbenchError: exit code 1 when the check found a difference, 2 for a
    folder that is refused, 3 when transformers is not here to check."""
    from workbench.cli.verify import plain

    target = TARGETS[args.to]
    folder, default = find(args.model, target.suffix)
    found, lines = target.convert(args, folder, args.out or default)
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(map(plain, lines)))
    return EXIT_OK


def find(text: str, suffix: str) -> tuple[Path, Path]:
    """(the model's folder, where the result goes unless the user says otherwise).

    What is not the user's own folder (a download, a snapshot in the hub's cache) gets its result in the current folder.
    """
    from workbench.errors import ModelError
    from workbench.models.source import resolve
    from workbench.types import ModelSpec

    folder = Path(text).expanduser()
    if not folder.is_dir():
        if ":" not in text:
            what = f"{text!r} is a file" if folder.exists() else f"model folder {text!r} does not exist"
            on_hub = f"; a model on the hub: torch:{text}" if text.count("/") == 1 and text[0] not in "./~" else ""
            why = "a model is a folder with config.json and weights"
            raise ModelError(what, why=why, fix=f"name the folder that model.save_pretrained wrote{on_hub}")
        spec = ModelSpec.parse(text)
        if spec.backend != "torch":
            raise UsageError(
                f"{text!r} is not converted",
                why="what is converted is a folder of transformers",
                fix="workbench convert FOLDER, or torch:ORG/NAME",
            )
        if spec.options or spec.adapter:
            raise UsageError(
                f"{text!r} is not converted",
                why="options of a model change how it runs, not its folder",
                fix=f"torch:{spec.source}",
            )
        found = resolve(spec)
        folder = found.folder
        if not Path(spec.source).expanduser().is_dir():
            return folder, Path(f"{found.source.split('/')[-1].split(':')[-1]}{suffix}")
    whole = folder.resolve()
    if whole.parent.name == "snapshots":
        return folder, Path(f"{whole.parent.parent.name.split('--')[-1]}{suffix}")
    beside = folder.parent if folder.name not in ("", "..") else whole.parent
    return folder, beside / f"{whole.name}{suffix}"


def to_hub_layout(args: argparse.Namespace, folder: Path, out: Path) -> tuple[dict[str, Any], list[str]]:
    from workbench.cli.verify import plain
    from workbench.convert import hub_layout

    if hub_layout.is_published(folder):
        why = f"{folder} is in the layout of published checkpoints already: nothing to do"
        return {"source": str(folder), "target": None, "already": True}, [why]
    say = (lambda text: None) if args.json else (lambda text: print(plain(text), file=sys.stderr, flush=True))
    done = hub_layout.to_hub_layout(folder, out, check=not args.no_check, trust_remote_code=args.trust_remote_code, say=say)
    found = {
        "source": str(folder),
        "target": str(done.target),
        "already": False,
        "model_type": done.model_type,
        "weights": done.weights,
        "renamed": done.renamed,
        "remade": done.remade,
        "changes": [{"field": name, "before": before, "after": after} for name, before, after in done.changes],
        "copied": done.copied,
        "written": done.written,
        "left_out": [{"name": name, "why": why} for name, why in done.left_out],
        "checked": not args.no_check,
        "check": done.check,
    }
    remade = f", {done.remade} remade" if done.remade else ""
    lines = [f"{done.target}: {done.model_type}, {done.weights} weights ({done.renamed} renamed{remade})"]
    lines += [f"config.json: {name}: {short(before)} -> {short(after)}" for name, before, after in done.changes[:SHOWN]]
    if len(done.changes) > SHOWN:
        lines.append(f"config.json: {len(done.changes) - SHOWN} more fields (--json lists them)")
    if done.written:
        lines.append(f"written for older readers: {', '.join(done.written)}")
    lines += [f"left out: {name} ({why})" for name, why in done.left_out]
    lines.append(f"check: {done.check}")
    lines.append(f"next: workbench eval demo --model mlx:{done.target}")
    return found, lines


def short(value: Any) -> str:
    text = value if value == "(absent)" else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


TARGETS = {
    "hub-layout": Target(
        "a folder saved by transformers 5, as published checkpoints are laid out and ports read it", "-hub", to_hub_layout
    ),
}
