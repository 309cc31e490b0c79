"""What a page holds of an item's media: found by hash in the bundles or in the task's own data, each once, within a budget.

``Thumbnails`` (pictures) and ``Sounds`` (audio) say how a medium becomes a data URL. Nothing is downloaded. Where every bundle is
redacted the task's data are not asked: a report must not bring back what was taken out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.errors import WorkbenchError
from workbench.run.bundle import Run
from workbench.types import Media, media_in

MOST_FILE_BYTES = 100_000_000
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Missing:
    """Why an item has no picture or sound on the page; ``sha256`` is its first 12 digits."""

    reason: str
    sha256: str


@dataclass(frozen=True)
class Words:
    """What is said of one kind of media: ``noun`` of one, ``subject`` with its verb of all."""

    noun: str
    subject: str

    @property
    def absent(self) -> str:
        return f"{self.noun} not in the bundle; record it with: workbench eval ... --record media"

    @property
    def over_budget(self) -> str:
        return f"{self.noun} left out to keep this page small and quick to make"

    @property
    def not_asked(self) -> str:
        return f"{self.subject} left out of this report"

    @property
    def redacted(self) -> str:
        return f"{self.noun} removed by redaction"


class Embedded:
    """The media of one kind on one page, each once. ``kept`` grows as items ask; earlier askers come first in the budget."""

    words: Words
    most: int

    def __init__(self, runs: Iterable[Run], budget: int, wanted: bool = True):
        self.runs, self.budget, self.wanted = list(runs), budget, wanted
        self.kept: list[Any] = []
        self.bytes = 0
        self._over_budget: set[str] = set()
        self._redacted = bool(self.runs) and all(run.manifest.get("redacted") for run in self.runs)
        self._known: dict[str, int | Missing] = {}
        self._tasks: dict[str, TaskMedia] = {}

    def made(self, media: Media, sha256: str) -> Any:
        """What is kept, with ``sha256`` and ``url``. Raises ItemError when the medium cannot be shown."""
        raise NotImplementedError

    @property
    def left_out(self) -> int:
        """How many different media are not on the page because of its bounds, each counted once."""
        return len(self._over_budget - {each.sha256 for each in self.kept})

    def find(self, task: str, item: str, sha256: Any) -> int | Missing:
        """The number of the medium in ``kept``, or why there is none. Decides once a hash."""
        name = str(sha256)
        if name not in self._known:
            self._known[name] = self._make(task, item, name)
        return self._known[name]

    def skip(self, sha256: Any) -> int | Missing:
        """The medium's number if it is kept already; it is not made for this."""
        found = self._known.get(str(sha256))
        if found is not None:
            return found
        self._over_budget.add(str(sha256))
        return Missing(self.words.over_budget, str(sha256)[:12])

    def _make(self, task: str, item: str, sha256: str) -> int | Missing:
        short, noun = sha256[:12], self.words.noun
        if not self.wanted:
            return Missing(self.words.not_asked, short)
        if not HASH.fullmatch(sha256):
            return Missing(f"the bundle names no valid hash for this {noun}", short)
        if self.bytes >= self.budget or len(self.kept) >= self.most:
            self._over_budget.add(sha256)
            return Missing(self.words.over_budget, short)
        media = self._in_bundles(sha256) or (None if self._redacted else self._in_task(task, item, sha256))
        if media is None:
            return Missing(self.words.redacted if self._redacted else self.words.absent, short)
        if isinstance(media, Missing):
            return media
        try:
            made = self.made(media, sha256)
        except WorkbenchError as error:
            return Missing(f"{noun} cannot be decoded ({error.why or error.what})", short)
        except Exception as error:  # noqa: BLE001  a decoder may raise anything on a hostile file; the report goes on
            return Missing(f"{noun} cannot be decoded ({type(error).__name__})", short)
        if self.bytes + len(made.url) > self.budget:
            self._over_budget.add(sha256)
            return Missing(self.words.over_budget, short)
        self.bytes += len(made.url)
        self.kept.append(made)
        return len(self.kept) - 1

    def _in_bundles(self, sha256: str) -> Media | Missing | None:
        for run in self.runs:
            path = run.media(sha256)
            if path is None:
                continue
            if path.stat().st_size > MOST_FILE_BYTES:
                return Missing(f"the {self.words.noun}'s file is larger than 100 MB", sha256[:12])
            media = Media(data=path.read_bytes(), kind=self.words.noun)
            changed = f"the {self.words.noun}'s file was changed: it does not match its hash"
            return media if media.sha256 == sha256 else Missing(changed, sha256[:12])
        return None

    def _in_task(self, task: str, item: str, sha256: str) -> Media | None:
        if task not in self._tasks:
            self._tasks[task] = TaskMedia(task)
        return self._tasks[task].find(item, sha256)


class TaskMedia:
    """The media of a task's own data, where they are on this machine.

    Only tasks known by name are asked: a bundle may name any Python file as its task, and a report runs no code of others.
    """

    def __init__(self, name: str):
        self.name = name
        self._asked: dict[str, Mapping[str, Media]] = {}

    @cached_property
    def samples(self) -> dict[str, Any]:
        try:
            from workbench.tasks.catalogue import load_task, task_names

            if self.name not in task_names():
                return {}
            from workbench.data.loading import offline

            with offline():
                task = load_task(self.name)
                return {sample.id: (task, sample) for sample in task.load().samples}
        except Exception:  # noqa: BLE001  data that are not here, or cannot be read, are not shown; the page says so
            return {}

    def find(self, item: str, sha256: str) -> Media | None:
        if item not in self._asked:
            self._asked[item] = self._media_of(item)
        return self._asked[item].get(sha256)

    def _media_of(self, item: str) -> Mapping[str, Media]:
        if item not in self.samples:
            return {}
        task, sample = self.samples[item]
        try:
            return {media.sha256: media for media in media_in(task.ask(sample)) if isinstance(media, Media)}
        except Exception:  # noqa: BLE001  an item that cannot be asked has no media
            return {}
