"""Pictures for the page: found by hash, decoded, and made small again, so that no foreign byte reaches the page.

    thumbnails = Thumbnails(runs, budget=24_000_000)
    thumbnails.find("mmstar-sample", "17", "9f2c...")     # 0: the first picture kept, or a Missing that says why there is none

A file is only ever read through ``Media.image()``: an SVG, a polyglot or a bomb is refused there. Pictures are looked for in the
bundles' ``media/`` folders, then in the task's own data where that is on this machine; nothing is downloaded. Where every bundle
is redacted the second is not done: a report must not bring back what was taken out.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.errors import WorkbenchError
from workbench.run.bundle import Run
from workbench.types import Media

LARGEST_SIDE = 256
SMALL_SIDE = 96
"""Pictures up to this size are kept pixel by pixel and shown at twice their size."""

BUDGET_BYTES = 24_000_000
MOST_PICTURES = 4_000
MOST_FILE_BYTES = 100_000_000
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Missing:
    """Why an item has no picture on the page; ``sha256`` is its first 12 digits."""

    reason: str
    sha256: str


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page holds it: a data URL of our own making, and the size it is shown at, in CSS pixels."""

    sha256: str
    url: str
    width: int
    height: int
    pixelated: bool


ABSENT = "image not in the bundle; record it with: workbench eval ... --record media"
OVER_BUDGET = "image left out to keep this page small and quick to make"
NOT_ASKED = "images were left out of this report"
REDACTED = "image removed by redaction"


class Thumbnails:
    """The pictures of one page, each once. ``kept`` grows as items ask; earlier askers come first in the budget."""

    def __init__(self, runs: Iterable[Run], budget: int = BUDGET_BYTES, wanted: bool = True):
        self.runs, self.budget, self.wanted = list(runs), budget, wanted
        self.kept: list[Thumbnail] = []
        self.bytes = 0
        self._over_budget: set[str] = set()
        self._redacted = bool(self.runs) and all(run.manifest.get("redacted") for run in self.runs)
        self._known: dict[str, int | Missing] = {}
        self._tasks: dict[str, TaskMedia] = {}

    @property
    def left_out(self) -> int:
        """How many different pictures are not on the page because of its bounds, each counted once."""
        return len(self._over_budget - {picture.sha256 for picture in self.kept})

    def find(self, task: str, item: str, sha256: Any) -> int | Missing:
        """The number of the picture in ``kept``, or why there is none. Decides once a hash."""
        name = str(sha256)
        if name not in self._known:
            self._known[name] = self._make(task, item, name)
        return self._known[name]

    def skip(self, sha256: Any) -> int | Missing:
        """The picture's number if it is kept already; it is not made for this."""
        found = self._known.get(str(sha256))
        if found is not None:
            return found
        self._over_budget.add(str(sha256))
        return Missing(OVER_BUDGET, str(sha256)[:12])

    def _make(self, task: str, item: str, sha256: str) -> int | Missing:
        short = sha256[:12]
        if not self.wanted:
            return Missing(NOT_ASKED, short)
        if not HASH.fullmatch(sha256):
            return Missing("the bundle names no valid hash for this image", short)
        if self.bytes >= self.budget or len(self.kept) >= MOST_PICTURES:
            self._over_budget.add(sha256)
            return Missing(OVER_BUDGET, short)
        media = self._in_bundles(sha256) or (None if self._redacted else self._in_task(task, item, sha256))
        if media is None:
            return Missing(REDACTED if self._redacted else ABSENT, short)
        if isinstance(media, Missing):
            return media
        try:
            made = thumbnail(media, sha256)
        except WorkbenchError as error:
            return Missing(f"image cannot be decoded ({error.why or error.what})", short)
        except Exception as error:  # noqa: BLE001  a decoder may raise anything on a hostile file; the report goes on
            return Missing(f"image cannot be decoded ({type(error).__name__})", short)
        if self.bytes + len(made.url) > self.budget:
            self._over_budget.add(sha256)
            return Missing(OVER_BUDGET, short)
        self.bytes += len(made.url)
        self.kept.append(made)
        return len(self.kept) - 1

    def _in_bundles(self, sha256: str) -> Media | Missing | None:
        for run in self.runs:
            path = run.media(sha256)
            if path is None:
                continue
            if path.stat().st_size > MOST_FILE_BYTES:
                return Missing("the image's file is larger than 100 MB", sha256[:12])
            media = Media(data=path.read_bytes())
            return (
                media
                if media.sha256 == sha256
                else Missing("the image's file was changed: it does not match its hash", sha256[:12])
            )
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
        except Exception:  # noqa: BLE001  data that are not here, or cannot be read, are no picture; the page says so
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
            return {media.sha256: media for media in task.ask(sample).inputs.get("images", ()) if isinstance(media, Media)}
        except Exception:  # noqa: BLE001  an item that cannot be asked has no picture
            return {}


def thumbnail(media: Media, sha256: str) -> Thumbnail:
    """``media`` decoded and encoded anew: at most LARGEST_SIDE pixels a side. Raises ItemError when it cannot be decoded."""
    from PIL import Image

    picture = media.image()
    small = max(picture.size) <= SMALL_SIDE
    if not small:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=80, method=4)
    kind = "png" if small else "webp"
    url = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    scale = 2 if small else 1
    return Thumbnail(sha256, url, scale * picture.width, scale * picture.height, small)
