"""What every conversion to a folder of programs shares: what it was made from, whether one that is there is it, and writing it whole.

    asked = wanted(subject, recipe, converter)
    if os.path.lexists(out):
        return Built(existing(out, asked, check=True), reused=True)
    written(out, subject, asked, room=3, elsewhere="--out ANOTHER-FOLDER", fill=fill)      # fill(folder) -> the rest of the manifest

``converted.json`` (read by ``workbench.models.converted``) says what a folder was made from; one that is there already is used again only
when all of that is what was asked for.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench import __version__
from workbench.convert.comparing import example_feeds
from workbench.convert.drafts import draft, publish
from workbench.convert.subject import Subject
from workbench.errors import ModelError, UsageError
from workbench.fingerprint import versions
from workbench.models.converted import FORMAT, MANIFEST, Converted, is_converted

if TYPE_CHECKING:
    from workbench.convert.stages.stage import StageSet

Say = Callable[[str], None]
Feeds = dict[str, list[dict[str, Any]]]
MakeFeeds = Callable[["StageSet"], tuple[Feeds, str]]
"""Inputs of every stage, and what they are in words."""


@dataclass(frozen=True)
class Built:
    """``reused``: the folder was there, exactly as asked for. ``kept``: ops that stay fp32, by stage."""

    artifact: Converted
    reused: bool
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.artifact.folder


class Converter(Protocol):
    """One kind of programs. ``name`` is a manifest's runtime, ``words`` what people call it; ``number`` is raised whenever a change can
    change what is written; ``libraries``: whose versions can."""

    name: str
    words: str
    number: int
    libraries: tuple[str, ...]

    def build(self, subject: Subject, out: Path, recipe: Any, *, say: Say, elsewhere: str) -> Built: ...


def wanted(subject: Subject, recipe: Any, converter: Converter) -> dict[str, Any]:
    """What an artifact must have been made from to be used for this: contents of the source, recipe, versions."""
    return {
        "source": {"weights": subject.weights, "config": subject.config},
        "recipe": recipe.to_json(),
        "versions": {"workbench": __version__, "converter": converter.number, **versions(converter.libraries)},
    }


def mismatch(artifact: Converted, asked: Mapping[str, Any]) -> str | None:
    """The first thing that an artifact was made from and that was not asked for, in words; None where all is the same."""
    for part in ("source", "recipe", "versions"):
        held = artifact.manifest.get(part) or {}
        for name in dict.fromkeys([*asked[part], *(held if part != "source" else ())]):
            before, now = held.get(name), asked[part].get(name)
            if before != now:
                if part == "source":
                    return f"it was made from other {'weights' if name == 'weights' else 'settings'} ({held.get('name')})"
                return (
                    f"its {name} is {before!r}, and {now!r} was asked for"
                    if part == "recipe"
                    else f"it was made by {name} {before}, here is {now}"
                )
    return None


def existing(out: Path, asked: Mapping[str, Any], check: bool) -> Converted:
    """The folder that is there, when it is what was asked for. Raises UsageError, and ModelError for a damaged one."""
    if not is_converted(out):
        raise UsageError(f"{out} is there already", why="nothing is written over it", fix="--out ANOTHER-FOLDER")
    try:
        found = Converted(out)
    except ModelError as error:
        raise ModelError(
            f"{out} is there already and damaged: {error.what}", why=error.why, fix="--out ANOTHER-FOLDER, or remove it"
        ) from error
    why = mismatch(found, asked)
    if why is None and check and not found.check:
        why = "it was converted with --no-check"
    if why:
        raise UsageError(f"{out} is there already, and is another conversion", why=why, fix="--out ANOTHER-FOLDER")
    return found


def written(
    out: Path,
    subject: Subject,
    asked: Mapping[str, Any],
    *,
    runtime: str,
    room: int,
    elsewhere: str,
    fill: Callable[[Path], tuple[StageSet, dict[str, Any]]],
) -> Converted:
    """Fill a draft of ``out``, add settings files and manifest, and publish it. ``fill(folder)`` writes the programs and returns (the torch
    stages, the further fields of the manifest). ``room``: bytes needed, as times of the source's.

    Raises UsageError, ModelError and what ``fill`` raises; nothing of the folder stays then.
    """
    with draft(out, room * subject.bytes, elsewhere) as folder:
        stages, more = fill(folder)
        files = subject.copy_settings(folder)
        manifest = {
            "format": FORMAT,
            "runtime": runtime,
            "family": stages.family,
            "architecture": stages.architecture,
            **asked,
            "source": subject.source(),
            "sizes": stages.sizes,
            "files": files,
            **more,
        }
        text = json.dumps(finite(manifest), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        publish(folder, out)
    return Converted(out)


def finite(value: Any) -> Any:
    """JSON has no infinities: an error that is infinite or no number is null."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_patterns(
    patterns: Sequence[str], kept: Mapping[str, Sequence[Mapping[str, Any]]], layers: Iterable[str], type_name: str
) -> None:
    """Raises UsageError for one of ``keep_fp32`` that kept no op of any stage. ``layers``: those there are; ``type_name``: an op type."""
    used = {row["pattern"] for rows in kept.values() for row in rows}
    known = list(dict.fromkeys(layers))
    for pattern in patterns:
        if pattern not in used:
            near = get_close_matches(pattern, known, n=3) or known[:3]
            raise UsageError(
                f"--keep-fp32 {pattern!r} keeps nothing",
                why=f"no stage has an op type, layer or value of that name; layers: {', '.join(near)} ...",
                fix=f"a type such as {type_name}, a layer or a value's name, with * for anything",
            )


def random_feeds(stages: StageSet) -> tuple[Feeds, str]:
    """Inputs for where no request is at hand, and what they are."""
    return example_feeds(stages), "seeded random inputs"


def on_stderr(text: str) -> None:
    """Progress for people."""
    print(text, file=sys.stderr, flush=True)
