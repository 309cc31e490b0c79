"""``workbench convert MODEL --to tensorrt --check``: is every node listed for a version of TensorRT? Nothing is written.

workbench convert demo:vlm --to tensorrt --precision fp16 --check
workbench convert ./vlm-onnx --to tensorrt --check --for 10.0
workbench convert ./model.onnx --to tensorrt --check --inputs inputs.npz --json

MODEL may be what is not converted yet (it is exported to a place that is gone afterwards), a folder of graphs, or an ``.onnx`` file.
Exit code 1: a node is not listed, or not so, the operator set is not in the list's range, or a value leaves the range of its type.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.cli import convert_onnx
from workbench.convert.onnx.readiness import readiness_of, with_overflow
from workbench.convert.onnx.tables import table_for
from workbench.errors import UsageError
from workbench.models.converted import Converted, is_converted


def check(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """(what ``--json`` prints, with ``failed``; the lines for people). Raises UsageError, ModelError, DataError, RuntimeMissing."""
    version = getattr(args, "for")
    table_for(version)
    source = Path(args.model).expanduser()
    given = [name for name in convert_onnx.CONVERTING if getattr(args, name, None) is not None]
    if source.is_dir() and is_converted(source):
        stages = of_folder(source, version, args, given)
    elif source.suffix == ".onnx" and not given:
        feeds, words = convert_onnx.plain_feeds(args.inputs)
        stages = {source.name: readiness_of(source, version, feeds, inputs=words)}
    else:
        stages = exported(args, version)
    failed = any(not stage["ok"] for stage in stages.values())
    found = {"source": args.model, "asked": version, "failed": failed, "readiness": stages}
    return found, list(lines(stages, failed))


def of_folder(folder: Path, version: str | None, args: argparse.Namespace, given: list[str]) -> dict[str, Any]:
    """Of a folder that is converted already; the overflow that was seen then is part of it."""
    artifact = Converted(folder)
    if "tensorrt" not in artifact.runs_on:
        raise UsageError(
            f"{folder} is of {artifact.runtime} programs",
            why="TensorRT reads ONNX graphs",
            fix="workbench convert MODEL --to tensorrt --check",
        )
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} does nothing: {folder} is converted already",
            why=f"it is {artifact.label}",
            fix=f"workbench convert {folder} --to {args.to} --check",
        )
    feeds, words = convert_onnx.plain_feeds(args.inputs)
    if feeds and len(artifact.stages) > 1:
        raise UsageError(
            f"--inputs do not say which of the {len(artifact.stages)} stages they are for",
            fix=f"workbench convert {next(iter(artifact.stages.values())).path} --to {args.to} --check --inputs FILE.npz",
        )
    return {name: _again(artifact, name, version, feeds, words) for name in artifact.stages}


def exported(args: argparse.Namespace, version: str | None) -> dict[str, Any]:
    """Of a model that is converted for this alone."""
    from workbench.cli.convert import saying

    with convert_onnx.temporary() as place:
        artifact = convert_onnx.built(args, Path(place) / "graphs", saying(args)).artifact
        return {name: _again(artifact, name, version, [], "") for name in artifact.stages}


def _again(artifact: Converted, name: str, version: str | None, feeds: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """One stage, judged for ``version``; without ``feeds`` with the overflow that was seen when it was converted."""
    found = readiness_of(artifact.stages[name].path, version, feeds, inputs=words)
    seen = (artifact.manifest["stages"][name].get("readiness") or {}).get("overflow")
    return found if feeds else with_overflow(found, seen)


def lines(stages: Mapping[str, Mapping[str, Any]], failed: bool) -> Iterator[str]:
    yield from convert_onnx.readiness(stages, whole=True)
    version = next(iter(stages.values()))["version"]
    if failed:
        named = ", ".join(name for name, stage in stages.items() if not stage["ok"])
        yield f"not all is listed for v{version}, or in range: {named}"
    else:
        nodes = sum(stage["nodes"] for stage in stages.values())
        yield f"all {nodes:,} nodes are listed for v{version}; whether an engine is made of them, only TensorRT says"
