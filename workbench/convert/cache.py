"""Models converted on first use: ``demo:vlm@coreml`` becomes a folder in the user's cache, made once for all processes.

    cached(converter, subject_of("demo:vlm"), recipe, say).folder     # .../coreml/demo-vlm-3f0c.../, converted now or found

An entry's name holds a hash of all that it was made from (contents of the source, recipe, versions), so another recipe or an upgraded
library has another entry. An entry that was damaged is set aside and made again.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from workbench.convert.building import Built, Converter, Say, mismatch, wanted
from workbench.convert.drafts import remove_stale
from workbench.convert.subject import Subject
from workbench.errors import ModelError
from workbench.fingerprint import of_json
from workbench.models.converted import Converted
from workbench.user_cache import ELSEWHERE, cache_folder, made_by_one

KEPT = "a converted model is kept there"


def cached(converter: Converter, subject: Subject, recipe: Any, say: Say) -> Built:
    """The converted folder of ``subject``; converted and checked now where it is not here yet.

    Two processes that ask for the same convert it once. Raises as the converter's ``build``: ModelError also for a cache that cannot be
    written, DifferentModel for a conversion that is not the model.
    """
    entry = entry_of(converter, subject, recipe)
    asked = wanted(subject, recipe, converter)
    found = _whole(entry, asked)
    if found is not None:  # a cache that can only be read serves what it holds
        return Built(found, True)
    with made_by_one(entry, f"converting {subject.name}", KEPT, say):
        found = _whole(entry, asked)
        if found is not None:
            return Built(found, True)
        _set_aside(entry, say)
        remove_stale(entry.parent)
        made = converter.build(subject, entry, recipe, say=say, elsewhere=ELSEWHERE)
        say(f"converted {subject.name} for {converter.words} ({recipe.label}): {made.artifact.size_bytes:,} bytes, kept in {entry}")
        return made


def entry_of(converter: Converter, subject: Subject, recipe: Any) -> Path:
    """The folder of an entry, there or not."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", subject.name).strip("-.")[:60] or "model"
    return cache_folder(converter.name) / f"{name}-{of_json(wanted(subject, recipe, converter), 16)}"


def _whole(entry: Path, asked: dict[str, Any]) -> Converted | None:
    """The entry, when it is there, whole and all that was asked for."""
    try:
        found = Converted(entry)
    except ModelError:
        return None
    return found if mismatch(found, asked) is None else None


def _set_aside(entry: Path, say: Say) -> None:
    """Rename an entry that is not whole; one such is kept, to be looked at."""
    if not os.path.lexists(entry):
        return
    aside = entry.with_name(f"{entry.name}.damaged")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    elif os.path.lexists(aside):
        aside.unlink()
    os.rename(entry, aside)
    say(f"{entry.name} was damaged: set aside as {aside}, converting again")
