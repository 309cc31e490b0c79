"""What a kit says of itself: the machine, the steps that were run there, how each ended, and what was not there to run.

    kit = parse(Path("kit.json").read_bytes())
    kit.runs            # ('mmmu-sample-demo-vlm-torch-...', ...): its bundles in the order of its plan, the reference first
    kit.failed          # the steps that did not end well: a runtime's abort is a result too

A kit (``workbench kit``) is a zip of bundles with ``kit.json`` and ``README.txt`` beside them. Nothing here names a host, a user or a
place on a disk. A foreign kit's record is hostile until ``parse`` has read it: unknown fields are dropped, the others have a type and a length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.errors import BundleError

FORMAT = 1
KIT_FILE, README_FILE = "kit.json", "README.txt"
BESIDE_BUNDLES = (KIT_FILE, README_FILE)
MAX_RECORD_BYTES = 4 * 2**20
MAX_README_BYTES = 2**16

COMPLETE, ITEM_ERRORS, FAILED, ABORTED, NOT_HERE = "complete", "item errors", "failed", "aborted", "not here"
STATUSES = (COMPLETE, ITEM_ERRORS, FAILED, ABORTED, NOT_HERE)
"""How a step ended. ``aborted``: its process died of a signal. ``not here``: it found its runtime missing."""
WITH_RUNS = (COMPLETE, ITEM_ERRORS)

LONGEST_TEXT = 2_000
LONGEST_LIST = 1_000
MAX_LINES = 40
BUNDLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}")
"""As the reader of zips allows a bundle's folder."""

MACHINE: dict[str, type] = {
    "cpu": str,
    "cores": int,
    "memory_bytes": int,
    "system": str,
    "system_release": str,
    "machine": str,
    "python": str,
    "hardware_key": str,
}
GPU: dict[str, type] = {"name": str, "memory_bytes": int, "driver": str}


@dataclass(frozen=True)
class Runtime:
    """A runtime that is not on that machine: why, and what to type to have it."""

    name: str
    reason: str
    fix: str | None = None


@dataclass(frozen=True)
class Step:
    """One command of a kit and how it ended. ``stderr``: its last lines, where it did not end well; paths and names are taken out."""

    name: str
    what: str
    model: str
    command: str
    status: str
    exit_code: int | None = None
    signal: str | None = None
    stderr: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def ended(self) -> str:
        """``SIGABRT``, ``exit code 2``; empty where all is well."""
        if self.status == COMPLETE:
            return ""
        return self.signal or (f"exit code {self.exit_code}" if self.exit_code is not None else "")


@dataclass(frozen=True)
class Kit:
    """The whole record. ``items``: by model, how many of each set were asked; None for all of them."""

    workbench: str
    items: Mapping[str, int | None]
    machine: Mapping[str, Any]
    libraries: Mapping[str, str]
    steps: tuple[Step, ...]
    not_here: tuple[Runtime, ...] = ()
    left_out: tuple[str, ...] = field(default=())
    """Steps that the maker did not want (``--only``, ``--skip``)."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the bundles, each once, in the order of the steps."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.runs))

    @property
    def failed(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.status != COMPLETE)

    @property
    def machine_text(self) -> str:
        """``Apple M4 Max GPU, Apple M4 Max, 16 cores, 69 GB, Darwin 15.1``."""
        known = self.machine
        parts = [*(gpu["name"] for gpu in known.get("gpus", ()) if gpu.get("name")), known.get("cpu")]
        parts += [f"{known['cores']} cores"] if known.get("cores") else []
        parts += [f"{known['memory_bytes'] / 1e9:.0f} GB"] if known.get("memory_bytes") else []
        parts.append(" ".join(filter(None, (known.get("system"), known.get("system_release")))))
        return ", ".join(filter(None, parts)) or "unknown machine"

    @property
    def summary(self) -> str:
        """``24 of 26 steps complete; of each set 50 items (vlm), 140 (stt); made with workbench 0.1.0``."""
        done = len(self.steps) - len(self.failed)
        return f"{done} of {len(self.steps)} steps complete; {items_text(self.items)}; made with workbench {self.workbench}"

    def encode(self) -> bytes:
        """``kit.json``: the same kit gives the same bytes."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def items_text(items: Mapping[str, int | None]) -> str:
    """``of each set 50 items (vlm), 140 items (stt)``."""
    counts = set(items.values())
    if len(counts) == 1:
        return f"of each set {count_text(next(iter(counts)))}"
    return "of each set " + ", ".join(f"{count_text(count)} ({model})" for model, count in items.items())


def count_text(count: int | None) -> str:
    return "all items" if count is None else f"{count} {'item' if count == 1 else 'items'}"


def parse(content: bytes, name: str = KIT_FILE) -> Kit:
    """The record in the bytes of a ``kit.json``. Raises BundleError: damaged, of another shape, or of a newer format."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or not is_a(found.get("format"), int) or found["format"] < 1:
            raise ValueError("it names no format")
        if found["format"] > FORMAT:
            raise BundleError(
                f"{name} was written by a newer workbench",
                why=f"its format is {found['format']}, this version reads up to {FORMAT}",
                fix="pip install --upgrade parity-workbench",
            )
        return read(found)
    except (ValueError, RecursionError, UnicodeError) as error:
        raise BundleError(f"{name} is no record of a kit", why=str(error)[:LONGEST_TEXT], fix="ask for the zip again") from error


def read(found: Mapping[str, Any]) -> Kit:
    items = typed(found, "items", dict)
    counts = {name: optional(items, name, int) for name in items}
    if (
        not 0 < len(items) <= LONGEST_LIST
        or not all(map(is_text, items))
        or any(count is not None and count < 1 for count in counts.values())
    ):
        raise ValueError("items is no table of numbers of items")
    libraries = typed(found, "libraries", dict)
    if len(libraries) > LONGEST_LIST or not all(is_text(each) for pair in libraries.items() for each in pair):
        raise ValueError("libraries is no table of versions")
    kit = Kit(
        typed(found, "workbench", str),
        counts,
        read_machine(typed(found, "machine", dict)),
        dict(libraries),
        tuple(read_step(each) for each in rows(found, "steps")),
        tuple(
            Runtime(typed(each, "name", str), typed(each, "reason", str), optional(each, "fix", str))
            for each in rows(found, "not_here")
        ),
        texts(found, "left_out"),
    )
    if not kit.steps:
        raise ValueError("it names no step")
    return kit


def read_machine(found: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: value for name, kind in MACHINE.items() if (value := optional(found, name, kind)) is not None}
    gpus = rows(found, "gpus") if "gpus" in found else []
    made["gpus"] = [{name: value for name, kind in GPU.items() if (value := optional(gpu, name, kind)) is not None} for gpu in gpus]
    return made


def read_step(found: Mapping[str, Any]) -> Step:
    status = typed(found, "status", str)
    if status not in STATUSES:
        raise ValueError(f"a step's status is {status[:40]!r}")
    runs = texts(found, "runs")
    if not all(BUNDLE_NAME.fullmatch(name) for name in runs):
        raise ValueError("a step names a run that no bundle can have")
    words = [typed(found, name, str) for name in ("name", "what", "model", "command")]
    stderr = texts(found, "stderr", MAX_LINES)
    return Step(*words, status, optional(found, "exit_code", int), optional(found, "signal", str), stderr, runs)


def is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def is_text(value: Any) -> bool:
    """Short enough, and writable: JSON may spell half a character, which no file can hold."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and not any("\ud800" <= each <= "\udfff" for each in value)


def typed(found: Any, name: str, kind: type) -> Any:
    """The field, of its type; texts no longer than ``LONGEST_TEXT``. Raises ValueError naming it."""
    value = found.get(name) if isinstance(found, Mapping) else None
    if not is_a(value, kind) or (kind is str and not is_text(value)):
        raise ValueError(f"{name} is missing or not of its type")
    if kind is int and abs(value) >= 2**63:
        raise ValueError(f"{name} is too large")
    return value


def optional(found: Any, name: str, kind: type) -> Any:
    return None if isinstance(found, Mapping) and found.get(name) is None else typed(found, name, kind)


def rows(found: Mapping[str, Any], name: str) -> list[Any]:
    value = typed(found, name, list)
    if len(value) > LONGEST_LIST or not all(isinstance(each, Mapping) for each in value):
        raise ValueError(f"{name} is no list of records")
    return value


def texts(found: Mapping[str, Any], name: str, most: int = LONGEST_LIST) -> tuple[str, ...]:
    value = typed(found, name, list)
    if len(value) > most or not all(map(is_text, value)):
        raise ValueError(f"{name} is no list of texts")
    return tuple(value)
