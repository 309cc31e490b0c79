"""Evidence kept beside the answers, on request: token records, the arrays a model was given, the images and sounds.

    evaluate("mmmu-sample", "demo:vlm@mlx", record=("tokens", "media"), follow=["demo:vlm@torch"])

Made after the answers, so no timing contains it. Records are no part of the run key: a complete run can be given them later
from its stored answers, and an interrupted recording goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import RuntimeMissing, UsageError
from workbench.run.bundle import Run, find_bundles
from workbench.run.input_records import recorded_inputs, write_inputs
from workbench.run.journal import write_atomically
from workbench.run.key import ASKING_ERRORS
from workbench.run.media_files import suffix
from workbench.run.plan import Plan
from workbench.run.progress import Progress
from workbench.run.token_records import OWN, record_of, recorded_tokens, write_tokens
from workbench.run.writer import BundleWriter
from workbench.types import ModelSpec, Sample, media_in

KINDS = ("tokens", "inputs", "media")
ITEMS_A_PART = 64
SHOWN = 20
"""So many failures are named in the bundle's events."""

BYTES_A_PART = 64 * 2**20


class Recorder:
    """What is still to be recorded in a bundle. ``follow``: the run whose answers are followed; None for its own.

    Raises UsageError for an unknown kind, or a runtime that cannot follow tokens.
    """

    def __init__(self, todo: Plan, folder: Path, kinds: Sequence[str], follow: Run | None):
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise UsageError(f"cannot record {unknown[0]!r}", why=f"known: {', '.join(KINDS)}", fix="--record tokens")
        if todo.spec.backend == "server" and (blind := [kind for kind in kinds if kind != "media"]):
            raise cannot_record("server", blind[0])
        self.todo, self.folder, self.kinds = todo, folder, [kind for kind in KINDS if kind in kinds]
        self.followed = OWN if follow is None or follow.manifest["run_key"] in own_keys(folder) else follow.manifest["run_key"][:12]
        self.follow = None if self.followed == OWN else follow
        self.tensors = folder / "tensors"

    def missing(self, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Sample]]:
        """The items without a record, by kind. Items that failed have none to make."""
        good = [sample for sample in self.todo.samples if (line := lines.get(sample.id)) and line["output"]["finish"] != "error"]
        found: dict[str, list[Sample]] = {}
        if "tokens" in self.kinds:
            # A record is done only if it follows these tokens: the followed run may have been made anew under the same key.
            done = recorded_tokens(self.tensors, self.followed)
            tokens = self.tokens_to_follow(lines)
            if self.follow is not None and good and not tokens:
                raise nothing_to_follow(self.follow, "it asked other questions than this run")
            found["tokens"] = [sample for sample in good if sample.id in tokens and done.get(sample.id) != tokens[sample.id]]
        if "inputs" in self.kinds:
            done = recorded_inputs(self.tensors)
            found["inputs"] = [sample for sample in good if sample.id not in done]
        if "media" in self.kinds:
            have = {path.stem for path in (self.folder / "media").glob("*.*")}
            found["media"] = [sample for sample in good if not have.issuperset(self.media_of(sample, lines[sample.id]))]
        return {kind: samples for kind, samples in found.items() if samples}

    def media_of(self, sample: Sample, line: Mapping[str, Any]) -> list[str]:
        """The hashes of an item's media; a line of schema 1 has none, so the task is asked."""
        if line.get("input") is not None:
            return line["input"]["media"]
        try:
            return [media.sha256 for media in media_in(self.todo.task.ask(sample))]
        except ASKING_ERRORS:
            return ["unknown"]

    def tokens_to_follow(self, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
        """The followed tokens by item id: of the same question alone, and never an empty answer."""
        source = lines if self.follow is None else self.follow.items()
        return {
            name: line["output"]["tokens"]
            for name, line in source.items()
            if name in lines and line["output"]["tokens"] and line["input_hash"] == lines[name]["input_hash"]
        }

    def run(
        self, lines: Mapping[str, Mapping[str, Any]], bundle: BundleWriter, model: Callable[[], Any], progress: Progress
    ) -> None:
        """Make what is missing; ``model()`` opens the model, and is called only when it is needed."""
        for kind, samples in self.missing(lines).items():
            if kind != "media" and not hasattr(model(), "follow"):
                raise cannot_record(self.todo.spec.backend, kind)
            progress.start(f"{self.todo.task.name}  {self.todo.spec.label}  recording {kind}", len(samples), 0)
            try:
                failed = getattr(self, f"record_{kind}")(samples, lines, model, progress)
            finally:
                progress.finish()
            if failed:
                name, why = next(iter(failed.items()))
                progress.say(f"{kind}: {len(failed)} of {len(samples)} items have no record; the first is {name}: {why}")
            bundle.event(
                "recorded",
                record=kind,
                followed=self.followed if kind == "tokens" else None,
                n=len(samples) - len(failed),
                n_failed=len(failed),
                failed=dict(list(failed.items())[:SHOWN]),
            )

    def record_tokens(
        self, samples: Sequence[Sample], lines: Mapping[str, Any], model: Callable[[], Any], progress: Progress
    ) -> dict[str, str]:
        tokens = self.tokens_to_follow(lines)
        part: dict[str, Any] = {}
        failed: dict[str, str] = {}
        try:
            for number, sample in enumerate(samples, 1):
                try:
                    part[sample.id] = record_of(tokens[sample.id], model().follow(self.todo.task.ask(sample), tokens[sample.id]))
                except RuntimeMissing:  # its process is gone
                    raise
                except Exception as error:  # noqa: BLE001  whatever one item raises is its own failure, not the recording's
                    failed[sample.id] = f"{type(error).__name__}: {error}"[:300]
                if len(part) == ITEMS_A_PART:
                    write_tokens(self.tensors, self.followed, part)
                    part = {}
                progress.update(number, "")
        finally:
            if part:
                write_tokens(self.tensors, self.followed, part)
        return failed

    def record_inputs(
        self, samples: Sequence[Sample], lines: Mapping[str, Any], model: Callable[[], Any], progress: Progress
    ) -> dict[str, str]:
        from workbench.models.seen import as_arrays

        part: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        size = 0
        try:
            for number, sample in enumerate(samples, 1):
                try:
                    part[sample.id] = as_arrays(model().prepare(self.todo.task.ask(sample)))
                except RuntimeMissing:
                    raise
                except Exception as error:  # noqa: BLE001  as above
                    failed[sample.id] = f"{type(error).__name__}: {error}"[:300]
                    continue
                size += sum(array.nbytes for array in part[sample.id].values())
                if size > BYTES_A_PART:
                    write_inputs(self.tensors, part)
                    part, size = {}, 0
                progress.update(number, "")
        finally:
            if part:
                write_inputs(self.tensors, part)
        return failed

    def record_media(
        self, samples: Sequence[Sample], lines: Mapping[str, Any], model: Callable[[], Any], progress: Progress
    ) -> dict[str, str]:
        target = self.folder / "media"
        target.mkdir(exist_ok=True)
        failed: dict[str, str] = {}
        for number, sample in enumerate(samples, 1):
            try:
                for media in media_in(self.todo.task.ask(sample)):
                    path = target / f"{media.sha256}.{suffix(media)}"
                    if not path.exists():
                        write_atomically(path, media.read())
            except ASKING_ERRORS as error:
                failed[sample.id] = f"{type(error).__name__}: {error}"[:300]
            progress.update(number, "")
        return failed


def own_keys(folder: Path) -> list[str]:
    if not (folder / "manifest.json").is_file():
        return []
    manifest = Run(folder).manifest
    return [manifest["run_key"], *manifest.get("mixed_keys", ())]


def find_followed(sources: Sequence[str | Path], runs: Path, todo: Plan) -> Run | None:
    """The run to follow for this plan's task among ``sources``: bundles, folders of bundles, or the text of a model that ran here.

    None without sources, or when the model named is this one. Raises UsageError when none fits: same task, same data, complete.
    """
    if not sources:
        return None
    found: list[Run] = []
    for source in sources:
        path = Path(source)
        if (path / "manifest.json").is_file() or path.is_file():
            found += Run.open(path)
        elif path.parent.is_file():  # one run of a zip
            found.append(Run(path))
        elif path.is_dir():
            found += [Run(folder) for folder, _ in find_bundles(path) if "~" not in folder.name]
        elif is_model(todo.asked, str(source)):
            return None
        else:
            found += [Run(folder) for folder, manifest in find_bundles(runs) if is_model(manifest["asked"], str(source))]
    fitting = [run for run in found if run.status == "complete" and fits(run, todo)]
    if not fitting:
        here = "no complete run there asks the same questions" if found else "it is no run, and no model that ran here"
        raise UsageError(
            f"nothing to follow for {todo.task.name} in {', '.join(map(str, sources))}",
            why=here,
            fix=f"workbench eval {todo.task.name} --model MODEL first, with the same --limit",
        )
    models = sorted({f"{run.manifest['model']['text']} {run.manifest['asked']['options'] or ''}".strip() for run in fitting})
    if len(models) > 1:
        raise UsageError("runs of several models could be followed", why="; ".join(models), fix=f"--follow {models[0].split()[0]}")
    same = todo.key["data"]["items"]
    best = max(fitting, key=lambda run: (run.manifest["key"]["data"]["items"] == same, run.manifest.get("finished") or ""))
    known = {sample.id for sample in todo.samples}
    if not any(line["output"].get("tokens") for line in best.iter_items() if line["id"] in known):
        why = "it is redacted" if best.manifest.get("redacted") else "it holds none for these items (a server's runs never do)"
        raise nothing_to_follow(best, why)
    return best


def nothing_to_follow(run: Run, why: str) -> UsageError:
    return UsageError(f"{run.name} has no tokens to follow", why=why, fix="--follow a torch or MLX run of the same items")


def cannot_record(backend: str, kind: str) -> UsageError:
    return UsageError(
        f"{backend} models cannot record {kind}",
        why="the runtime shows neither the model's logits nor its inputs",
        fix="leave --record out, or use --record media",
    )


def is_model(asked: Mapping[str, Any], text: str) -> bool:
    """Was this asked of the model that ``text`` names, options included, wherever they were typed?"""
    try:
        wanted = ModelSpec.parse(text)
    except UsageError:
        return False
    return asked["model"].partition("?")[0] == wanted.label.partition("?")[0] and dict(asked["options"]) == dict(wanted.options)


def fits(run: Run, todo: Plan) -> bool:
    """Is it a run of the same task on the same data with the same prompt version?"""
    key = run.manifest["key"]
    return (
        key["task"]["name"] == todo.key["task"]["name"]
        and key["task"]["version"] == todo.key["task"]["version"]
        and key["data"]["fingerprint"] == todo.key["data"]["fingerprint"]
    )
