"""``workbench list [tasks|suites|models|runs]``: what there is to run, and what was run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

KINDS = ("tasks", "suites", "models", "runs")


DEMO_MODELS = {
    "vlm": "bundled 64-pixel vision-language model, fp32",
    "stt": "bundled recogniser of speech (a small Whisper, fp16 weights): workbench eval stt",
}


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("list", help="tasks, suites, models and runs", description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS, help="default: all")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="where bundles are (default: reports/runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def tasks() -> list[dict[str, str]]:
    from workbench.tasks.catalogue import load_task, task_names

    return [{"name": name, "description": load_task(name).description} for name in task_names()]


def suites() -> list[dict[str, str]]:
    from workbench.suites import load_suite, suite_names

    return [
        {"name": name, "description": f"{(suite := load_suite(name)).description} ({', '.join(suite.tasks)})"}
        for name in suite_names()
    ]


def models() -> list[dict[str, str]]:
    from workbench.locate import demo_model
    from workbench.models.source import runs_converted
    from workbench.registry import backend_names

    rows = []
    for backend in backend_names():
        if backend == "server":
            rows.append(
                {"name": "server:http://HOST:PORT#NAME", "description": "any OpenAI-compatible server; NAME as it lists it"}
            )
            continue
        for name, description in DEMO_MODELS.items():
            if demo_model(name):
                made = " (converted on first use)" if runs_converted(backend) else ""
                rows.append({"name": f"demo:{name}@{backend}", "description": description + made})
        source = "a hub id ORG/NAME[@REVISION] or a local folder in the hub layout"
        if runs_converted(backend):
            source = f"a folder of workbench convert --to {folder_of(backend)}; or {source}, converted on first use"
        rows.append({"name": f"{backend}:SOURCE", "description": source})
    return rows


def folder_of(backend: str) -> str:
    """Which conversions a runtime opens: ONNX Runtime and TensorRT read the same folders."""
    return "onnx" if backend in ("onnx", "tensorrt") else backend


def runs(folder: Path) -> list[dict[str, str]]:
    from workbench.errors import BundleError
    from workbench.report.shapes import check_results
    from workbench.run.bundle import CAPTURE, Run, find_bundles
    from workbench.run.summary import interval_text, score_text

    rows = []
    for path, manifest in find_bundles(folder):
        run = Run(path)
        if run.kind == CAPTURE:
            rows.append({"name": path.name, "description": f"{manifest['status']}: layers of {manifest['n']} inputs"})
            continue
        try:
            check_results(run)
            results = run.results if manifest["status"] == "complete" else None
        except BundleError as error:
            rows.append({"name": path.name, "description": f"damaged: {error.what}; try: workbench verify {path}"})
            continue
        score = f"{score_text(results)} ({interval_text(results)}), n = {results['n']}" if results else f"{manifest['n']} items"
        rows.append({"name": path.name, "description": f"{manifest['status']}: {score}"})
    return rows


def run(arguments: argparse.Namespace) -> int:
    from workbench.run.bundle import DEFAULT_RUNS

    folder = arguments.runs or DEFAULT_RUNS
    found: dict[str, list[dict[str, str]]] = {}
    for kind in [arguments.kind] if arguments.kind else KINDS:
        found[kind] = runs(folder) if kind == "runs" else {"tasks": tasks, "suites": suites, "models": models}[kind]()
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    for kind, rows in found.items():
        print(f"{kind}:")
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            print(f"  {row['name']:<{width}}  {row['description']}".rstrip())
        if not rows:
            print(f"  none in {folder}" if kind == "runs" else "  none")
    return 0
