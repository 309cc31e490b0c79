"""Benchmarks of this machine, now: ``make bench``. Compared things are interleaved in one run; medians of pairwise ratios.

eval against a bare transformers loop, batch  1: 0.96 x (target 0.95)  pairs 1.00 0.96 ...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

TASK, MODEL = "ocrbench-sample", "demo:vlm@torch?threads=1"
"""One thread for both loops: a second one gains a model this small nothing, and its busy waiting triples the noise."""


def bare_loop(limit: int, batch_size: int) -> Callable[[], float]:
    """A function that answers ``limit`` items with nothing but transformers, and returns items per second."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from workbench.locate import demo_model
    from workbench.tasks.catalogue import load_task

    folder = str(demo_model("vlm"))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    task = load_task(TASK)
    requests = [task.ask(sample) for sample in list(task.load().samples)[:limit]]

    def loop() -> float:
        began = time.perf_counter()
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            turns = [
                [
                    {
                        "role": "user",
                        "content": [
                            *({"type": "image"} for _ in request.inputs["images"]),
                            {"type": "text", "text": request.inputs["text"]},
                        ],
                    }
                ]
                for request in batch
            ]
            prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
            images = [[media.image() for media in request.inputs["images"]] for request in batch]
            with torch.inference_mode():
                inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True)
                made = model.generate(**inputs, do_sample=False, max_new_tokens=task.generation.max_tokens)
            processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return len(requests) / (time.perf_counter() - began)

    return loop


def eval_loop(limit: int, batch_size: int, models: Any) -> dict[str, float]:
    """One ``evaluate`` into an empty folder: items per second of the answering part, and where the time went.

    ``models`` keeps the model loaded and warm from loop to loop, as the bare loop's is.
    """
    from workbench.run.runner import evaluate
    from workbench.types import ModelSpec

    with tempfile.TemporaryDirectory() as folder:
        run = evaluate(TASK, ModelSpec.parse(MODEL).with_options(batch_size=batch_size), runs=folder, limit=limit, models=models)
        speed = run.results["performance"]
        timings = [item["timing"] for item in run.items().values()]
    seconds = speed["session_seconds"]
    return {
        "items_per_second": len(timings) / seconds,
        "prepare_share": sum(timing["prepare"] for timing in timings) / seconds,
        "outside_share": 1 - sum(timing["total"] for timing in timings) / seconds,
    }


def against_bare(limit: int, batch_size: int, pairs: int, target: float) -> dict[str, Any]:
    """Pairs of loops, every second one in the other order, so that a drift of the machine's speed cancels out."""
    import torch

    from workbench.run.session import OpenModel

    torch.set_num_threads(1)
    bare = bare_loop(limit, batch_size)
    ratios, shares, preparing, rates = [], [], [], []
    with OpenModel() as models:
        for pair in range(-1, pairs):
            if pair % 2:
                reference, ours = bare(), eval_loop(limit, batch_size, models)
            else:
                ours, reference = eval_loop(limit, batch_size, models), bare()
            if pair < 0:
                continue  # both are warm from here on
            ratios.append(ours["items_per_second"] / reference)
            rates.append((ours["items_per_second"], reference))
            shares.append(ours["outside_share"])
            preparing.append(ours["prepare_share"])
    ratio = median(ratios)
    print(
        f"eval against a bare transformers loop, batch {batch_size:>2}: {ratio:.2f} x (target {target})  pairs "
        f"{' '.join(f'{one:.2f}' for one in ratios)}  medians {median(r[0] for r in rates):.1f} and {median(r[1] for r in rates):.1f} items/s, n = {limit}"
    )
    print(
        f"  time outside the model and its preprocessing: {100 * median(shares):.1f} %; preprocessing {100 * median(preparing):.1f} %"
    )
    return {"batch_size": batch_size, "ratio": ratio, "target": target, "pairs": ratios, "outside_share": median(shares)}


def mlx_rate(route: str, limit: int) -> float:
    """Items per second of the answering part on MLX, in a process of its own (the BLAS route is a choice per process)."""
    with tempfile.TemporaryDirectory() as folder:
        model = f"demo:vlm@mlx?blas={route}"
        command = [
            sys.executable,
            "-m",
            "workbench",
            "eval",
            TASK,
            "--model",
            model,
            "--limit",
            str(limit),
            "--runs",
            folder,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    speed = json.loads(done.stdout)["runs"][0]["performance"]
    return speed["session_items"] / speed["session_seconds"]


def blas_route(limit: int, pairs: int) -> dict[str, Any]:
    rows = [(mlx_rate("torch", limit), mlx_rate("off", limit)) for _ in range(pairs)]
    ratio = median(fast / slow for fast, slow in rows)
    fast, slow = (median(row[side] for row in rows) for side in (0, 1))
    print(
        f"MLX with the BLAS route against without: {ratio:.2f} x  medians {fast:.1f} and {slow:.1f} items/s, n = {limit}, {pairs} pairs"
    )
    return {"ratio": ratio, "with": fast, "without": slow}


def start_up(pairs: int) -> dict[str, Any]:
    def wall(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - began

    rows = [(wall("-m", "workbench", "--help"), wall("-c", "pass")) for _ in range(pairs)]
    help_seconds, empty = (median(row[side] for row in rows) for side in (0, 1))
    print(f"workbench --help: {help_seconds:.3f} s (target 0.3 s), an empty Python process {empty:.3f} s, medians of {pairs}")
    return {"help_seconds": help_seconds, "empty_seconds": empty}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=200, help="items a loop")
    parser.add_argument("--pairs", type=int, default=18)
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    from workbench.backends.hardware import describe_hardware

    hardware = describe_hardware("torch", {})
    print(f"machine: {hardware.get('cpu')}, {hardware.get('cores')} cores")
    figures = {"hardware": hardware, "start_up": start_up(2 * arguments.pairs + 1)}
    figures["batch_1"] = against_bare(arguments.limit, 1, arguments.pairs, 0.95)
    figures["batch_16"] = against_bare(arguments.limit, 16, arguments.pairs, 0.9)
    figures["mlx_blas"] = blas_route(min(arguments.limit, 48), min(arguments.pairs, 3))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
