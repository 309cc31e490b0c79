"""Records what the layers of a model put out on some inputs, into a bundle that compares with others made anywhere.

    run = capture_layers("demo:vlm@torch", "demo", keep=True)
    capture_layers("demo:vlm@mlx", run, localise=True)           # the same arrays; layer by layer on the reference's activations too

    capture_layers("demo:vlm@coreml", run)                       # a converted model: the values of its programs, in its layers' names

A bundle of kind ``capture``: inputs, statistics, sketches and (``keep``) values of each layer, token records of the prompt, the causality
probe. A torch model also runs in the next more exact precision, so that a reader can judge a candidate by torch's own error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.backends.hardware import describe_hardware
from workbench.capture import names
from workbench.capture.converted import ConvertedModel, ConvertedPasses
from workbench.capture.inputs import DEFAULT_LIMIT, Item, read_items
from workbench.capture.one_program import alone, capture_one, is_program
from workbench.capture.passes import Model, Passes
from workbench.capture.recording import find
from workbench.errors import ItemError, RuntimeMissing, UsageError
from workbench.fingerprint import of_json, versions
from workbench.models.loading import open_model
from workbench.models.options import flag, in_key
from workbench.models.source import converted, identify, resolve, running_options, runs_converted
from workbench.registry import get_backend
from workbench.run import journal
from workbench.run import writer as writing
from workbench.run.bundle import CAPTURE, DEFAULT_RUNS, LAYERS_FILE, Run, run_key
from workbench.run.input_records import write_inputs
from workbench.run.layer_records import ItemRecords, lines_of, write_layers
from workbench.run.libraries import check_libraries, libraries
from workbench.run.progress import Progress, Silent
from workbench.run.token_records import OWN, write_tokens
from workbench.types import ModelSpec

VERSION = 1
AUTOMATIC = "auto"
NO_TASK = {"card": None, "headline": None, "path": None}


def capture_layers(
    model: str | ModelSpec,
    inputs: str | Path | Run | Sequence[str | Path | Run],
    *,
    layers: Sequence[str] = names.COARSE,
    keep: bool = False,
    also: Sequence[str] = (AUTOMATIC,),
    localise: bool = False,
    limit: int = DEFAULT_LIMIT,
    prompt: str | None = None,
    follow: str | Path | Run | None = None,
    runs: str | Path = DEFAULT_RUNS,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Capture and return the bundle; a complete one of the same command is returned as it is, an interrupted one is continued.

    ``inputs``: a task or suite (its first ``limit`` items), image files with ``prompt``, sounds, files of named arrays, or a capture, whose
    very arrays are fed. ``follow``: the run whose transcripts a recogniser reads (without it: the task's references). ``layers``: patterns
    over layer names or module paths. ``keep``: also keep values. ``also``: further precisions for a torch model, further readings of
    the reference executor for a converted one (``auto``: the next more exact one; ``none``). ``localise``: ``inputs`` must be a capture with kept values; each layer also runs on that capture's activations.
    Raises WorkbenchError; an input that fails is recorded with its error.
    """
    progress = progress or Silent()
    spec = model if isinstance(model, ModelSpec) else ModelSpec.parse(model)
    sources = [inputs] if isinstance(inputs, (str, Path, Run)) else list(inputs)
    backend = get_backend(spec.backend)
    here = backend.available()
    if not here.ok:
        raise RuntimeMissing(f"the runtime {spec.backend!r} is not here", why=here.reason, fix=here.fix)
    if spec.backend not in ("torch", "mlx") and not runs_converted(spec.backend):
        raise UsageError(
            f"{spec.backend} models cannot be looked into",
            why="torch, mlx and converted models can",
            fix="workbench list models",
        )
    if localise and runs_converted(spec.backend):
        raise UsageError(
            "a converted model cannot be localised",
            why="its programs are whole: nothing can be put in the place of a layer's value",
            fix="leave --localise out; workbench convert MODEL --to coreml --check names the first op that departs",
        )
    spec = alone(spec) if runs_converted(spec.backend) else spec
    if runs_converted(spec.backend) and is_program(spec):
        return capture_one(spec, sources, keep=keep, also=also, runs=runs, fresh=fresh, progress=progress)
    reference = reference_of(sources) if localise else None
    followed = follow if follow is None or isinstance(follow, Run) else Run(follow)
    items = read_items(sources, limit=limit, prompt=prompt, follow=followed)
    check_libraries(items[0].family, spec)
    settings = {
        "layers": list(layers),
        "keep": keep,
        "also": sorted(also),
        "localise": reference.manifest["run_key"] if reference else None,
    }
    manifest = first_manifest(spec, backend, items, settings)
    folder, complete = find(manifest, Path(runs), fresh=fresh)
    if complete is not None:
        return complete
    with writing.BundleWriter(folder, manifest) as bundle:
        fill(bundle, spec, items, settings, reference, progress)
    return Run(folder)


def reference_of(sources: Sequence[str | Path | Run]) -> Run:
    """The one capture whose activations are to be swapped in. Raises UsageError."""
    source = sources[0] if len(sources) == 1 else None
    run = source if isinstance(source, Run) else None
    if isinstance(source, (str, Path)) and (Path(source).suffix == ".zip" or (Path(source) / "manifest.json").is_file()):
        run = Run(source)
    if run is None or run.kind != CAPTURE:
        raise UsageError(
            "localising needs the reference's capture as its inputs",
            why="its activations are put into this model, layer by layer",
            fix="workbench capture REFERENCE --inputs TASK --keep, then --inputs THAT_CAPTURE --localise",
        )
    settings = (run.manifest.get("key") or {}).get("task")
    if not isinstance(settings, Mapping) or not settings.get("keep"):
        raise UsageError(
            f"{run.name} keeps no values", why="it was made without --keep", fix="capture the reference again with --keep"
        )
    return run


def first_manifest(spec: ModelSpec, backend: Any, items: Sequence[Item], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known before the model is loaded. What was chosen to be recorded stands under ``task``: it does not make another side."""
    options = running_options(spec)
    prepared, device, identity = backend.prepare(options), backend.device(options), identify(spec)
    data = {
        "revision": None,
        "fingerprint": of_json([[item.id, item.input_hash] for item in items], 32),
        "items": of_json([item.id for item in items], 32),
    }
    key = {
        "task": {"name": CAPTURE, "version": VERSION, **settings},
        "data": data,
        "model": {**identity, "adapter": spec.adapter},
        "backend": {
            "name": spec.backend,
            "device": device["kind"],
            **{f"setup.{name}": value for name, value in sorted(prepared.items())},
        },
        "options": dict(in_key(spec.backend, spec.options)),
        "generation": {},
        "libraries": versions(libraries(items[0].family, backend, spec, options)),
    }
    asked = {
        "task": CAPTURE,
        "model": spec.label,
        "options": dict(sorted(spec.options.items())),
        "inputs": data["fingerprint"],
        **settings,
    }
    return {
        "kind": CAPTURE,
        "run_key": run_key(key),
        "key": key,
        "asked": {**asked, "shard": None},
        "task": {"name": CAPTURE, "version": VERSION, "scorer": "none", **NO_TASK, "family": items[0].family},
        "model": {"text": spec.label, "backend": spec.backend, "revision": spec.revision},
        "identity": identity,
        "evidence": backend.evidence(options),
        "device": device,
        "n": len(items),
    }


def fill(
    bundle: writing.BundleWriter,
    spec: ModelSpec,
    items: Sequence[Item],
    settings: Mapping[str, Any],
    reference: Run | None,
    progress: Progress,
) -> None:
    folder = bundle.folder
    done = {line["id"]: line for line in journal.read(folder / "samples.jsonl")}
    hardware = describe_hardware(spec.backend, running_options(spec))
    bundle.add_session({**hardware, "libraries": bundle.manifest["key"]["libraries"]})
    if not (folder / "artifact.json").exists():
        from workbench.models.artifact import artifact

        held = converted(spec).folder if runs_converted(spec.backend) else resolve(spec).folder
        journal.write_json(folder / "artifact.json", artifact(held, flag(spec.options, "allow_pickle")))
    opened = open_model(spec, items[0].family)
    passes = None
    try:
        bundle.event("loaded", model=opened.describe())
        passes = passes_of(opened, spec, items[0].family, settings, reference)
        for note in passes.notes:
            bundle.event("note", text=note)
            progress.say(note)
        progress.start(f"capture  {spec.label}", len(items), len(done))
        try:
            for item in items:
                if item.id not in done:
                    done[item.id] = one(bundle, passes, item)
                progress.update(len(done), "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in item.id))
        finally:
            progress.finish()
    finally:
        if passes is not None:
            passes.close()
        opened.close()
    lines = [done[item.id] for item in items]
    failed = [line["id"] for line in lines if line["output"]["finish"] == "error"]
    layers = {line["layer"] for line in journal.read(folder / LAYERS_FILE)}
    nothing = {"metric": "none", "value": None, "unit": "", "of": None}
    bundle.finish(
        lines,
        {
            "scorer": "none",
            "version": VERSION,
            "n": len(lines),
            "headline": nothing,
            "layers": len(layers),
            "item_errors": len(failed),
        },
    )


def passes_of(opened: Any, spec: ModelSpec, family: str, settings: Mapping[str, Any], reference: Run | None) -> Passes:
    """Of a converted model through its programs' values, of any other through its modules."""
    if not runs_converted(spec.backend):
        return Passes(Model(opened, family), settings, reference)
    return ConvertedPasses(ConvertedModel(opened, spec, family), settings)


def one(bundle: writing.BundleWriter, passes: Passes, item: Item) -> dict[str, Any]:
    """Run one input and write all of it; its line of ``samples.jsonl`` comes last, so that what has a line is whole."""
    line: dict[str, Any] = {
        "id": item.id,
        "group": item.id,
        "groups": [],
        "input_hash": item.input_hash,
        "input": {"text": item.text, "media": list(item.media), "target": None, "seen": None},
        "output": {"value": "", "tokens": None, "finish": "stop"},
        "score": {"value": None, "answer": None, "reason": "missing", "counts": {}},
        "timing": None,
    }
    try:
        made = passes.run(item)
    except (ItemError, MemoryError) as error:
        found = error if isinstance(error, ItemError) else ItemError("the model ran out of memory", reason="memory", why=str(error))
        line["output"] = {
            "value": None,
            "tokens": None,
            "finish": "error",
            "error": {"reason": found.reason, "what": found.what, "why": found.why, "fix": found.fix},
        }
        bundle.append([line])
        return line
    line["input"]["seen"] = made.seen
    line["capture"] = {"causality": made.causality, "replayed": item.replayed}
    tensors = bundle.folder / "tensors"
    write_inputs(tensors, {item.id: made.arrays})
    if made.tokens is not None:
        write_tokens(tensors, OWN, {item.id: made.tokens})
    records = ItemRecords(item.id, made.records)
    write_layers(bundle.folder, records)
    with journal.Journal(bundle.folder / LAYERS_FILE) as file:
        file.append(*lines_of(records))
    bundle.append([line])
    return line
