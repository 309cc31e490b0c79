"""A data set in a folder: rows in JSON lines files, pictures and sounds beside them.

    read_local(load_card("asr-sample"))      # [{"id": "0001", "audio": Media(audio, ...), "text": "turn it off"}, ...]

A card may come from somebody else, so a row's path never leads out of the data set's folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from workbench import fingerprint as hashing
from workbench.data.card import Card
from workbench.data.rows import inside, read_json_lines
from workbench.errors import DataError
from workbench.types import Media


def kind_of(column: str) -> str:
    """What a media column holds when the data does not say: sound in one named ``audio``, pictures in any other."""
    return "audio" if column == "audio" else "image"


def is_local(card: Card) -> bool:
    """Whether the card's rows are JSON lines. Raises DataError when its files are of several kinds."""
    kinds = {file.suffix == ".jsonl" for file in card.files}
    if len(kinds) > 1:
        raise DataError(f"data card {card.name!r} mixes .jsonl with other files", why="one data set is read in one way")
    return kinds == {True}


def read_local(card: Card, limit: int | None = None) -> list[dict[str, Any]]:
    """The card's rows in the order of its files, media as Media or None. Raises DataError."""
    rows: list[dict[str, Any]] = []
    needed = tuple(dict.fromkeys((*card.ask, *card.score)))
    for file in card.files:
        for number, row in read_json_lines(file):
            missing = [name for name in needed if name not in row]
            if missing:
                raise DataError(
                    f"line {number} of {file.name!r} lacks the column {', '.join(map(repr, missing))}",
                    why=f"it has: {', '.join(row)}",
                    fix="check the card's columns",
                )
            rows.append(row)
            for name in card.media:
                if name in row:
                    row[name] = media_of(row[name], name, file, number)
    absent = sorted({str(row[name].path) for row in rows for name in card.media if row.get(name) and not row[name].path.is_file()})
    if absent:
        raise DataError(
            f"{len(absent)} media files of {card.name} are not here", why=f"such as {Path(absent[0]).name!r}", fix="git lfs pull"
        )
    return rows if limit is None else rows[:limit]


def media_of(value: Any, column: str, file: Path, number: int) -> Media | None:
    if value is None:
        return None
    where = f"line {number} of {file.name!r}, column {column!r}"
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: a path is needed, not {type(value).__name__ if not isinstance(value, str) else 'an empty text'}")
    return Media(path=inside(file.parent, value, where), kind=kind_of(column))


def fingerprint(card: Card) -> str:
    """One hash over the rows' files and the media that they name."""
    media = {row[name].path for row in read_local(card) for name in card.media if row.get(name)}
    folder = card.files[0].parent
    named = sorted((Path(os.path.relpath(path, folder)).as_posix(), path) for path in media)
    return hashing.of_json(
        [[hashing.of_file(file) for file in card.files], [[name, hashing.of_file(path)] for name, path in named]]
    )
