"""Data cards: one TOML file a data set, that pins where it is, which revision, and which columns are read.

    card = load_card("mmmu")                      # datasets/cards/mmmu.toml
    FromCard("mmmu", to_sample).load(limit=5)     # Loaded(samples, revision, fingerprint)

A card names either a data set on the Hugging Face hub (``hub``, ``revision``, ``configs``; with ``files`` only those of its parquet
files, such as ``["{config}/test-*.parquet"]``: a configuration's other splits are not downloaded) or local files (``path``,
``files``): parquet, or JSON lines with the media as files beside them. All are read by ``workbench.data.loading``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench import locate
from workbench.errors import DataError, UsageError
from workbench.types import Loaded, Sample

COMMIT = re.compile(r"[0-9a-f]{40}")

ToSample = Callable[[Mapping[str, Any], int], Sample]
"""(row, position in the data set) -> sample. Media columns arrive as Media or None; columns that were not read are absent."""


@dataclass(frozen=True)
class Card:
    """A data set, pinned. ``ask`` and ``score`` are the columns without which a task cannot ask or score.

    ``patterns`` are the hub card's ``files``. A revision that is no commit ("to be given", a branch) is refused when rows are read.
    """

    name: str
    split: str
    licence: str
    hub: str | None = None
    configs: tuple[str | None, ...] = (None,)
    revision: str | None = None
    files: tuple[Path, ...] = ()
    url: str | None = None
    description: str = ""
    ask: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether the rows can only ever be the same ones: local files, or a commit on the hub."""
        return not self.hub or COMMIT.fullmatch(self.revision or "") is not None

    @property
    def where(self) -> str:
        """What a reader calls the data: the hub id, or the local file's name."""
        return self.hub or (self.files[0].name if self.files else self.name)


def card_names() -> list[str]:
    """Names of the cards that can be found."""
    return sorted(path.stem for path in locate.every("datasets/cards/*.toml"))


def load_card(name: str | Path) -> Card:
    """The card ``name``, or the one in the TOML file ``name``. Raises UsageError when unknown, DataError when it is wrong."""
    path = Path(name) if str(name).endswith(".toml") else locate.find(f"datasets/cards/{name}.toml")
    if path is None or not path.is_file():
        raise UsageError(
            f"unknown data card {str(name)!r}", why=f"cards: {', '.join(card_names()) or 'none'}", fix="workbench list tasks"
        )
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read data card {path.name!r}", why=str(error)) from error
    try:
        return parse_card(found, path)
    except (KeyError, TypeError) as error:
        why = f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"data card {path.name!r} is not complete", why=why) from error


def parse_card(found: Mapping[str, Any], path: Path) -> Card:
    """A card from its TOML content. ``path`` inside it is relative to the card's folder or to a root of ``locate``."""
    columns = found.get("columns", {})
    if ("hub" in found) == ("path" in found):
        raise DataError(f"data card {path.name!r} must name either hub or path")
    files: tuple[Path, ...] = ()
    if "hub" in found:
        revision = found["revision"]
        patterns = tuple(found.get("files", ()))
    else:
        patterns = ()
        revision = None
        folder = path.parent / found["path"]
        if not folder.exists():
            folder = locate.find(found["path"]) or folder
        files = tuple(folder / name for name in found["files"])
    return Card(
        name=path.stem,
        split=found["split"],
        licence=found["licence"],
        hub=found.get("hub"),
        configs=tuple(found.get("configs") or (None,)),
        revision=revision,
        files=files,
        url=found.get("url"),
        description=found.get("description", ""),
        patterns=patterns,
        **{use: tuple(columns.get(use, ())) for use in ("ask", "score", "optional", "media")},
    )


@dataclass(frozen=True)
class FromCard:
    """A task's data source: a card, and the function that makes a sample of a row."""

    name: str
    to_sample: ToSample

    @cached_property
    def card(self) -> Card:
        return load_card(self.name)

    def load(self, limit: int | None = None, sample_ids: Sequence[str] | None = None) -> Loaded:
        return load_samples(self.card, self.to_sample, limit, sample_ids)


def load_samples(card: Card, to_sample: ToSample, limit: int | None = None, sample_ids: Sequence[str] | None = None) -> Loaded:
    """The card's samples, in data order; media are opened when somebody looks.

    ``limit`` keeps the first ones (and loads no further configuration than needed), ``sample_ids`` those named.
    Raises DataError: library missing, hub unreachable, column missing, file unreadable, ids not unique or unknown.
    """
    from workbench.data.loading import fingerprint, read_rows, revision

    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}")
    rows = read_rows(card, None if sample_ids else limit)
    samples = select(make_samples(rows, to_sample, card.where), limit, sample_ids, card.where)
    whole = fingerprint(card)
    return Loaded(samples, revision(card, whole), whole)


def make_samples(rows: Sequence[Mapping[str, Any]], to_sample: ToSample, where: str) -> list[Sample]:
    """One sample a row. Raises DataError for ids that occur twice and for rows that cannot be read."""
    samples: dict[str, Sample] = {}
    repeated = []
    for position, row in enumerate(rows):
        try:
            sample = to_sample(row, position)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"column {error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"row {position} of {where} cannot be read", why=why) from error
        if sample.id in samples:
            repeated.append(sample.id)
        samples[sample.id] = sample
    if repeated:
        raise DataError(
            f"ids of {where} occur more than once ({len(repeated)})", why=f"for example {', '.join(map(repr, repeated[:3]))}"
        )
    return list(samples.values())


def select(samples: Sequence[Sample], limit: int | None, sample_ids: Sequence[str] | None, where: str) -> list[Sample]:
    """Those with ``sample_ids`` (in data order), then the first ``limit``. Raises DataError for unknown ids."""
    chosen = list(samples)
    if sample_ids:
        unknown = [name for name in sample_ids if name not in {sample.id for sample in chosen}]
        if unknown:
            like = f"ids look like {chosen[0].id!r}" if chosen else "it has no rows"
            raise DataError(f"{len(unknown)} ids are not in {where}, such as {unknown[0]!r}", why=like)
        wanted = set(sample_ids)
        chosen = [sample for sample in chosen if sample.id in wanted]
    return chosen if limit is None else chosen[:limit]
