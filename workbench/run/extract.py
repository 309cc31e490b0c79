"""A language model reads a finished run's answers: MathVista's extraction step, or a verdict on each answer of any task.

    extract(Path("reports/runs/mathvista-..."), "server:http://127.0.0.1:8080#llm")   # scores follow the extractions
    judge(Path("reports/runs/mmmu-..."), "torch:ORG/NAME")                            # judge-<key12>.json beside the results

Each reply is journalled at once, so an interrupted call continues; what failed is tried again by the next call. Extraction follows
lupantech/MathVista at 53d5258 (``evaluation/extract_answer.py``): what its rules read is not asked, the model is asked greedily for
at most 1024 tokens, a tenth fewer each time the text does not fit, and again after an empty reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import BundleError, UsageError
from workbench.fingerprint import of_file, of_json
from workbench.metrics.stats import wilson
from workbench.models import options
from workbench.models.loading import open_vision_language
from workbench.models.source import identify
from workbench.run import journal
from workbench.run.bundle import CHECKED_FILES, Run
from workbench.run.finalise import finalise
from workbench.run.progress import Progress, Silent
from workbench.run.rescore import complete_run, task_and_samples
from workbench.run.writer import BundleWriter
from workbench.tasks import extraction_prompts as prompts
from workbench.tasks import mathvista, mathvista_answers
from workbench.types import ModelSpec, Output, Request, Sample, Task

EXTRACTIONS = "extractions.jsonl"
FEWEST_TOKENS = 8


@dataclass(frozen=True)
class Reader:
    """The model that reads, and the prompt it is given. ``key`` names both with the settings: equal keys, equal replies."""

    spec: ModelSpec
    label: str
    identity: Mapping[str, Any]
    prompt_id: str
    prompt: str
    """The prompt's hash."""

    @property
    def key(self) -> str:
        settings = options.in_key(self.spec.backend, dict(self.spec.options))
        about = [self.spec.backend, self.identity, settings, self.prompt, prompts.SETTINGS.to_dict()]
        return of_json(about, 12)

    def summary(self) -> dict[str, Any]:
        return {"model": self.label, "prompt_id": self.prompt_id, "prompt": self.prompt, "key": self.key}


@dataclass(frozen=True)
class Question:
    """What the model is told about one item. ``of`` identifies the text: a reply to another text is no reply to this one."""

    id: str
    text: str

    @property
    def of(self) -> str:
        return of_json(self.text, 16)


def reader(model: str | ModelSpec, name: str | None, prompt: str, prompt_id: str) -> Reader:
    """``model``: any model spec, or the address of a server. ``name`` replaces its text in the bundle. Raises WorkbenchError."""
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        model = f"server:{model}"
    spec = model if isinstance(model, ModelSpec) else ModelSpec.parse(model)
    identity = identify(spec)
    label = f"server:{identity['source']}" if spec.backend == "server" else spec.label
    return Reader(spec, name or label, identity, prompt_id, prompts.prompt_hash(prompt))


def extract(
    folder: Path, model: str | ModelSpec, *, prompt: Path | None = None, name: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Extract the answers of a complete MathVista run with ``model`` and score them; returns the results.

    ``prompt``: a file with another prompt, such as the authors' own. The results come with ``errors`` (items without an
    extraction because the model failed) and ``was_complete`` (nothing had to be done). Former extractions by another model are
    replaced, and stay in the journal. Raises WorkbenchError; nothing is lost when interrupted.
    """
    progress = progress or Silent()
    run = own_run(folder)
    task, samples = task_and_samples(run)
    if task.score is not mathvista.score:
        why = "only MathVista's authors extract answers with a language model"
        raise UsageError(f"task {task.name!r} has no extraction step", why=why, fix=f"workbench extract {folder} --with M --judge")
    text = prompts.WORKBENCH_PROMPT if prompt is None else prompts.read_prompt(prompt)
    who = reader(model, name, text, prompts.prompt_id(prompts.prompt_hash(text)))
    with BundleWriter(run.folder, {}) as bundle, journal.Journal(run.folder / EXTRACTIONS) as kept:
        lines = Run(run.folder).items()
        chosen = [sample for sample in samples if sample.id in lines]
        by_rules, questions = split(task, chosen, lines, text)
        made = latest(run.folder / EXTRACTIONS, who.key)
        for each, value in by_rules.items():
            if not is_reply(made.get(each), of_json(value, 16)):
                made[each] = {
                    "id": each,
                    "value": value,
                    **who.summary(),
                    "finish": "stop",
                    "by": "rules",
                    "of": of_json(value, 16),
                }
                kept.append(made[each])
        pending = [each for each in questions if not is_reply(made.get(each.id), each.of)]
        said = announce(who, lines, bundle, progress, pending)
        for question, output in replies(who, pending, bundle, progress, len(chosen), "extracts with"):
            made[question.id] = {
                "id": question.id,
                "value": output.value,
                **who.summary(),
                "finish": output.finish,
                "by": "model",
                "of": question.of,
                **({"error": dict(output.error)} if output.error else {}),
            }
            kept.append(made[question.id])
        wanted = {*by_rules, *(each.id for each in questions)}
        entries = {
            each: {"value": made[each]["value"], "model": who.label, "prompt": who.prompt, "by": made[each]["by"]}
            for each in wanted
            if "error" not in made[each]
        }
        errors = len(wanted) - len(entries)
        stored = {each: line["extraction"] for each, line in lines.items() if line.get("extraction")}
        if stored == entries and is_settled(run):
            return {**run.results, "errors": errors, "was_complete": not pending}
        if errors and not any(entry["by"] == "model" for entry in entries.values()):
            progress.say("no item was extracted: the run's scores stay as they are")
            return {**run.results, "errors": errors, "was_complete": False}
        final, results = rescored(task, samples, chosen, lines, entries, run)
        before, after = run.results["headline"]["value"], results["headline"]["value"]
        bundle.event(
            "extracted", **who.summary(), identity=dict(who.identity), errors=errors, replaced=said, before=before, after=after
        )
        bundle.finish(final, results)
    return {**results, "errors": errors, "was_complete": False}


def judge(folder: Path, model: str | ModelSpec, *, name: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Ask ``model`` whether each answer of a complete run means its gold; returns what ``judge-<key12>.json`` holds.

    The run's own score is untouched. An answer that is empty or failed counts as incorrect without being shown; a reply that
    holds no verdict is ``unparsed`` and in no share. Raises WorkbenchError.
    """
    progress = progress or Silent()
    run = own_run(folder)
    who = reader(model, name, prompts.JUDGE_PROMPT, prompts.JUDGE_PROMPT_ID)
    path = run.folder / f"judge-{who.key}.json"
    with BundleWriter(run.folder, {}) as bundle, journal.Journal(path.with_suffix(".jsonl")) as kept:
        lines = Run(run.folder).items()
        asked = questions_of(run, lines)
        questions = {
            each: Question(each, prompts.judge_prompt(*asked(line), line["output"]["value"]))
            for each, line in lines.items()
            if (line["output"]["value"] or "").strip()
        }
        made = latest(path.with_suffix(".jsonl"), who.key)
        pending = [each for each in questions.values() if not is_reply(made.get(each.id), each.of)]
        for question, output in replies(who, pending, bundle, progress, len(lines), "is judged by"):
            made[question.id] = {
                "id": question.id,
                "verdict": None if output.error else prompts.read_verdict(output.value or "") or "unparsed",
                "reply": output.value,
                "key": who.key,
                "finish": output.finish,
                "of": question.of,
                **({"error": dict(output.error)} if output.error else {}),
            }
            kept.append(made[question.id])
        found = {
            each: {name: made[each][name] for name in ("verdict", "reply", "finish", "error") if name in made[each]}
            if each in questions
            else {"verdict": "incorrect", "reply": None, "finish": None, "why": "no answer"}
            for each in lines
        }
        judged = judgement(who, run, found)
        if not pending and stored_json(path) == judged:
            return {**judged, "was_complete": True}
        journal.write_json(path, judged)
        bundle.event("judged", **who.summary(), headline=judged["headline"], errors=judged["errors"])
    return {**judged, "was_complete": False}


def stored_json(path: Path) -> Any:
    """What a JSON file holds; None when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def judgement(who: Reader, run: Run, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Headline and Wilson interval over the items with a verdict; how many have none, and what they could change."""
    verdicts = [each["verdict"] for each in found.values()]
    correct, decided = verdicts.count("correct"), verdicts.count("correct") + verdicts.count("incorrect")
    low, high = wilson(correct, decided)
    share = 100 / len(found) if found else 0.0
    return {
        "scorer": f"judge:{who.label}",
        "task": run.manifest["task"]["name"],
        **who.summary(),
        "settings": prompts.SETTINGS.to_dict(),
        "identity": dict(who.identity),
        "n": len(found),
        "judged": decided,
        "correct": correct,
        "unparsed": verdicts.count("unparsed"),
        "errors": verdicts.count(None),
        "headline": {"metric": "judged correct", "value": 100 * correct / decided if decided else None, "unit": "%", "of": None},
        "interval": {"low": 100 * low, "high": 100 * high, "unit": "%", "confidence": 0.95, "method": "wilson"}
        if decided
        else None,
        "bounds": {"undecided_all_wrong": share * correct, "undecided_all_correct": share * (correct + len(found) - decided)},
        "items": dict(found),
    }


def own_run(folder: Path) -> Run:
    """A complete run in a folder. Raises BundleError."""
    run = complete_run(folder)
    if run.unpacked is not None:
        raise BundleError(f"{run.name} is packed", why="a zip is only read", fix="unzip it, and name the folder")
    return run


def split(
    task: Task, samples: Sequence[Sample], lines: Mapping[str, Mapping[str, Any]], prompt: str
) -> tuple[dict[str, str], list[Question]]:
    """(what the authors' rules extract, questions for the model) of the items that were answered."""
    by_rules, questions = {}, []
    for sample in samples:
        line = lines[sample.id]
        response = line["output"]["value"]
        if line["output"]["finish"] == "error":
            continue
        meta, choices = sample.meta, sample.inputs["choices"]
        found = mathvista_answers.extract(response, meta["question_type"], meta["answer_type"], choices)
        if found or not response:
            by_rules[sample.id] = found
        else:
            text = (line.get("input") or {}).get("text")
            questions.append(Question(sample.id, prompts.full_prompt(prompt, text or task.ask(sample).inputs["text"], response)))
    return by_rules, questions


def questions_of(run: Run, lines: Mapping[str, Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], tuple[str, Any]]:
    """From a line to (question, gold): the line's own where all have them, else those of the task's data."""
    if all((line.get("input") or {}).get("text") is not None for line in lines.values()):
        return lambda line: (line["input"]["text"], line["input"]["target"])
    task, samples = task_and_samples(run)
    known = {sample.id: sample for sample in samples}
    return lambda line: (task.ask(known[line["id"]]).inputs["text"], known[line["id"]].target)


def latest(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The last record of each item that this reader made; others' are passed over."""
    return {record["id"]: record for record in journal.read(path) if record.get("key") == key}


def is_reply(record: Mapping[str, Any] | None, of: str) -> bool:
    return record is not None and record.get("of") == of and "error" not in record


def is_settled(run: Run) -> bool:
    """Whether lines, results and manifest were all written: a process may have died between them."""
    about = run.results.get("extractor")
    if about is None or any(of_file(run.folder / name) != run.manifest.get("checksums", {}).get(name) for name in CHECKED_FILES):
        return False
    return run.results["scorer"] == run.manifest["task"]["scorer"] == prompts.scorer_label(about)


def announce(
    who: Reader, lines: Mapping[str, Any], bundle: BundleWriter, progress: Progress, pending: Sequence[Question]
) -> list[str]:
    """Say whose extractions are about to be replaced, and leave it in the events; returns their models."""
    former = {
        (str(line["extraction"]["model"]), str(line["extraction"]["prompt"])) for line in lines.values() if line.get("extraction")
    }
    former -= {(who.label, who.prompt)}
    for model, hashed in sorted(former):
        progress.say(f"replaces the extractions by {model} (prompt {prompts.prompt_id(hashed)})")
        bundle.event("extractions replaced", model=model, prompt=hashed, by=who.label, pending=len(pending))
    return sorted(model for model, _ in former)


def replies(
    who: Reader, questions: Sequence[Question], bundle: BundleWriter, progress: Progress, total: int, verb: str
) -> Iterator[tuple[Question, Output]]:
    """Each question with the model's output, as they come; the model is loaded only when there is a question."""
    if not questions:
        return
    model = open_vision_language(who.spec)
    bundle.event("reader loaded", **who.summary(), model_facts=model.describe(), pending=len(questions))
    done = total - len(questions)
    progress.start(f"{bundle.folder.name[:40]}  {verb}  {who.label}", total, done)
    try:
        for start in range(0, len(questions), model.batch_size):
            batch = questions[start : start + model.batch_size]
            for question, output in zip(batch, ask(model, batch, who.prompt_id), strict=True):
                if output.finish == "error":
                    bundle.event("reader error", id=question.id, **output.error)
                yield question, output
            done += len(batch)
            progress.update(done, "")
    except KeyboardInterrupt:
        bundle.event("interrupted", reader=who.label, done=done)
        raise
    finally:
        progress.finish()
        model.close()


def ask(model: Any, batch: Sequence[Question], prompt_id: str) -> list[Output]:
    """The outputs of one batch. Fewer new tokens are asked for where a text does not fit, and an empty reply is asked for again."""
    outputs: list[Output | None] = [None] * len(batch)
    tokens, empty = [prompts.SETTINGS.max_tokens] * len(batch), [0] * len(batch)
    while waiting := [place for place, output in enumerate(outputs) if output is None]:
        for size in sorted({tokens[place] for place in waiting}, reverse=True):
            places = [place for place in waiting if tokens[place] == size]
            requests = [Request({"text": batch[place].text, "images": []}, prompt_id) for place in places]
            for place, output in zip(places, model.answer(requests, replace(prompts.SETTINGS, max_tokens=size)), strict=True):
                fewer = int(0.9 * size)
                if does_not_fit(output) and fewer >= FEWEST_TOKENS:
                    tokens[place] = fewer
                elif output.value == "" and empty[place] < prompts.EMPTY_REPEATS:
                    empty[place] += 1
                else:
                    outputs[place] = output
    return outputs  # type: ignore[return-value]  every place was filled above


def does_not_fit(output: Output) -> bool:
    """Too many tokens: this program's own check, or the words of OpenAI's servers that the authors look for."""
    error = output.error or {}
    return error.get("reason") == "context" or "Please reduce the length of the messages" in (error.get("why") or "")


def rescored(
    task: Task, samples: Sequence[Sample], chosen: Sequence[Sample], lines: Mapping[str, Any], entries: Mapping[str, Any], run: Run
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(final lines, results) with these extractions in place of any former ones."""
    bare = {each: {name: value for name, value in line.items() if name != "extraction"} for each, line in lines.items()}
    for each, entry in entries.items():
        bare[each]["extraction"] = entry
    final, results = finalise(task, chosen, bare)
    results["performance"] = run.results["performance"]
    if run.manifest.get("merged"):
        results["missing"] = len(samples) - len(lines)
    return final, results
