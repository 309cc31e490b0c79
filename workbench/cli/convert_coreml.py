"""``workbench convert MODEL --to coreml``: a model as Core ML programs, checked against torch; what was compressed and what was not.

workbench convert demo:vlm --to coreml --stateful-kv
workbench convert demo:vlm --to coreml --precision fp16 --quantize int4-block32 --sensitivity
workbench convert torch:ORG/WHISPER --to coreml --precision fp16 --keep-fp32 softmax --inputs stt --limit 4
workbench convert my_model.py:make --to coreml
"""

from __future__ import annotations

import argparse
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import DataError, UsageError, WorkbenchError

INPUTS_OF = {"demo:vlm": ["demo"], "demo:stt": ["stt"]}
"""What the bundled models are checked on unless the user says otherwise."""
LIMIT = 2
FOLLOWED = 2
"""Tokens that the decoder is followed over after a prompt; each is a call of the step, with its caches in memory."""
SHOWN = 10
"""Layers of a stage's sensitivity table, and weights that were left, that are printed; ``--json`` has all."""
EVALS = {"vision-language": "demo", "speech-to-text": "stt"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``--to coreml`` alone has."""
    group = parser.add_argument_group("coreml")
    group.add_argument("--precision", metavar="fp32|fp16", help="what the programs compute in (default fp32)")
    group.add_argument(
        "--quantize", metavar="HOW", help="compress the weights: int8, int4-block32 (iOS18), palette4, palette6 or prune50"
    )
    group.add_argument("--target", metavar="iOS17|iOS18", help="the oldest system that is to run it (default iOS18, macOS 15)")
    group.add_argument(
        "--stateful-kv", action="store_true", default=None, help="the decoder keeps its cache in the program (iOS18)"
    )
    group.add_argument(
        "--keep-fp32",
        action="append",
        metavar="PATTERN",
        help="with fp16: ops that stay fp32, by type, layer or value, with * for anything; repeatable",
    )
    group.add_argument(
        "--context", type=int, metavar="N", help="positions of the decoder's cache (default: the model's, at most 2048)"
    )
    group.add_argument(
        "--sensitivity",
        type=int,
        nargs="?",
        const=SHOWN,
        metavar="N",
        help="with --quantize: which layers cost most when they alone are compressed; print the first N of each stage",
    )
    group.add_argument(
        "--inputs",
        action="append",
        metavar="WHAT",
        help="check on a task's or suite's first items, an image, a sound or a file of arrays (default: the bundled models' own tasks, else seeded random inputs)",
    )
    group.add_argument("--limit", type=int, metavar="N", help=f"with --inputs: the first N items of each task (default {LIMIT})")


OPTIONS = ("precision", "quantize", "target", "stateful_kv", "keep_fp32", "context", "sensitivity", "inputs", "limit")


def convert(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """(what ``--json`` prints, the lines for people). Raises as ``workbench.convert.coreml.build.build``."""
    from workbench.cli.convert import saying
    from workbench.convert.coreml.build import build
    from workbench.convert.coreml.subject import subject_of

    recipe = recipe_of(args)
    _refuse_idle(args)
    subject = subject_of(args.model)
    feeds = feeds_of(args, subject)
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
    from workbench.cli.convert import find

    name = subject.name.split("/")[-1].split(":")[-1]
    if model.endswith(f":{name}") and model.count(".py:"):
        name = f"{Path(subject.name.partition(':')[0]).stem}-{name}"
    words = ["fp16" if recipe.precision == "fp16" else "", recipe.quantize or "", "iOS17" if recipe.target == "iOS17" else ""]
    words += ["stateful" if recipe.stateful else "", f"context{recipe.context}" if recipe.context else ""]
    suffix = "".join(f"-{word}" for word in ["coreml", *words] if word)
    if Path(model).expanduser().is_dir():
        return find(model, suffix)[1]
    return Path(f"{'demo-' if subject.name.startswith('demo:') else ''}{name}{suffix}")


def feeds_of(args: argparse.Namespace, subject: Any) -> Callable[[Any], tuple[Any, str]] | None:
    """How the check's inputs are made from the stages; None: seeded random ones. Raises UsageError, DataError for --inputs."""
    sources = args.inputs or INPUTS_OF.get(subject.name)
    if not sources or (args.no_check and args.sensitivity is None):
        return None
    if subject.folder is None:
        given = [read_arrays(Path(source)) for source in sources]
        return lambda stages: (pooled(stages, given), f"{', '.join(Path(source).name for source in sources)}")
    from workbench.capture.inputs import read_items

    items = read_items(sources, limit=LIMIT if args.limit is None else args.limit)

    def feeds(stages: Any) -> tuple[Any, str]:
        from workbench.models.options import VISION

        if items[0].family != stages.family:
            raise UsageError(
                f"{subject.name} is a {stages.family} model",
                why=f"the inputs are for {items[0].family} models",
                fix="--inputs TASK",
            )
        preparing = (Pictures if stages.family == VISION else Sounds)(subject)
        arrays = [item.prepare(preparing).arrays for item in items]
        names = ", ".join(Path(source).name for source in sources)
        return pooled(stages, arrays), f"{_count(len(items), 'input')} of {names}"

    return feeds


class Pictures:
    """Prepares requests as the model's own processor does, without the model."""

    def __init__(self, subject: Any):
        from workbench.models import options
        from workbench.models.loading import quietly
        from workbench.models.processors import Preprocessor

        with quietly():
            self.preprocessor = Preprocessor(subject.folder, options.read("torch", {}))

    def prepare(self, request: Any) -> Any:
        return self.preprocessor.prepare(request, tensors="np")


class Sounds:
    """Prepares one window's log-mel and the decoder's prompt, without a transcript: following one would take a cache a token."""

    def __init__(self, subject: Any):
        from workbench.models.loading import open_speech_to_text
        from workbench.types import ModelSpec

        source = subject.name if subject.name.startswith("demo:") else str(subject.folder)
        self.model = open_speech_to_text(ModelSpec("torch", source, text=f"torch:{subject.name}"))

    def prepare(self, request: Any) -> Any:
        return self.model.prepare(request)


def read_arrays(path: Path) -> dict[str, Any]:
    """One call of a user's module: arrays by the names of its inputs. Raises DataError."""
    import numpy

    try:
        if path.suffix != ".npz":
            raise ValueError("a module of your own takes a .npz with one array an input")
        with numpy.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path.name!r} cannot be read as named arrays", why=str(error)[:300], fix="numpy.savez('inputs.npz', NAME=array, ...)"
        ) from error


def pooled(stages: Any, requests: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The calls of every stage over all requests."""
    found: dict[str, list[Any]] = {stage.name: [] for stage in stages}
    for arrays in requests:
        for name, calls in (stages.feeds(arrays) if stages.family == "module" else followed(stages, arrays)).items():
            found[name] += calls
    return found


def followed(stages: Any, arrays: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The calls of one request, with the ``FOLLOWED`` tokens that torch itself writes next."""
    tokens: list[int] = []
    for _ in range(FOLLOWED):
        feeds = stages.feeds(arrays, tokens)
        last = "step" if feeds["step"] else "prefill"
        outputs, _ = stages[last].run(feeds[last][-1])
        tokens.append(int(outputs["logits"][0, -1].argmax()))
    return stages.feeds(arrays, tokens)


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
    from workbench.report.text import byte_text

    artifact = done.artifact
    if done.reused:
        yield f"{done.folder} is there already, exactly as asked for: nothing was converted"
    count = len(artifact.stages)
    about = f"{artifact.architecture}, {artifact.label}, {_count(count, 'stage')}"
    yield f"{done.folder}: {about}, {byte_text(artifact.size_bytes)}"
    for package, entry in artifact.packages.items():
        held = [stage for stage in artifact.stages.values() if stage.package == package]
        words = ", ".join(f"{stage.name} ({sum(stage.ops.values()):,} ops)" for stage in held)
        yield f"  {package}  {byte_text(entry['bytes'])}  {words}"
    yield from _compressed(artifact)
    yield from _kept(artifact)
    yield from _checked(artifact)
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


def _kept(artifact: Any) -> Iterator[str]:
    for name in artifact.stages:
        kept = artifact.manifest["stages"][name].get("kept_fp32") or []
        if kept:
            types = ", ".join(f"{op} × {count}" for op, count in Counter(row["op"] for row in kept).most_common())
            yield f"kept in fp32: {name}: {_count(len(kept), 'op')} ({types})"


def _checked(artifact: Any) -> Iterator[str]:
    if not artifact.check:
        yield "check: none was made (--no-check)"
        return
    yield f"check against torch, on {artifact.manifest.get('inputs')} (relative L2 of the outputs; before compression)"
    for name, seen in artifact.check.items():
        if seen is None:
            yield f"  {name}: not checked, the inputs never reach it"
            continue
        found = ", ".join(f"{count} ops {dtype}" for dtype, count in seen["precision"]["found"].items())
        worst = max(seen["outputs"].items(), key=lambda pair: pair[1]["relative_l2"] or 0.0)
        row = f"  {name}: {'same' if seen['same'] else 'DIFFERENT'}, at most {_tell(worst[1]['relative_l2'])} ({worst[0]})"
        row += f", limit {worst[1]['limit']:.0e}; {_count(seen['calls'], 'call')}; {found}"
        if compressed := seen.get("compressed"):
            most = max(compressed.items(), key=lambda pair: pair[1]["relative_l2"] or 0.0)
            row += f"; compressed: {_tell(most[1]['relative_l2'])} ({most[0]})"
        yield row


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


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _tell(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def following(done: Any, model: str) -> str:
    """The command to type next."""
    artifact = done.artifact
    if artifact.family in EVALS:
        folder = str(done.folder)
        named = folder if folder.startswith((".", "/", "~")) else f"./{folder}"
        return f"workbench eval {EVALS[artifact.family]} --model {shlex.quote(f'coreml:{named}')}"
    package = next(iter(artifact.stages.values())).path
    return f"workbench mil check {shlex.quote(str(package))} --against {shlex.quote(model)}"
