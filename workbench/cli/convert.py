"""``workbench convert MODEL --to WHAT``: a model as something else, checked to be the same model.

    workbench convert ./my-finetune --to hub-layout
    workbench convert torch:./my-finetune --to hub-layout --out ./for-mlx
    workbench convert torch:ORG/WHISPER --to mlx-whisper --bits 4
    workbench convert demo:vlm --to coreml --precision fp16 --quantize int8
    workbench convert demo:vlm --to tensorrt --precision fp16

hub-layout: a folder saved by transformers 5 as published checkpoints are laid out, so that ports such as mlx-vlm read it.
mlx-whisper, transformers: a Whisper as the one or the other reads it.
coreml: a folder of Core ML programs (``workbench.cli.convert_coreml``).
onnx, tensorrt: a folder of typed ONNX graphs, and whether TensorRT lists all in them (``workbench.cli.convert_onnx``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.cli import convert_coreml, convert_onnx, convert_words
from workbench.errors import EXIT_DIFFERENT, EXIT_OK, UsageError

SHOWN = 12
"""Changed fields that are printed; ``--json`` has all."""


@dataclass(frozen=True)
class Target:
    """One kind of ``--to``: ``convert(args, folder, out)`` returns (what ``--json`` prints, the lines for people).

    Where ``finds`` is False it is ``convert(args)``: the kind itself reads what MODEL names and where the result goes.
    """

    words: str
    suffix: str
    convert: Callable[..., tuple[dict[str, Any], list[str]]]
    options: tuple[str, ...] = ()
    """Those that not every kind has."""
    runtime: str = "torch"
    """Whose folders it reads: torch:FOLDER or mlx:FOLDER."""
    finds: bool = True


def add_parser(parsers: Any) -> argparse.ArgumentParser:
    """Add the verb; its ``run`` default is ``run`` below."""
    parser = parsers.add_parser(
        "convert",
        help="a model in another layout or for another runtime, checked to be the same model",
        description="Convert a model, and check that it is still the same model.",
        epilog="--to: " + "; ".join(f"{name}: {target.words}" for name, target in TARGETS.items()),
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder, or torch:FOLDER, torch:ORG/NAME[@REVISION], mlx:...; for coreml, onnx and tensorrt also demo:vlm, demo:stt, file.py:factory",
    )
    parser.add_argument("--to", required=True, choices=list(TARGETS), help="what it becomes: see below")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="a new folder (default: beside the model, named NAME-hub, NAME-mlx ...)"
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), help="mlx-whisper: quantise the weights")
    parser.add_argument(
        "--group-size", type=int, choices=(32, 64, 128), help="with --bits: weights that share a scale (default: 32)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="store the weights so (default: as they are)")
    parser.add_argument("--no-check", action="store_true", help="do not load both models to compare them")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="copy the folder's Python files too; they are not run here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    convert_words.add_options(parser)
    convert_coreml.add_options(parser)
    convert_onnx.add_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Returns 0, also when there is nothing to do, and 1 for a failed gate (``--check``). Raises WorkbenchError: exit code 1 when the check found a difference, 2 for a
    folder that is refused, 3 when transformers is not here to check."""
    from workbench.cli.verify import plain

    target = TARGETS[args.to]
    _refuse_options(args, target)
    with redirect_stdout(sys.stderr):  # what a user's module prints
        if target.finds:
            folder, default = find(args.model, target.suffix, target.runtime)
            found, lines = target.convert(args, folder, args.out or default)
        else:
            found, lines = target.convert(args)
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(map(plain, lines)))
    return EXIT_DIFFERENT if found.get("failed") else EXIT_OK


def _refuse_options(args: argparse.Namespace, target: Target) -> None:
    """Raises UsageError for an option that would do nothing."""
    for name in OPTIONS:
        if getattr(args, name, None) not in (None, False) and name not in target.options:
            having = ", ".join(f"--to {kind}" for kind, each in TARGETS.items() if name in each.options)
            raise UsageError(f"--{name.replace('_', '-')} does nothing for --to {args.to}", why=f"it is for {having}")
    if getattr(args, "group_size", None) and not args.bits:
        raise UsageError("--group-size is for quantised weights", fix=f"--bits 4 --group-size {args.group_size}")


def find(text: str, suffix: str, runtime: str = "torch") -> tuple[Path, Path]:
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
        if spec.backend != runtime:
            raise UsageError(
                f"{text!r} is not converted",
                why=f"what is converted is a folder of {'transformers' if runtime == 'torch' else runtime}",
                fix=f"workbench convert FOLDER, or {runtime}:ORG/NAME",
            )
        if spec.options or spec.adapter:
            raise UsageError(
                f"{text!r} is not converted",
                why="options of a model change how it runs, not its folder",
                fix=f"{runtime}:{spec.source}",
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
    from workbench.convert import hub_layout

    if hub_layout.is_published(folder):
        why = f"{folder} is in the layout of published checkpoints already: nothing to do"
        return {"source": str(folder), "target": None, "already": True}, [why]
    checks = {"check": not args.no_check, "trust_remote_code": args.trust_remote_code}
    done = hub_layout.to_hub_layout(folder, out, **checks, say=saying(args))
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


def to_mlx_whisper(args: argparse.Namespace, folder: Path, out: Path) -> tuple[dict[str, Any], list[str]]:
    from workbench.convert import whisper

    done = whisper.to_mlx_whisper(
        folder,
        out,
        bits=args.bits,
        group_size=args.group_size or 32,
        dtype=args.dtype,
        check=not args.no_check,
        say=saying(args),
    )
    return _whisper(folder, done, args, f"workbench eval asr-sample --model mlx:{done.target}")


def to_transformers(args: argparse.Namespace, folder: Path, out: Path) -> tuple[dict[str, Any], list[str]]:
    from workbench.convert import whisper

    done = whisper.to_transformers(folder, out, dtype=args.dtype, check=not args.no_check, say=saying(args))
    return _whisper(folder, done, args, f"workbench eval asr-sample --model torch:{done.target}")


def _whisper(folder: Path, done: Any, args: argparse.Namespace, following: str) -> tuple[dict[str, Any], list[str]]:
    found = {
        "source": str(folder),
        "target": str(done.target),
        "weights": done.weights,
        "dtype": done.dtype,
        "quantised": done.quantised,
        "plain": done.plain,
        "copied": done.copied,
        "written": done.written,
        "left_out": [{"name": name, "why": why} for name, why in done.left_out],
        "checked": not args.no_check,
        "check": done.check,
    }
    lines = [f"{done.target}: whisper, {done.weights} arrays, {done.dtype}"]
    if done.quantised:
        lines.append(
            f"quantised: {len(done.quantised)} weights to {args.bits} bits; {len(done.plain)} were not (--json lists them)"
        )
    lines += [f"written for its readers: {', '.join(done.written)}"] if done.written else []
    lines += [f"left out: {name} ({why})" for name, why in done.left_out]
    return found, [*lines, f"check: {done.check}", f"next: {following}"]


def saying(args: argparse.Namespace) -> Callable[[str], None]:
    from workbench.cli.verify import plain

    return (lambda text: None) if args.json else (lambda text: print(plain(text), file=sys.stderr, flush=True))


def short(value: Any) -> str:
    text = value if value == "(absent)" else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


TARGETS = {
    "hub-layout": Target(
        "a folder saved by transformers 5, as published checkpoints are laid out and ports read it",
        "-hub",
        to_hub_layout,
        options=("trust_remote_code",),
    ),
    "mlx-whisper": Target(
        "a Whisper of transformers, as mlx-whisper reads it", "-mlx", to_mlx_whisper, options=("bits", "group_size", "dtype")
    ),
    "transformers": Target(
        "a Whisper of mlx-whisper, as transformers reads it", "-transformers", to_transformers, options=("dtype",), runtime="mlx"
    ),
    "coreml": Target(
        "programs for Core ML: a LLaVA-style model, a Whisper, or a module of your own",
        "-coreml",
        convert_coreml.convert,
        options=convert_coreml.OPTIONS,
        finds=False,
    ),
    **{
        name: Target(
            f"typed ONNX graphs for {words}: a LLaVA-style model, a Whisper, a module of your own, or an .onnx file",
            "-onnx",
            convert_onnx.convert,
            options=convert_onnx.OPTIONS,
            finds=False,
        )
        for name, words in (("onnx", "ONNX Runtime"), ("tensorrt", "TensorRT"))
    },
}
OPTIONS = tuple(dict.fromkeys(name for target in TARGETS.values() for name in target.options))
