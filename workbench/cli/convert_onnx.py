"""``workbench convert MODEL --to onnx`` or ``--to tensorrt``: typed ONNX graphs, checked against torch and judged before there is a GPU.

workbench convert demo:vlm --to tensorrt --precision fp16
workbench convert demo:vlm --to onnx --precision int8-qdq --calibrate demo --calibration entropy
workbench convert my_model.py:make --to tensorrt --precision bf16 --keep-fp32 MatMul --dynamic batch
workbench convert demo:vlm --to tensorrt --precision fp16 --check --for 11.4
workbench convert ./model.onnx --to tensorrt --check --inputs inputs.npz

Both kinds are the same folder, for both runtimes. ``--check`` writes nothing: it says which nodes are listed for a version of TensorRT and
which are not (exit code 1), how much memory the graphs take by estimate, and which values leave the range of their type.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.cli import convert_words
from workbench.convert.feeds import INPUTS_OF, LIMIT, MakeFeeds, feeds_of, read_arrays
from workbench.convert.onnx.recipe import SAMPLES_LIMIT
from workbench.errors import UsageError

SHOWN = 4
"""Rows of the Q/DQ placement of a stage that are printed; ``--json`` has all."""
OPTIONS = (
    *("precision", "keep_fp32", "context", "inputs", "limit"),
    *("calibrate", "calibration", "calibrate_limit", "dynamic", "opset", "check", "for"),
)
CONVERTING = ("precision", "keep_fp32", "context", "calibrate", "calibration", "calibrate_limit", "dynamic", "opset")
"""Options that say how a graph is made."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``--to onnx`` and ``--to tensorrt`` have and no other kind."""
    group = parser.add_argument_group("onnx and tensorrt")
    group.add_argument(
        "--calibrate",
        action="append",
        metavar="SAMPLES",
        help="with int8-qdq: tasks, suites or files whose items the ranges are found on (default: the bundled models' own)",
    )
    group.add_argument("--calibration", metavar="HOW", help="with int8-qdq: max (default), entropy or percentile")
    group.add_argument(
        "--calibrate-limit",
        type=int,
        metavar="N",
        help=f"with int8-qdq: N items in all, spread over them (default {SAMPLES_LIMIT})",
    )
    group.add_argument("--dynamic", metavar="SIZES", help="what may vary: seq (default), batch, both with a comma, or none")
    group.add_argument("--opset", type=int, metavar="N", help="the ONNX operator set (default 20; 22 in bf16)")
    group.add_argument(
        "--check", action="store_true", help="write nothing: which nodes are listed for TensorRT; MODEL may be an .onnx file"
    )
    group.add_argument("--for", metavar="VERSION", help="with --check: the version of TensorRT (default: the newest list)")


def convert(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """(what ``--json`` prints, the lines for people). Raises as ``workbench.convert.onnx.build.build``."""
    _refuse_idle(args)
    if args.check:
        from workbench.cli.check_onnx import check

        return check(args)
    from workbench.cli.convert import saying

    done = built(args, args.out, saying(args))
    return described(done, args), list(lines(done, args))


def built(args: argparse.Namespace, out: Path | None, say: Any) -> Any:
    """The artifact of what the arguments name; ``out`` None: where it goes by default. With ``--check`` nothing is held to torch, and the
    inputs are looked at for the range of the types alone."""
    recipe = recipe_of(args)
    path = Path(args.model).expanduser()
    check = not (args.no_check or args.check)
    if path.suffix == ".onnx":
        from workbench.convert.onnx.foreign import build_from_file

        feeds, words = plain_feeds(args.inputs)
        out = out or Path("-".join([path.stem, *_words(recipe)]))
        return build_from_file(path, out, recipe, say=say, check=check, feeds=feeds or None, words=words)
    from workbench.convert.onnx.build import build, default_feeds
    from workbench.convert.subject import subject_of

    subject = subject_of(args.model)
    out = out or convert_words.default_out(args.model, subject.name, _words(recipe))
    feeds = None if args.no_check else _feeds(args, subject, recipe) or default_feeds(subject, recipe)
    return build(subject, out, recipe, say=say, check=check, feeds=feeds)


def recipe_of(args: argparse.Namespace) -> Any:
    """Raises UsageError for what is not known or does not go together."""
    from workbench.convert.onnx.recipe import Recipe

    given = {"precision": args.precision, "calibration": args.calibration, "samples_limit": args.calibrate_limit}
    if args.dynamic is not None:
        sizes = [word.strip() for word in args.dynamic.split(",") if word.strip()]
        given["dynamic"] = () if sizes == ["none"] else tuple(sizes)
    return Recipe(
        **{name: value for name, value in given.items() if value is not None},
        keep_fp32=tuple(args.keep_fp32 or ()),
        samples=tuple(name for text in args.calibrate or () for name in text.split(",") if name),
        context=args.context,
        opset=args.opset,
    ).check()


def _words(recipe: Any) -> list[str]:
    """What of a recipe is part of a folder's name."""
    words = ["onnx", recipe.precision if recipe.precision != "fp32" else ""]
    words += [recipe.calibration if recipe.calibration not in (None, "max") else ""]
    words += ["-".join(recipe.dynamic) or "static" if recipe.dynamic != ("seq",) else ""]
    words += [f"context{recipe.context}" if recipe.context else "", f"opset{recipe.opset}" if recipe.opset else ""]
    return [word for word in words if word]


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raises UsageError for an option that would do nothing beside the others."""
    if getattr(args, "for") and not args.check:
        raise UsageError("--for is about --check", fix=f"--check --for {getattr(args, 'for')}")
    if args.check and args.out:
        raise UsageError("--check writes nothing, so it takes no --out", fix="leave one of the two out")
    if args.check and args.no_check:
        raise UsageError("--check and --no-check are not asked for together", fix="leave one of the two out")
    if args.no_check and args.inputs:
        raise UsageError("--inputs are for the check", why="--no-check makes none", fix="leave one of the two out")
    if args.limit is not None and not args.inputs:
        raise UsageError("--limit is about --inputs", fix=f"--inputs demo --limit {args.limit}")


def _feeds(args: argparse.Namespace, subject: Any, recipe: Any) -> MakeFeeds | None:
    """None: ``default_feeds``."""
    sources = args.inputs or (INPUTS_OF.get(subject.name) if recipe.precision != "int8-qdq" else None)
    return feeds_of(subject, sources, LIMIT if args.limit is None else args.limit) if sources else None


def described(done: Any, args: argparse.Namespace) -> dict[str, Any]:
    """All of it, as JSON."""
    artifact = done.artifact
    held = artifact.manifest["stages"]
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
        "shared": artifact.manifest.get("shared", {}),
        "stages": {
            name: {"package": stage.package, "ops": dict(stage.ops), "weights": list(stage.weights)}
            | {field: held[name].get(field) for field in ("types", "kept_fp32", "quantized", "readiness", "inputs", "outputs")}
            for name, stage in artifact.stages.items()
        },
        "checked": bool(artifact.check),
        "inputs": artifact.manifest.get("inputs", ""),
        "check": artifact.check,
        "next": following(done, args),
    }


def lines(done: Any, args: argparse.Namespace) -> Iterator[str]:
    """For people: what there is, in which types, what stays fp32 and why, Q/DQ, the check, the verdict, what to type next."""
    artifact = done.artifact
    yield from convert_words.head(done)
    yield from shared(artifact)
    for name in artifact.stages:
        types = artifact.manifest["stages"][name].get("types") or {}
        yield f"types: {name}: {', '.join(f'{count:,} ops give {kind}' for kind, count in types.items())}"
    yield from convert_words.kept(artifact, reasons=True)
    asked = artifact.recipe.get("precision")
    if asked in ("fp16", "bf16") and not any(
        asked in (artifact.manifest["stages"][name].get("types") or {}) for name in artifact.stages
    ):
        yield f"note: no op of it computes in {asked}, so this is the model in fp32; a newer opset may take {asked}"
    for name in artifact.stages:
        yield from quantized(name, artifact.manifest["stages"][name].get("quantized"))
    quantised = artifact.recipe.get("precision") == "int8-qdq"
    yield from convert_words.checked(
        artifact,
        against="the file in fp32" if Path(args.model).suffix == ".onnx" else "torch",
        remark="; before quantisation" if quantised and Path(args.model).suffix != ".onnx" else "",
    )
    yield from readiness({name: artifact.manifest["stages"][name].get("readiness") for name in artifact.stages})
    yield f"next: {following(done, args)}"


def shared(artifact: Any) -> Iterator[str]:
    """The weights that the graphs share."""
    from workbench.report.text import byte_text

    for name, entry in (artifact.manifest.get("shared") or {}).items():
        yield f"  {name}  {byte_text(entry['bytes'])}  weights{' of all stages, each once' if len(artifact.stages) > 1 else ''}"


def quantized(name: str, report: Mapping[str, Any] | None) -> Iterator[str]:
    """Where Q/DQ stand in one stage, on what they were measured, and which products have none."""
    if not report:
        return
    samples, placed, left = report["samples"], report["placement"], report["left"]
    about = f" of {samples['words']}" if samples.get("words") else ""
    yield (
        f"int8: {name}: {report['method']} over {convert_words.count(samples['count'], 'call')}{about}: Q/DQ before "
        f"{len(placed)} of {len(placed) + len(left)} products, {convert_words.count(len(report['weights']), 'weight')} per channel, "
        f"{convert_words.count(len(report['activations']), 'activation')} per tensor"
    )
    for row in placed[:SHOWN]:
        where = " and ".join("its weight" if each["kind"] == "weight" else each["value"] for each in row["quantized"])
        yield f"  {row['op']} {row['layer'] or row['module'] or row['value']}: Q/DQ on {where}"
    if len(placed) > SHOWN:
        yield f"  and {len(placed) - SHOWN} more (--json lists all)"
    for why, count in Counter(row["reason"] for row in left).most_common():
        yield f"  without Q/DQ: {count} × {why}"


def readiness(stages: Mapping[str, Mapping[str, Any] | None], *, whole: bool = False) -> Iterator[str]:
    """A verdict a stage; ``whole``: with all that was looked at. What is not listed is always told."""
    from workbench.report.readiness import stage_view

    said = {name: stage for name, stage in stages.items() if stage}
    if not said:
        return
    yield f"readiness for TensorRT, by {next(iter(said.values()))['source']['words']}"
    for name, stage in said.items():
        view = stage_view(name, stage)
        yield f"  {name}: {view.sentence}"
        yield from (f"    {text}" for text in view.problems)
        if whole:
            yield f"    memory, estimated: {view.memory}"
            yield f"    range: {view.range}"
            yield from (f"    {text}" for text in view.remarks)
        elif stage["overflow"] and not stage["overflow"]["ok"]:
            yield f"    range: {view.range}"
    if whole:
        yield f"  memory is of the graph as it is written: {next(iter(said.values()))['memory']['not_covered']}"
    for note in dict.fromkeys(note for stage in said.values() for note in stage["notes"]):
        yield f"  note: {note}"


def following(done: Any, args: argparse.Namespace) -> str:
    """The command to type next."""
    evaluation = convert_words.eval_of(done, args.to)
    if evaluation:
        return evaluation
    folder = str(done.folder)
    named = folder if folder.startswith((".", "/", "~")) else f"./{folder}"
    inputs = next((str(each) for each in args.inputs or ()), "random")
    return f"workbench capture {shlex.quote(f'{args.to}:{named}')} --inputs {shlex.quote(inputs)}"


def temporary() -> Any:
    """A folder that is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="workbench-check-")


def plain_feeds(sources: Sequence[str] | None) -> tuple[list[dict[str, Any]], str]:
    """Arrays in files, and what they are in words."""
    return [read_arrays(Path(source)) for source in sources or ()], ", ".join(Path(source).name for source in sources or ())
