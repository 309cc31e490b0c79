"""Captures for the report's tests, written to disk as ``workbench capture`` writes them: no model, no runtime.

reference = make_reference(tmp_path)
candidate = make_candidate(tmp_path, errors={"text.block.1": 1e-2}, reference=reference)
"""

import json
import zlib

import numpy

from tests.report.bundles import make_line, make_run, write_json
from workbench.fingerprint import of_file
from workbench.metrics.sketch import Moments
from workbench.run.bundle import Run
from workbench.run.layer_records import ItemRecords, Record, lines_of, write_layers

NAMES = (
    "vision.embeddings",
    *(f"vision.block.{n}" for n in range(2)),
    "projector",
    *(f"text.block.{n}" for n in range(4)),
    "logits",
)
ITEMS = ("wide", "tall")
ROUNDING = 2e-7
SHAPE = (1, 6, 8)


def values_of(item, layer, error=0.0, salt=""):
    """Values of one layer, and an error of this relative size on them."""
    base = numpy.random.default_rng(zlib.crc32(f"{item}/{layer}".encode())).standard_normal(SHAPE).ravel()
    noise = numpy.random.default_rng(zlib.crc32(f"{item}/{layer}/{salt}/{error}".encode())).standard_normal(base.size)
    return base + (error * noise if numpy.isfinite(error) else error)


def record(item, kind, order, layer, values, shape=SHAPE, keep=True):
    moments = Moments()
    moments.add(values)
    found = moments.record()
    sketch = found.pop("sketch")
    line = {"id": item, "pass": kind, "order": order, "layer": layer, "path": f"model.{layer}", "shape": list(shape), "calls": 1}
    return Record(
        line | found | {"values": values.size if keep else 0, "one_in": 1 if keep else None}, sketch, values if keep else None
    )


def passes(model, item, names, kinds, keep=True):
    """``kinds``: ``{pass: {layer: relative error} or a number for all}``."""
    found = {}
    for kind, errors in kinds.items():
        found[kind] = {
            layer: record(
                item,
                kind,
                order,
                layer,
                values_of(item, layer, errors.get(layer, ROUNDING) if isinstance(errors, dict) else errors, f"{model} {kind}"),
                keep=keep,
            )
            for order, layer in enumerate(names)
        }
    return found


def make_capture(
    where, model, kinds, *, names=NAMES, items=ITEMS, keep=True, moved=0.0, asked=None, tokens="f" * 16, failing=(), **more
):
    """A complete capture; ``failing``: items that have an error, ``asked``: the question, ``tokens``: the hash of the token ids."""
    made = [make_line(item, prompt=asked or f"What is in {item}?", untimed=True) for item in items]
    folder = make_run(where, model, made, task="capture", **more)
    (folder / "samples.jsonl").unlink()
    layers = []
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as file:
        for line in made:
            line["output"] = {"value": "", "tokens": None, "finish": "stop"}
            line["score"] = {"value": None, "answer": None, "reason": "missing", "counts": {}}
            line["input"]["target"] = None
            line["input"]["seen"] = {
                "prompt": None,
                "tokens": {"n": 92, "hash": tokens},
                "arrays": {"pixel_values": {"hash": "a", "shape": [1, 3, 8, 8], "dtype": "float32"}},
            }
            line["capture"] = {"causality": {"moved": moved, "largest": 2.0}, "replayed": None}
            if line["id"] in failing:
                error = {"reason": "memory", "what": "the model ran out of memory", "why": None, "fix": None}
                line["output"], line["input"]["seen"] = {"value": None, "tokens": None, "finish": "error", "error": error}, None
            else:
                records = ItemRecords(line["id"], passes(model, line["id"], names, kinds, keep))
                write_layers(folder, records)
                layers += lines_of(records)
            file.write(json.dumps(line) + "\n")
    (folder / "layers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in layers))
    nothing = {"metric": "none", "value": None, "unit": "", "of": None}
    write_json(
        folder / "results.json",
        {"scorer": "none", "version": 1, "n": len(made), "headline": nothing, "layers": len(names), "item_errors": len(failing)},
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"kind": "capture", "task": {**manifest["task"], "name": "capture", "scorer": "none", "headline": None}}
    manifest["key"]["task"] = {
        "name": "capture",
        "version": 1,
        "layers": ["*.block.#"],
        "keep": keep,
        "also": ["auto"],
        "localise": None,
    }
    manifest["checksums"] = {file: of_file(folder / file) for file in ("samples.jsonl", "results.json", "layers.jsonl")}
    write_json(folder / "manifest.json", manifest)
    return folder


def make_reference(where, model="demo:a", *, own=True, **more):
    """With torch's own error (``own``): a float64 pass beside the float32 one."""
    return make_capture(where, model, {"float32": ROUNDING} | ({"float64": 0.0} if own else {}), **more)


def make_candidate(where, model="demo:b", *, errors=None, made=None, reference=None, **more):
    """``errors``: of a layer on its own inputs, by name. ``made``: given the activations of ``reference``."""
    kinds = {"float32": errors or {}}
    if made is not None:
        kinds[f"localised-{Run(reference).manifest['run_key'][:12]}"] = made
    return make_capture(where, model, kinds, **more)
