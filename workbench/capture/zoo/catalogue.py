"""Which families there are: those in ``families/``, and a user's own file by its path.

    for entry, layout in choose(["llava", "./mine.py"], layouts=["hub"]):
        print(entry.name, layout, entry.problem)

A file of ours that cannot be imported is an entry with a ``problem``, so that it costs its own rows and no others. A user's file is
listed by a process of its own: its code may print, hang or abort.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module, util
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from workbench.capture.zoo.family import Family
from workbench.capture.zoo.processes import ask_worker
from workbench.errors import UsageError
from workbench.fingerprint import of_file

LAYOUTS = ("hub", "v5")
MODALITIES = ("vision", "text")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
NEAR = 3


@dataclass(frozen=True)
class Entry:
    """A family as it is known before it is run: no function of its file has been called."""

    name: str
    origin: str
    """The module's name, or the absolute path of a user's file; what ``load`` takes."""
    source: str
    """SHA-256 of the family's file."""
    title: str = ""
    modality: str = "vision"
    kind: str = "logits"
    reason: str = ""
    note: str = ""
    slow: bool = False
    layouts: tuple[str, ...] = LAYOUTS
    measurable: bool = True
    """False where there is nothing to compare with: its rows are made without a process."""
    problem: str | None = None
    """Why the file cannot be used; its rows have failed before they began."""

    @property
    def typed(self) -> str:
        """As the command names it, without the folders of a user's file: they may name the user."""
        return Path(self.origin).name if self.origin.endswith(".py") else self.name


def built_in() -> list[Entry]:
    """Every family of ``workbench.capture.zoo.families`` by name; a module that does not import is an entry with a problem."""
    from workbench.capture.zoo import families as package

    found: dict[str, Entry] = {}
    for module in iter_modules(package.__path__):
        origin = f"{package.__name__}.{module.name}"
        spec = util.find_spec(origin)
        source = of_file(Path(spec.origin))
        try:
            entries = entries_of(load(origin), origin, source)
        except Exception as error:  # noqa: BLE001  another library's version may break a family's module in any way
            entries = [Entry(module.name, origin, source, problem=f"families/{module.name}.py: {brief(error)}")]
        for entry in entries:
            if entry.name in found:
                problem = f"families/{module.name}.py: another file has a family {entry.name!r}"
                found[module.name] = Entry(module.name, origin, source, problem=problem)
            else:
                found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def from_file(path: Path) -> list[Entry]:
    """The families of a user's file, listed by a process of its own. Raises UsageError where there is no such file."""
    if not path.is_file():
        raise UsageError(
            f"there is no family file {path}", why="a name that ends in .py is a file", fix="workbench zoo --family llava"
        )
    path = path.resolve()
    source = of_file(path)
    answer, why = ask_worker("list", str(path))
    if answer is not None:
        return [Entry(origin=str(path), source=source, **{**row, "layouts": tuple(row["layouts"])}) for row in answer["families"]]
    stem = path.stem if NAME.fullmatch(path.stem) else "file"
    return [Entry(stem, str(path), source, problem=f"{path.name}, imported: {why}")]


def load(origin: str) -> tuple[Family, ...]:
    """The families of a module or of a file. Raises whatever its code raises, and UsageError where it defines none."""
    if not origin.endswith(".py"):
        module = import_module(origin)
    else:
        path = Path(origin)
        name = f"workbench_family_{path.stem}_{sha256(origin.encode()).hexdigest()[:8]}"
        spec = util.spec_from_file_location(name, path)
        module = sys.modules[name] = util.module_from_spec(spec)
        spec.loader.exec_module(module)
    found = tuple(getattr(module, "FAMILIES", None) or (getattr(module, "FAMILY", None),))
    if not all(isinstance(each, Family) for each in found):
        why = "FAMILY = Family(...) or FAMILIES = (Family(...), ...)"
        raise UsageError("it defines no family", why=why, fix="see workbench.capture.zoo.family")
    return found


def entries_of(families: Sequence[Family], origin: str, source: str) -> list[Entry]:
    return [Entry(origin=origin, source=source, **described(each)) for each in families]


def described(family: Family) -> dict[str, Any]:
    """What is known of a family without calling it. Raises UsageError where a field is not what it must be."""
    if not (isinstance(family.name, str) and NAME.fullmatch(family.name)):
        raise UsageError(f"a family cannot be named {family.name!r}", why="letters, digits, _ . and - make a name, at most 60")
    layouts = tuple(family.layouts)
    if not layouts or not set(layouts) <= set(LAYOUTS):
        raise UsageError(f"{family.name} has the layouts {layouts!r}", why=f"known: {', '.join(LAYOUTS)}")
    return {
        **{name: str(getattr(family, name)) for name in ("name", "title", "modality", "kind", "reason", "note")},
        "slow": bool(family.slow),
        "layouts": layouts,
        "measurable": family.config is not None and family.cases is not None,
    }


def choose(
    families: Sequence[str | Path] | None = None, modality: str | None = None, layouts: Sequence[str] | None = None
) -> list[tuple[Entry, str]]:
    """The rows to make, (family, layout), in order: all of ours, or those named (``NAME``, ``FILE.py``, ``FILE.py::NAME``).

    Raises UsageError for what is not there, for two families of one name, and where nothing is left.
    """
    for given, known in ((layouts or (), LAYOUTS), ([modality] if modality else (), MODALITIES)):
        for each in given:
            if each not in known:
                raise UsageError(f"{each!r} is no choice", why=f"known: {', '.join(known)}")
    entries = named(families) if families else built_in()
    chosen = [
        (entry, layout)
        for entry in entries
        if modality is None or entry.modality == modality or (entry.problem and families)
        for layout in LAYOUTS
        if layout in entry.layouts and (not layouts or layout in layouts)
    ]
    if not chosen:
        raise UsageError(
            "no row is left", why="no chosen family has that modality and layout", fix="leave --modality and --layout out"
        )
    return chosen


def named(families: Sequence[str | Path]) -> list[Entry]:
    """The entries that a user named. Raises UsageError."""
    known: dict[str, Entry] = {}
    found: dict[str, Entry] = {}
    for text in dict.fromkeys(map(str, families)):
        file, _, wanted = text.partition("::")
        if file.endswith(".py"):
            entries = from_file(Path(file))
            if wanted and not entries[0].problem:
                entries = [one_of({entry.name: entry for entry in entries}, wanted, f"{Path(file).name} holds no family")]
        else:
            known = known or {entry.name: entry for entry in built_in()}
            entries = [one_of(known, text, "there is no family")]
        for entry in entries:
            if found.get(entry.name, entry) != entry:
                raise UsageError(f"two of the families are named {entry.name!r}", why="a row is named by its family and layout")
            found[entry.name] = entry
    return list(found.values())


def one_of(known: dict[str, Entry], name: str, what: str) -> Entry:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=NEAR)
    why = f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(known)}"
    raise UsageError(f"{what} {name!r}", why=why, fix=f"workbench zoo --family {near[0] if near else next(iter(known), 'FILE.py')}")


def brief(error: BaseException) -> str:
    """An error in one line, with its reason where it is one of ours."""
    text = " ".join(f"{getattr(error, 'what', error)}".split())
    why = getattr(error, "why", None)
    return (f"{text} ({why})" if why else f"{type(error).__name__}: {text}")[:300]
