"""What the stages of a model are given for real requests: inputs of a conversion's check, and samples of a calibration.

    feeds, words = feeds_of(subject_of("demo:vlm"), ["demo"], limit=2)(stages)      # {"vision": [...], ...}, "2 inputs of demo"

Requests go through the model's own preprocessing, as in an evaluation, and the decoder follows the tokens that torch writes next.
"""

from __future__ import annotations

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


def feeds_of(subject: Subject, sources: Sequence[str], limit: int = LIMIT, most: int | None = None) -> MakeFeeds:
    """How inputs are made from the stages: the first ``limit`` requests of each of ``sources`` (a task, a suite's tasks, a picture, a
    sound), or the arrays in files (``.npz``) of a user's module. ``most``: of all of these no more, spread over them evenly.

    Raises UsageError and DataError for sources that cannot be read or are another family's, some of them only when the stages are there.
    """
    if subject.folder is None:
        given = [read_arrays(Path(source)) for source in spread(sources, most)]
        return lambda stages: (pooled(stages, given), f"{', '.join(Path(source).name for source in sources)}")
    items = spread(get_item_reader()(list(sources), limit=limit), most)

    def feeds(stages: StageSet) -> tuple[Feeds, str]:
        from workbench.models.options import VISION

        if items[0].family != stages.family:
            raise UsageError(
                f"{subject.name} is a {stages.family} model",
                why=f"the inputs are for {items[0].family} models",
                fix="--inputs TASK",
            )
        preparing = (Pictures if stages.family == VISION else Sounds)(subject)
        arrays = [item.prepare(preparing).arrays for item in items]
        names = ", ".join(Path(source).name for source in sources)
        return pooled(stages, arrays), f"{len(items):,} input{'' if len(items) == 1 else 's'} of {names}"

    return feeds


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


def pooled(stages: StageSet, requests: Sequence[Mapping[str, Any]]) -> Feeds:
    """The calls of every stage over all requests."""
    found: dict[str, list[Any]] = {stage.name: [] for stage in stages}
    for arrays in requests:
        for name, calls in (stages.feeds(arrays) if stages.family == "module" else followed(stages, arrays)).items():
            found[name] += calls
    return found


def followed(stages: StageSet, arrays: Mapping[str, Any]) -> Feeds:
    """The calls of one request, with the ``FOLLOWED`` tokens that torch itself writes next."""
    tokens: list[int] = []
    for _ in range(FOLLOWED):
        feeds = stages.feeds(arrays, tokens)
        last = "step" if feeds["step"] else "prefill"
        outputs, _ = stages[last].run(feeds[last][-1])
        tokens.append(int(outputs["logits"][0, -1].argmax()))
    return stages.feeds(arrays, tokens)
