"""Each stage of the bundled models in ONNX Runtime against torch, call by call in turn on one thread, and the two readings: host evidence, of
this machine, now. (With more threads each library's pool waits for the other's, and torch seems several times slower than it is.)

demo:vlm vision   optimised 0.40 x torch's time   pure 0.38 x torch's time   torch 5.1 ms   relative L2 4.5e-07
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
ROUNDS = 15
MODELS = ("demo:vlm", "demo:stt")
READINGS = ("optimised", "pure")
APART = 1e-5
"""Relative L2 of the outputs: what the conversion's own check allows in fp32."""


def stages(model: str) -> Iterator[tuple[str, dict[str, Callable[[], Any]]]]:
    """(stage, functions that give its outputs: torch, and ONNX Runtime in each reading)."""
    from workbench.convert.comparing import example_feeds
    from workbench.convert.onnx.recipe import Recipe
    from workbench.convert.subject import subject_of
    from workbench.models.converted import Converted
    from workbench.registry import get_backend, get_converter
    from workbench.types import ModelSpec

    spec = ModelSpec.parse(f"{model}@onnx")
    artifact = Converted(get_converter("onnx")(spec))
    made = subject_of(spec).stages(Recipe().check())
    feeds = example_feeds(made)
    for stage in made:
        feed = feeds[stage.name][0]
        functions: dict[str, Callable[[], Any]] = {"torch": lambda stage=stage, feed=feed: stage.run(feed)[0]}
        for reading in READINGS:
            program = get_backend("onnx").open(artifact.stage(stage.name).path, {"reading": reading, "threads": "1"})
            functions[reading] = lambda program=program, feed=feed: program(feed)
        yield stage.name, functions


def interleaved(functions: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of every function in ROUNDS rounds after one to warm up; the order turns by one each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(ROUNDS + 1):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            began = time.perf_counter()
            functions[name]()
            times[name].append(time.perf_counter() - began)
    return {name: found[1:] for name, found in times.items()}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest relative L2 of an output."""
    import numpy

    return max(float(numpy.linalg.norm(other[name] - one[name]) / numpy.linalg.norm(one[name])) for name in one)


def main() -> int:
    failed = False
    for model in MODELS:
        for stage, functions in stages(model):
            outputs = {name: function() for name, function in functions.items()}
            away = max(apart(outputs["torch"], outputs[reading]) for reading in READINGS)
            times = interleaved(functions)
            ratios = {
                name: median(mine / theirs for mine, theirs in zip(times[name], times["torch"], strict=True)) for name in READINGS
            }
            failed = failed or away > APART
            words = "   ".join(f"{name} {ratio:.2f} x torch's time" for name, ratio in ratios.items())
            print(f"{model} {stage:<8} {words}   torch {median(times['torch']) * 1e3:.1f} ms   relative L2 {away:.1e}")
            print(json.dumps({"model": model, "stage": stage, "ratios": {name: round(each, 3) for name, each in ratios.items()}}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
