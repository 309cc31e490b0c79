"""What a capture is fed: a task's first items, images with a prompt, sounds, arrays from a file, or the very arrays of another capture.

items = read_items(["demo"], limit=4)
items = read_items(["reports/runs/capture-..."])        # identical arrays, on another runtime or another machine
items = read_items(["page.png"], prompt="What is written here?")
items = read_items(["stt"], follow=Run("reports/runs/asr-sample-..."))

A recogniser of speech reads its decoder's prompt and then a transcript, whatever it would have written itself: that of the run to
follow, else the task's reference. So a decoder's layers see as many tokens as in use, and the same on every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import BundleError, DataError, UsageError
from workbench.fingerprint import of_json
from workbench.models.options import VISION
from workbench.models.processors import Prepared
from workbench.models.seen import as_array, digest
from workbench.models.speech_to_text import FAMILY as SPEECH
from workbench.run.bundle import CAPTURE, Run
from workbench.types import Media, Request, Task, media_in

ARRAY_FILES = (".npz", ".safetensors")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
AUDIO_FILES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".webm", ".mp4")
DEFAULT_LIMIT = 4
TRANSCRIPT_TOKENS = 224
"""So many of a transcript's tokens are read: what Whisper writes at most in a window (openai/whisper, whisper/decoding.py)."""


@dataclass(frozen=True)
class Item:
    """One input. ``prepare(model)`` gives the arrays; ``replayed`` says that they were recorded, and by which capture."""

    id: str
    input_hash: str
    text: str
    media: tuple[str, ...]
    prepare: Callable[[Any], Prepared]
    replayed: str | None = None
    family: str = VISION


def read_items(
    sources: Sequence[str | Path | Run], *, limit: int = DEFAULT_LIMIT, prompt: str | None = None, follow: Run | None = None
) -> list[Item]:
    """The items that the sources name, at most ``limit`` of each task; all of one family. ``follow``: the run whose transcripts are read.

    Raises UsageError, DataError or BundleError.
    """
    if limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    if prompt and not any(isinstance(each, (str, Path)) and Path(each).suffix.lower() in IMAGE_FILES for each in sources):
        raise UsageError(
            "--prompt asks about images", why="the inputs bring their own questions", fix="--inputs picture.png --prompt TEXT"
        )
    found: list[Item] = []
    for source in sources:
        found += items_of(source, limit, prompt, follow)
    twice = {item.id for item in found if sum(other.id == item.id for other in found) > 1}
    if twice:
        raise UsageError(f"two inputs are called {min(twice)!r}", why="items are compared by their names", fix="rename one file")
    if not found:
        raise UsageError("a capture needs inputs", fix="--inputs demo, --inputs picture.png --prompt TEXT, or --inputs CAPTURE")
    if len(families := sorted({item.family for item in found})) > 1:
        raise UsageError(
            f"the inputs are for {' and '.join(families)} models", why="a capture is of one model", fix="capture them one by one"
        )
    return found


def items_of(source: str | Path | Run, limit: int, prompt: str | None, follow: Run | None) -> list[Item]:
    if isinstance(source, Run):
        return replayed(source)
    path = Path(source)
    if path.suffix.lower() in ARRAY_FILES:
        return [from_file(path)]
    if path.suffix.lower() in IMAGE_FILES:
        return [from_image(path, prompt)]
    if path.suffix.lower() in AUDIO_FILES:
        return [from_audio(path)]
    if path.exists() and (path.suffix == ".zip" or (path / "manifest.json").is_file()):
        return [item for run in Run.open(path) for item in replayed(run)]
    try:
        return from_task(str(source), limit, follow)
    except UsageError as error:
        if not error.what.startswith("unknown task") or not (path.exists() or len(path.parts) > 1):
            raise
        why = "it is no task, capture, image, sound or file of arrays" if path.exists() else "there is no such task, file or folder"
        raise DataError(
            f"{str(source)!r} is no input", why=why, fix="--inputs TASK, picture.png, talk.wav, arrays.npz or one capture's folder"
        ) from error


def from_task(name: str, limit: int, follow: Run | None) -> list[Item]:
    """The first items of a task, or of each task of a suite."""
    from workbench.suites import load_suite, suite_names
    from workbench.tasks.catalogue import load_task

    names = list(load_suite(name).tasks) if name in suite_names() else [name]
    found = []
    for each in names:
        task = load_task(each)
        followed = None if follow is None else transcripts_of(follow, task)
        for sample in list(task.load(limit).samples)[:limit]:
            request = task.ask(sample)
            tokens = (followed or {}).get((sample.id, request.input_hash))
            if followed is not None and not tokens:
                raise UsageError(f"{follow.name} has no tokens for {sample.id!r}", fix="--follow a run of the same items")
            found.append(from_request(f"{task.name}/{sample.id}", request, task.family, tokens, str(sample.target)))
    return found


def transcripts_of(run: Run, task: Task) -> dict[tuple[str, str], list[int]]:
    """The tokens that a run wrote, by item and question. Raises UsageError where it is no run of this task, or the task is no speech."""
    if task.family != SPEECH:
        raise UsageError(f"{task.name} has no transcripts to follow", why=f"it asks {task.family} models", fix="leave --follow out")
    if run.kind is not None or run.manifest["task"]["name"] != task.name:
        raise UsageError(f"{run.name} is no run of {task.name}", fix="--follow a run of the task that --inputs names")
    return {(line["id"], line["input_hash"]): line["output"].get("tokens") or [] for line in run.iter_items()}


def from_request(
    name: str, request: Request, family: str = VISION, tokens: Sequence[int] | None = None, transcript: str | None = None
) -> Item:
    """``tokens``, else those of ``transcript``, are read after a recogniser's prompt."""

    def prepare(model: Any) -> Prepared:
        made = model.prepare(request)
        if family != SPEECH or not (tokens or transcript) or not hasattr(model, "tokens"):
            return made
        return with_tokens(made, tokens or model.tokens.encode(f" {transcript.strip()}"), model.tokens)

    media = tuple(each.sha256 for each in media_in(request))
    return Item(name, request.input_hash, str(request.inputs.get("text", "")), media, prepare, family=family)


def with_tokens(prepared: Prepared, tokens: Sequence[int], tokenizer: Any) -> Prepared:
    """``prepared`` with the first ``TRANSCRIPT_TOKENS`` of ``tokens`` after its prompt."""
    import numpy

    more = numpy.array([list(tokens)[:TRANSCRIPT_TOKENS]], dtype=numpy.int64)
    ids = numpy.concatenate([as_array(prepared.arrays["input_ids"]), more], axis=1)
    return Prepared({**prepared.arrays, "input_ids": ids}, tokenizer.text(ids[0].tolist()), int(ids.shape[1]))


def from_audio(path: Path) -> Item:
    check_file(path)
    return from_request(
        path.stem, Request({"audio": Media(path=path, kind="audio"), "language": "en", "task": "transcribe"}, CAPTURE), SPEECH
    )


def check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", fix="--inputs FILE")


def from_image(path: Path, prompt: str | None) -> Item:
    check_file(path)
    if not prompt:
        raise UsageError(f"what is asked about {path.name}?", why="an image alone is no input", fix='--prompt "What is shown?"')
    return from_request(path.stem, Request({"text": prompt, "images": [Media(path=path)]}, CAPTURE))


def from_file(path: Path) -> Item:
    """Named arrays (``input_ids``, ``pixel_values``, ...) as the models' ``forward`` takes them."""
    import numpy

    try:
        if path.suffix == ".npz":
            with numpy.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            from safetensors.numpy import load_file

            arrays = load_file(path)
    except Exception as error:
        raise DataError(f"{path} cannot be read as named arrays", why=f"{type(error).__name__}: {error}"[:300]) from error
    if why := no_input(arrays):
        raise DataError(
            f"{path} holds no input",
            why=why,
            fix="save input_ids, pixel_values or input_features, ... as the model's forward takes them",
        )
    return from_arrays(path.stem, arrays, "", (), None)


def no_input(arrays: Mapping[str, Any]) -> str | None:
    """Why named arrays cannot be fed to a model; None when they can."""
    ids = arrays.get("input_ids")
    if ids is None:
        return f"there are no input_ids, only {', '.join(sorted(arrays)) or 'nothing'}"
    if isinstance(ids, list) or ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1]:
        return f"input_ids have the shape {getattr(ids, 'shape', 'of a list')}, not (1, tokens)"
    if ids.dtype.kind not in "iu":
        return f"input_ids are {ids.dtype}, not whole numbers"
    parts = [(name, part) for name, value in arrays.items() for part in (value if isinstance(value, list) else [value])]
    return next((f"{name} is {part.dtype}, no numbers" for name, part in parts if part.dtype.kind not in "biuf"), None)


def from_arrays(name: str, arrays: dict[str, Any], text: str, media: tuple[str, ...], replayed: str | None) -> Item:
    prepared = {key: list(map(as_array, value)) if isinstance(value, list) else as_array(value) for key, value in arrays.items()}
    hashed = of_json(
        {key: list(map(digest, value if isinstance(value, list) else [value])) for key, value in sorted(prepared.items())}, 32
    )
    length = int(prepared["input_ids"].shape[1])
    family = SPEECH if "input_features" in prepared else VISION
    return Item(name, hashed, text, media, lambda model: Prepared(dict(prepared), text, length), replayed, family)


def replayed(run: Run) -> list[Item]:
    """The inputs that a capture kept, under their names and hashes."""
    from safetensors import SafetensorError

    from workbench.run.input_records import read_inputs
    from workbench.run.lines import problem

    if run.kind != CAPTURE:
        raise UsageError(
            f"{run.name} is no capture",
            why=f"it is a run of {(run.manifest.get('task') or {}).get('name')}",
            fix="workbench capture MODEL --inputs TASK",
        )
    if not isinstance(run.manifest.get("run_key"), str):
        raise BundleError(f"manifest.json of {run.name} is damaged", why="run_key is no text", fix=f"workbench verify {run.name}")
    lines = run.items()
    try:
        kept = {name: ungrouped(arrays) for name, arrays in read_inputs(run.tensors, set(lines))}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"an input record of {run.name} is damaged", why=str(error)[:200], fix="capture again") from error
    found = []
    for number, (name, line) in enumerate(lines.items(), 1):
        if why := problem(line):
            raise BundleError(f"samples.jsonl of {run.name} is damaged", why=f"item {number}: {why}", fix="capture again")
        if line["output"]["finish"] == "error":
            continue
        if why := "tensors/inputs-*.safetensors is incomplete" if name not in kept else no_input(kept[name]):
            raise BundleError(f"{run.name} lacks the inputs of {name!r}", why=why, fix="capture again")
        asked = line.get("input") or {}
        seen = asked.get("seen")
        prompt = (seen.get("prompt") if isinstance(seen, dict) else None) or ""
        made = from_arrays(name, kept[name], str(prompt), tuple(asked.get("media") or ()), run.manifest["run_key"][:12])
        found.append(replace(made, input_hash=line["input_hash"], text=str(asked.get("text") or "")))
    return found


def ungrouped(arrays: dict[str, Any]) -> dict[str, Any]:
    """``name.0``, ``name.1`` as the list again that ``models.seen.as_arrays`` took apart."""
    found: dict[str, Any] = {}
    for name, value in sorted(arrays.items(), key=lambda each: (each[0].rpartition(".")[0], natural(each[0]))):
        stem, _, place = name.rpartition(".")
        if stem and place.isdigit():
            found.setdefault(stem, []).append(value)
        else:
            found[name] = value
    return found


def natural(name: str) -> int:
    place = name.rpartition(".")[2]
    return int(place) if place.isdigit() else -1
