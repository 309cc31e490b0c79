"""One process's share of a run: answer what is missing, line by line, then make the scores final."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from workbench.backends.hardware import describe_hardware
from workbench.errors import ModelError, RuntimeMissing
from workbench.metrics.normalise import PROFILES
from workbench.metrics.running_words import RunningWords
from workbench.models.artifact import artifact
from workbench.models.loading import open_model
from workbench.models.options import flag
from workbench.models.source import converted, resolve, runs_converted
from workbench.registry import get_backend
from workbench.run import journal
from workbench.run.finalise import failed_score, finalise, score_json
from workbench.run.key import ASKING_ERRORS
from workbench.run.media_files import audio_seconds
from workbench.run.plan import Plan
from workbench.run.progress import Progress
from workbench.run.scrub import Private
from workbench.run.summary import performance
from workbench.run.writer import BundleWriter
from workbench.types import ModelSpec, Output, Request, Response, Sample, Score, Task, media_in


class OpenModel:
    """The model that is open now: a suite loads it once. Closing is left to the outermost ``with``."""

    def __init__(self):
        self.asked, self.model, self.load_seconds, self.depth = None, None, 0.0, 0

    def get(self, spec: ModelSpec, family: str) -> tuple[Any, bool]:
        """(model, was it loaded just now). Another spec or family closes the former model first, to free its memory."""
        if self.model is not None and self.asked == (spec, family):
            return self.model, False
        self.close()
        began = time.perf_counter()
        self.model, self.asked = open_model(spec, family), (spec, family)
        self.load_seconds = time.perf_counter() - began
        return self.model, True

    def close(self) -> None:
        if self.model is not None:
            self.model.close()
        self.model = self.asked = None

    def __enter__(self) -> OpenModel:
        self.depth += 1
        return self

    def __exit__(self, *exception) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.close()


class Session:
    """One process's share of a run: answer what is missing, then finalise."""

    def __init__(self, todo: Plan, bundle: BundleWriter, progress: Progress, retry_errors: bool, opened: OpenModel):
        self.todo, self.bundle, self.progress, self.opened = todo, bundle, progress, opened
        self.lines: dict[str, dict[str, Any]] = {}
        known = {sample.id: sample for sample in todo.samples}
        for line in journal.read(bundle.folder / "samples.jsonl"):
            if line["id"] in known:
                # Lines of schema 1 have no strata; beside lines that have them, those would be of a part of the run.
                self.lines[line["id"]] = {**line, "groups": line.get("groups") or strata(todo.task, known[line["id"]])}
        if retry_errors:
            self.lines = {name: line for name, line in self.lines.items() if line["output"]["finish"] != "error"}
        if not (bundle.folder / "artifact.json").exists():
            self.describe_artifact()

    def run(self) -> None:
        todo, bundle = self.todo, self.bundle
        pending = [sample for sample in todo.samples if sample.id not in self.lines]
        hardware = describe_hardware(todo.spec.backend, dict(todo.running))
        bundle.add_session({**hardware, "libraries": todo.key["libraries"]})
        bundle.event("session", done=len(self.lines), pending=len(pending))
        facts: dict[str, Any] = {}
        if pending:
            try:
                facts = self.answer_all(pending)
            except KeyboardInterrupt:
                bundle.event("interrupted", done=len(self.lines))
                raise
            except RuntimeMissing as error:
                bundle.event("runtime ended", done=len(self.lines), **runtime_end(error))
                raise
        final, results = finalise(todo.task, todo.samples, self.lines)
        facts = facts or last_facts(bundle)
        results["performance"] = performance(final, evidence=todo.evidence, hardware_key=hardware["hardware_key"], **facts)
        bundle.finish(final, results)

    def describe_artifact(self) -> None:
        """Keep what the model's files hold, weight by weight; a model behind a server or a plugin has no files here."""
        spec = self.todo.spec
        if runs_converted(spec.backend):
            folder = converted(spec).folder
        elif spec.backend in ("torch", "mlx"):
            folder = resolve(spec).folder
        else:
            return
        made = artifact(folder, flag(spec.options, "allow_pickle"))
        journal.write_json(self.bundle.folder / "artifact.json", made)

    def answer_all(self, pending: Sequence[Sample]) -> dict[str, Any]:
        """Load the model and answer; returns what the session measured, and leaves it in the events."""
        todo, bundle, progress = self.todo, self.bundle, self.progress
        backend = get_backend(todo.spec.backend)
        began = time.perf_counter()
        model, new_model = self.opened.get(todo.spec, todo.task.family)
        check_evidence(model, todo.evidence)
        timed = todo.evidence != "reference"
        took = {"seconds": self.opened.load_seconds} if timed else {}
        bundle.event("loaded", **took, reused=not new_model, model=model.describe())
        backend.reset_peak_memory()
        progress.start(f"{todo.task.name}  {todo.spec.label}", len(todo.samples), len(self.lines))
        running = RunningScore(todo.task, self.lines.values())
        cold = None
        answering = time.perf_counter()
        try:
            for batch in batches(pending, model.batch_size):
                new = self.answer(model, batch)
                bundle.append(new)
                self.lines.update((line["id"], line) for line in new)
                if cold is None:
                    cold = time.perf_counter() - began
                running.add(new)
                progress.update(len(self.lines), str(running))
            backend.synchronize()
        finally:
            progress.finish()
        facts: dict[str, Any] = {"session_items": len(pending)}
        if timed:  # how long a reference executor took and what it held says nothing about the runtime it stands for
            facts |= {
                "load_seconds": self.opened.load_seconds,
                "cold_start_seconds": cold if new_model else None,
                "session_seconds": time.perf_counter() - answering,
                "peak_memory_bytes": backend.peak_memory_bytes(),
            }
            if stages := getattr(model, "stages", None):
                facts["stages"] = stages.seconds()
        bundle.event("answered", **facts)
        return facts

    def answer(self, model: Any, batch: Sequence[Sample]) -> list[dict[str, Any]]:
        """The lines of one batch; an item that fails becomes a line with its error."""
        asked: list[tuple[Sample, Request | None, str, Output | None]] = []
        for sample in batch:
            try:
                request = self.todo.task.ask(sample)
                asked.append((sample, request, request.input_hash, None))
            except ASKING_ERRORS as error:
                asked.append((sample, None, "", Output.failed(error)))
        good = [request for _, request, _, _ in asked if request is not None]
        answers = model.answer(good, self.todo.generation) if good else []
        if len(answers) != len(good):
            raise RuntimeError(f"the model returned {len(answers)} answers to {len(good)} requests")
        remaining = iter(answers)
        lines = []
        for sample, request, input_hash, failed in asked:
            output = failed if request is None else next(remaining)
            if output.finish == "error":
                self.bundle.event("item error", id=sample.id, **output.error)
            lines.append(line_of(self.todo.task, sample, request, input_hash, output, self.provisional(sample, output)))
        return lines

    def provisional(self, sample: Sample, output: Output) -> Score:
        if output.finish == "error":
            return failed_score(self.todo.task, sample)
        return self.todo.task.score(sample, Response(output.value, finish=output.finish), random.Random(self.todo.task.seed))


def check_evidence(model: Any, planned: str) -> None:
    """Raises ModelError where what was opened is other evidence than the manifest says: a time or its absence would mean something else."""
    stages = getattr(model, "stages", None)
    if stages is not None and stages.evidence != planned:
        raise ModelError(
            f"the programs are {stages.evidence} evidence, and the run was begun as {planned}",
            why="the runtime that was there when the run was planned is not what ran the programs",
            fix="workbench doctor, then the same command with --fresh",
        )


class RunningScore:
    """The mean of the provisional scores so far, as text for the progress line; of speech the word error rate and what it rests on."""

    def __init__(self, task: Task, lines: Iterable[Mapping[str, Any]]):
        self.profile = PROFILES.get(task.scorer.removeprefix("wer ")) if task.scorer.startswith("wer ") else None
        self.total, self.count = 0.0, 0
        self.words = RunningWords()
        self.add(lines)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        if self.profile is not None:
            self.words.add(line["score"]["counts"] for line in lines if "words" in line["score"]["counts"])
            return
        values = [line["score"]["value"] for line in lines if line["score"]["value"] is not None]
        self.total, self.count = self.total + sum(values), self.count + len(values)

    def __str__(self) -> str:
        if self.profile is not None:
            named = f"{self.profile.name} {self.profile.normaliser().version}"
            return f"WER {self.words.rate_text} ({named}, {self.words.errors:,} errors in {self.words.words:,} words)"
        return f"score {100 * self.total / self.count:.1f} %" if self.count else ""


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def line_of(task: Task, sample: Sample, request: Request | None, input_hash: str, output: Output, score: Score) -> dict[str, Any]:
    """One line of ``samples.jsonl``: question, gold and strata go along, so that a bundle can be read without its data set."""
    found: dict[str, Any] = {
        "value": output.value,
        "tokens": None if output.tokens is None else list(output.tokens),
        "finish": output.finish,
    }
    if output.segments is not None:
        found["segments"] = [dict(segment) for segment in output.segments]
    if output.error is not None:
        found["error"] = dict(output.error)
    given = output.seen or {}
    seconds = (given.get("audio") or {}).get("seconds")
    if seconds is None and request is not None:
        seconds = audio_seconds(request)
    return {
        "id": sample.id,
        "group": sample.group,
        "groups": strata(task, sample),
        "input_hash": input_hash,
        "input": {
            "text": None if request is None else str(request.inputs.get("text", "")),
            "media": [] if not input_hash else [media.sha256 for media in media_in(request)],
            "target": plain(sample.target),
            "seen": dict(given) if "tokens" in given else None,  # a library's own loop shows neither tokens nor arrays
            **({} if seconds is None else {"audio_seconds": seconds}),
        },
        "output": found,
        "score": score_json(score),
        "timing": None if output.timing is None else asdict(output.timing),
    }


def strata(task: Task, sample: Sample) -> list[list[str]]:
    return [[axis, str(name)] for axis, name in task.groups(sample)]


def plain(value: Any) -> Any:
    """``value`` when JSON has it, else its text: an own eval's gold may be any object."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def runtime_end(error: RuntimeMissing) -> dict[str, Any]:
    """How a runtime ended its process, or why it is not here, without the machine's paths and names: a result about that runtime."""
    private = Private.here()
    return {
        name: "\n".join(map(private.scrubbed, value.splitlines())) if isinstance(value, str) else value
        for name, value in error.record().items()
    }


def last_facts(bundle: BundleWriter) -> dict[str, Any]:
    """What the latest session that answered anything measured."""
    found: dict[str, Any] = {}
    for event in journal.read(bundle.folder / "events.jsonl"):
        if event["event"] == "answered":
            found = {name: value for name, value in event.items() if name not in ("event", "time")}
    return found
