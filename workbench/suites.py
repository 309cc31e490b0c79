"""Suites: named lists of tasks, one TOML file each in ``evals/``.

    load_suite("demo").tasks      # ('mmmu-sample', 'mmstar-sample', 'ocrbench-sample', 'mathvista-sample')

A suite file holds ``description = "..."`` and ``tasks = ["...", ...]``; its name is the file's.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from workbench import locate
from workbench.errors import DataError, UsageError


@dataclass(frozen=True)
class Suite:
    """Tasks that are run together, by name or path."""

    name: str
    description: str
    tasks: tuple[str, ...]


def suite_names() -> list[str]:
    """Names of the suites that can be found."""
    return sorted({path.stem for path in locate.every("evals/*.toml") if "tasks" in read_toml(path)})


def load_suite(name: str) -> Suite:
    """The suite ``name``, or the one in the TOML file ``name``. Raises UsageError (unknown) or DataError (unreadable)."""
    path = Path(name) if name.endswith(".toml") and Path(name).is_file() else locate.find(f"evals/{name}.toml")
    if path is None:
        raise UsageError(
            f"unknown suite {name!r}", why=f"suites: {', '.join(suite_names()) or 'none'}", fix="workbench list suites"
        )
    found = read_toml(path)
    tasks = found.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise DataError(f"suite file {path.name!r} names no tasks", why='it needs tasks = ["name", ...]')
    return Suite(path.stem, str(found.get("description", "")), tuple(tasks))


def read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read {path.name!r}", why=str(error)) from error
