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
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.report.embedding import Embedded, Missing, TaskMedia, Words
from workbench.run.bundle import Run
from workbench.types import Media

LARGEST_SIDE = 256
SMALL_SIDE = 96
"""Pictures up to this size are kept pixel by pixel and shown at twice their size."""

BUDGET_BYTES = 24_000_000
MOST_PICTURES = 4_000
__all__ = ["Missing", "TaskMedia", "Thumbnail", "Thumbnails", "thumbnail"]


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page holds it: a data URL of our own making, and the size it is shown at, in CSS pixels."""

    sha256: str
    url: str
    width: int
    height: int
    pixelated: bool


IMAGE = Words("image", "images were")
ABSENT, OVER_BUDGET, NOT_ASKED, REDACTED = IMAGE.absent, IMAGE.over_budget, IMAGE.not_asked, IMAGE.redacted


class Thumbnails(Embedded):
    """The pictures of one page, each once. ``kept`` grows as items ask; earlier askers come first in the budget."""

    words = IMAGE
    most = MOST_PICTURES

    def __init__(self, runs: Iterable[Run], budget: int = BUDGET_BYTES, wanted: bool = True):
        super().__init__(runs, budget, wanted)

    def made(self, media: Media, sha256: str) -> Thumbnail:
        return thumbnail(media, sha256)


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
