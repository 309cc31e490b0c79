"""``workbench convert MODEL --to coreml``: a model as Core ML programs, checked against torch; what was compressed and what was not.

workbench convert demo:vlm --to coreml --stateful-kv
workbench convert demo:vlm --to coreml --precision fp16 --quantize int4-block32 --sensitivity
workbench convert torch:ORG/WHISPER --to coreml --precision fp16 --keep-fp32 softmax --inputs stt --limit 4
workbench convert my_model.py:make --to coreml
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.cli import convert_words
from workbench.convert.feeds import INPUTS_OF, LIMIT, MakeFeeds, feeds_of
from workbench.errors import UsageError, WorkbenchError

SHOWN = 10
"""Layers of a stage's sensitivity table, and weights that were left, that are printed; ``--json`` has all."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``--to coreml`` alone has."""
    group = parser.add_argument_group("coreml")
    group.add_argument(
        "--quantize", metavar="HOW", help="compress the weights: int8, int4-block32 (iOS18), palette4, palette6 or prune50"
    )
    group.add_argument("--target", metavar="iOS17|iOS18", help="the oldest system that is to run it (default iOS18, macOS 15)")
    group.add_argument(
        "--stateful-kv", action="store_true", default=None, help="the decoder keeps its cache in the program (iOS18)"
    )
    group.add_argument(
        "--sensitivity",
        type=int,
        nargs="?",
        const=SHOWN,
        metavar="N",
        help="with --quantize: which layers cost most when they alone are compressed; print the first N of each stage",
    )


OPTIONS = ("precision", "quantize", "target", "stateful_kv", "keep_fp32", "context", "sensitivity", "inputs", "limit")


def convert(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """(what ``--json`` prints, the lines for people). Raises as ``workbench.convert.coreml.build.build``."""
    from workbench.cli.convert import saying
    from workbench.convert.coreml.build import build
    from workbench.convert.subject import subject_of

    recipe = recipe_of(args)
    _refuse_idle(args)
    subject = subject_of(args.model)
    feeds = _feeds(args, subject)
    out = args.out or default_out(args.model, subject, recipe)
    done = build(
        subject,
        out,
        recipe,
        say=saying(args),
        check=not args.no_check,
        sensitive=args.sensitivity is not None,
        feeds=feeds,
        explain=first_departing,
    )
    return described(done, args), list(lines(done, args))


def recipe_of(args: argparse.Namespace) -> Any:
    """Raises UsageError for what is not known or does not go together."""
    from workbench.convert.coreml.recipe import Recipe

    given = {"precision": args.precision, "quantize": args.quantize, "target": args.target}
    return Recipe(
        **{name: value for name, value in given.items() if value is not None},
        stateful=bool(args.stateful_kv),
        keep_fp32=tuple(args.keep_fp32 or ()),
        context=args.context,
    ).check()


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raises UsageError for an option that would do nothing beside the others."""
    if args.sensitivity is not None and not args.quantize:
        raise UsageError(
            "--sensitivity is about a compression", why="without one no layer is compressed", fix="--quantize int8 --sensitivity"
        )
    if args.sensitivity is not None and args.sensitivity < 1:
        raise UsageError(f"--sensitivity must be at least 1, not {args.sensitivity}")
    if args.no_check and args.sensitivity is None and args.inputs:
        raise UsageError("--inputs are for the check", why="--no-check makes none", fix="leave one of the two out")
    if args.limit is not None and not args.inputs:
        raise UsageError("--limit is about --inputs", fix=f"--inputs demo --limit {args.limit}")


def default_out(model: str, subject: Any, recipe: Any) -> Path:
    """Beside the user's own folder, else in the current one; what is not the default of a recipe is part of the name."""
    words = ["fp16" if recipe.precision == "fp16" else "", recipe.quantize or "", "iOS17" if recipe.target == "iOS17" else ""]
    words += ["stateful" if recipe.stateful else "", f"context{recipe.context}" if recipe.context else ""]
    return convert_words.default_out(model, subject.name, ["coreml", *words])


def _feeds(args: argparse.Namespace, subject: Any) -> MakeFeeds | None:
    """None: seeded random ones."""
    sources = args.inputs or INPUTS_OF.get(subject.name)
    if not sources or (args.no_check and args.sensitivity is None):
        return None
    return feeds_of(subject, sources, LIMIT if args.limit is None else args.limit)


def first_departing(stage: Any, found: Any, package: Path, function: str | None, feeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where in the program the difference begins: the op, its module and torch line."""
    from workbench.capture.converted_check import check_stage

    try:
        return [check_stage(stage, package, function, found.origins, feeds[:1], exported=found.exported).sentence]
    except WorkbenchError as error:  # the difference stands, whatever can be said of its place
        return [f"where it begins cannot be told ({error.what})"]


def described(done: Any, args: argparse.Namespace) -> dict[str, Any]:
    """All of it, as JSON."""
    artifact = done.artifact
    return {
        "source": artifact.source,
        "target": str(done.folder),
        "reused": done.reused,
        "family": artifact.family,
        "architecture": artifact.architecture,
        "recipe": artifact.recipe,
        "label": artifact.label,
        "versions": artifact.versions,
        "identity": artifact.identity(),
        "sizes": artifact.sizes,
        "packages": artifact.packages,
        "stages": {
            name: {"package": stage.package, "function": stage.function, "ops": dict(stage.ops), "weights": list(stage.weights)}
            | {"kept_fp32": artifact.manifest["stages"][name].get("kept_fp32", [])}
            for name, stage in artifact.stages.items()
        },
        "checked": bool(artifact.check),
        "inputs": artifact.manifest.get("inputs", ""),
        "check": artifact.check,
        "sensitivity": artifact.manifest.get("sensitivity", []),
        "next": following(done, args.model),
    }


def lines(done: Any, args: argparse.Namespace) -> Iterator[str]:
    """For people: what there is, what was compressed and what was not, the check, what to type next."""
    artifact = done.artifact
    yield from convert_words.head(done)
    yield from _compressed(artifact)
    yield from convert_words.kept(artifact)
    yield from convert_words.checked(artifact, remark="; before compression")
    yield from _sensitive(artifact, args.sensitivity)
    yield f"next: {following(done, args.model)}"


def _compressed(artifact: Any) -> Iterator[str]:
    from workbench.convert.coreml.weights import left_alone, totals
    from workbench.report.text import byte_text

    quantize = artifact.recipe.get("quantize")
    if not quantize:
        return
    for name, stage in artifact.stages.items():
        seen = totals(stage.weights)
        yield (
            f"{quantize}: {name}: {seen['compressed']} of {seen['weights']} weights, "
            f"{byte_text(seen['stored_bytes'])} of {byte_text(seen['dense_bytes'])}"
        )
        for why, count in seen["reasons"].items():
            yield f"  not compressed: {count} × {why}"
        left = left_alone(stage.weights)
        for row in left[:SHOWN]:
            yield f"    {row['parameter'] or row['name']} {row['shape']}: {row['why_not']}"
        if len(left) > SHOWN:
            yield f"    and {len(left) - SHOWN} more large ones (--json lists all)"


def _sensitive(artifact: Any, count: int | None) -> Iterator[str]:
    from workbench.report.text import byte_text

    rows = artifact.manifest.get("sensitivity") or []
    if count is None or not rows:
        return
    yield "sensitivity: each layer compressed alone, the most costly first (KL of the tokens where there are any, else relative L2)"
    for name in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == name]
        for row in own[:count]:
            top = "" if row["top1"] is None else f"  same first token {100 * row['top1']:.0f} %"
            yield f"  {name}  {row['layer']}  {row['cost']:.2e}{top}  saves {byte_text(row['bytes_saved'])}"
        if len(own) > count:
            yield f"  {name}  and {len(own) - count} more (--json lists all)"


def following(done: Any, model: str) -> str:
    """The command to type next."""
    package = next(iter(done.artifact.stages.values())).path
    return (
        convert_words.eval_of(done, "coreml") or f"workbench mil check {shlex.quote(str(package))} --against {shlex.quote(model)}"
    )
