"""Hashes that say whether two things are the same: files, folders, JSON values, library versions.

>>> of_json({"b": 1, "a": 2}) == of_json({"a": 2, "b": 1})
True
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any


def of_json(value: Any, length: int = 64) -> str:
    """SHA-256 (hex, first ``length`` digits) of the canonical JSON text of ``value``."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_folder(folder: Path, suffixes: Iterable[str] | None = None) -> str:
    """One hash over the names and bytes of a folder's files (only those with ``suffixes``, if given), hidden files left out."""
    wanted = None if suffixes is None else set(suffixes)
    rows = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (
            path.is_file()
            and not any(part.startswith(".") for part in relative.parts)
            and (wanted is None or path.suffix in wanted)
        ):
            rows.append([relative.as_posix(), of_file(path)])
    return of_json(rows)


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions by distribution name; those not installed are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
