"""What the stages of a model are given for real requests: inputs of a conversion's check, and samples of a calibration.

    feeds, words = feeds_of(subject_of("demo:vlm"), ["demo"], limit=2)(stages)      # {"vision": [...], ...}, "2 inputs of demo"

Requests go through the model's own preprocessing, as in an evaluation, and the decoder follows the tokens that torch writes next.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.building import Feeds, MakeFeeds
from workbench.convert.subject import Subject
from workbench.errors import DataError, UsageError
from workbench.registry import get_item_reader

if TYPE_CHECKING:
    from workbench.convert.stages.stage import StageSet

INPUTS_OF = {"demo:vlm": ["demo"], "demo:stt": ["stt"]}
"""What the bundled models are fed unless the user says otherwise."""
LIMIT = 2
FOLLOWED = 2
"""Tokens that the decoder is followed over after a prompt; each is a call of the step, with its caches in memory."""


def feeds_of(subject: Subject, sources: Sequence[str], limit: int = LIMIT) -> MakeFeeds:
    """How inputs are made from the stages: the first ``limit`` requests of each of ``sources`` (a task, a suite's tasks, a picture, a
    sound), or the arrays in files (``.npz``) of a user's module.

    Raises UsageError and DataError for sources that cannot be read or are another family's, some of them only when the stages are there.
    """
    given = _read(subject, sources, limit)
    return lambda stages: _made(subject, sources, given, stages)


def divided(subject: Subject, sources: Sequence[str], most: int) -> tuple[MakeFeeds, MakeFeeds]:
    """(samples of a calibration, inputs of its check): at most ``most`` of the sources, spread over them evenly; and ``LIMIT`` others. Where
    there are no others, samples are checked on, and the words say so. Nothing is read before the stages are there; raises as ``feeds_of``.
    """

    def samples(stages: StageSet) -> tuple[Feeds, str]:
        return _made(subject, sources, apart(_read(subject, sources, most + LIMIT), most)[0], stages)

    def others(stages: StageSet) -> tuple[Feeds, str]:
        seen, unseen = apart(_read(subject, sources, most + LIMIT), most)
        feeds, words = _made(subject, sources, spread(unseen or seen, LIMIT), stages)
        return feeds, f"{words}, {told_apart(bool(unseen))}"

    return samples, others


def apart(given: Sequence[Any], most: int) -> tuple[list[Any], list[Any]]:
    """(at most ``most``, evenly over all; the rest)."""
    chosen = spread(range(len(given)), most)
    return [given[place] for place in chosen], [each for place, each in enumerate(given) if place not in chosen]


def told_apart(unseen: bool) -> str:
    """What inputs of a check are to the calibration."""
    return "unseen by the calibration" if unseen else "which the calibration saw too"


def _read(subject: Subject, sources: Sequence[str], limit: int) -> list[Any]:
    """Requests; of a user's module (file, arrays)."""
    if subject.folder is None:
        return [(Path(source).name, read_arrays(Path(source))) for source in sources]
    return list(get_item_reader()(list(sources), limit=limit))


def _made(subject: Subject, sources: Sequence[str], items: Sequence[Any], stages: StageSet) -> tuple[Feeds, str]:
    from workbench.models.options import VISION

    if subject.folder is None:
        return pooled(stages, [arrays for _, arrays in items]), ", ".join(name for name, _ in items)
    if items[0].family != stages.family:
        raise UsageError(
            f"{subject.name} is a {stages.family} model",
            why=f"the inputs are for {items[0].family} models",
            fix="--inputs TASK",
        )
    preparing = (Pictures if stages.family == VISION else Sounds)(subject)
    arrays = [item.prepare(preparing).arrays for item in items]
    names = ", ".join(Path(source).name for source in sources)
    return pooled(stages, arrays, ends_of(subject.folder)), f"{len(items):,} input{'' if len(items) == 1 else 's'} of {names}"


def spread(given: Sequence[Any], most: int | None) -> list[Any]:
    """At most ``most``, evenly over all of them."""
    if most is None or len(given) <= most:
        return list(given)
    return [given[place * len(given) // most] for place in range(most)]


class Pictures:
    """Prepares requests as the model's own processor does, without the model."""

    def __init__(self, subject: Any):
        from workbench.models import options
        from workbench.models.loading import quietly
        from workbench.models.processors import Preprocessor

        with quietly():
            self.preprocessor = Preprocessor(subject.folder, options.read("torch", {}))

    def prepare(self, request: Any) -> Any:
        return self.preprocessor.prepare(request, tensors="np")


class Sounds:
    """Prepares one window's log-mel and the decoder's prompt, without a transcript: following one would take a cache a token."""

    def __init__(self, subject: Any):
        from workbench.models.loading import open_speech_to_text
        from workbench.types import ModelSpec

        source = subject.name if subject.name.startswith("demo:") else str(subject.folder)
        self.model = open_speech_to_text(ModelSpec("torch", source, text=f"torch:{subject.name}"))

    def prepare(self, request: Any) -> Any:
        return self.model.prepare(request)


def read_arrays(path: Path) -> dict[str, Any]:
    """One call of a user's module: arrays by the names of its inputs. Raises DataError."""
    import numpy

    try:
        if path.suffix != ".npz":
            raise ValueError("a module of your own takes a .npz with one array an input")
        with numpy.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path.name!r} cannot be read as named arrays", why=str(error)[:300], fix="numpy.savez('inputs.npz', NAME=array, ...)"
        ) from error


def ends_of(folder: Path) -> tuple[int, ...]:
    """The token ids that end an answer, by a checkpoint's settings."""
    from workbench.models.answering import stop_ids

    held = [folder / name for name in ("config.json", "generation_config.json")]
    config, generation = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in held)
    return stop_ids(config, generation, None)


def pooled(stages: StageSet, requests: Sequence[Mapping[str, Any]], ends: Sequence[int] = ()) -> Feeds:
    """The calls of every stage over all requests."""
    found: dict[str, list[Any]] = {stage.name: [] for stage in stages}
    for arrays in requests:
        for name, calls in (stages.feeds(arrays) if stages.family == "module" else followed(stages, arrays, ends)).items():
            found[name] += calls
    return found


def followed(stages: StageSet, arrays: Mapping[str, Any], ends: Sequence[int] = ()) -> Feeds:
    """The calls of one request, with the tokens that torch itself writes next: ``FOLLOWED``, or up to the answer's end. No loop feeds one
    of ``ends``, which a model was not trained to go on from: such calls err by several times the others'."""
    tokens: list[int] = []
    for _ in range(FOLLOWED):
        feeds = stages.feeds(arrays, tokens)
        last = "step" if feeds["step"] else "prefill"
        outputs, _ = stages[last].run(feeds[last][-1])
        token = int(outputs["logits"][0, -1].argmax())
        if tokens and token in ends:
            break
        tokens.append(token)
    return stages.feeds(arrays, tokens)
