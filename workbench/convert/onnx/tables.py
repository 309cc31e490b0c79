"""What ONNX-TensorRT's own list says of each operator, one dated table a TensorRT version (``operators/*.json``).

    table_for("11.4").words        # "operators.md of onnx/onnx-tensorrt at 7c51a63, 2026-06-24, for TensorRT 11.1"
    table_for(None).types("Gelu")  # ("FP32", "FP16", "BF16", "INT8", "INT32", "INT64"); None: listed as not supported

A table holds facts of a page (operator, yes or no, types, opsets), its restrictions in our words with the name of the check that finds
them in a graph (``workbench.convert.onnx.restrictions``), and what later release notes name. A newer page becomes one with ``from_page``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.errors import DataError, UsageError

FOLDER = Path(__file__).parent / "operators"
TYPES = ("FP64", "FP32", "FP16", "BF16", "FP8", "FP4", "INT64", "INT32", "INT8", "INT4", "UINT8", "BOOL")
HEADER = re.compile(r"TensorRT (\d+\.\d+) supports operators .*?opset (\d+) to opset (\d+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Table:
    """``operators``: name -> types in words, or None where the page says no. ``restrictions``: name -> rows of ``check`` and ``words``."""

    version: str
    opsets: tuple[int, int]
    source: Mapping[str, str]
    general: tuple[str, ...]
    operators: Mapping[str, str | None]
    restrictions: Mapping[str, list[dict[str, Any]]]
    later: tuple[Mapping[str, Any], ...]

    @property
    def words(self) -> str:
        repository = "/".join(self.source["repository"].split("/")[-2:])
        return f"{Path(self.source['file']).name} of {repository} at {self.source['commit'][:7]}, {self.source['date']}, for TensorRT {self.version}"

    def types(self, operator: str) -> tuple[str, ...] | None:
        """Of a listed operator. None where the page says no. Raises KeyError where it has no row."""
        found = self.operators[operator]
        return None if found is None else tuple(found.split())

    def added_later(self, operator: str) -> Mapping[str, Any] | None:
        """The later release whose notes name the operator."""
        return next((row for row in self.later if operator in row["operators"]), None)


def number(version: str) -> tuple[int, int]:
    """``"10.15.1"`` -> (10, 15). Raises UsageError for what is no version."""
    found = re.fullmatch(r"v?(\d+)(?:\.(\d+))?(?:\.\d+)*", version.strip())
    if not found:
        raise UsageError(f"{version!r} is no version of TensorRT", fix=f"--for {versions()[-1]}")
    return int(found[1]), int(found[2] or 0)


@cache
def versions() -> tuple[str, ...]:
    """Of the tables that are here, the oldest first."""
    return tuple(sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: tuple(map(int, name.split(".")))))


@cache
def read(version: str) -> Table:
    value = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    low, high = value["opsets"]
    return Table(
        value["tensorrt"],
        (low, high),
        value["source"],
        tuple(value["general"]),
        value["operators"],
        value["restrictions"],
        tuple(value["later"]),
    )


def table_for(version: str | None) -> Table:
    """The newest table that is not newer than ``version`` (None: the newest). Raises UsageError where all are newer."""
    asked = number(version) if version is not None else (10**6, 0)
    fitting = [name for name in versions() if number(name) <= asked]
    if not fitting:
        raise UsageError(
            f"there is no table for TensorRT {version}",
            why=f"the tables here are for {', '.join(versions())}",
            fix=f"--for {versions()[0]}",
        )
    return read(fitting[-1])


def from_page(text: str, source: Mapping[str, str]) -> dict[str, Any]:
    """A table as JSON of the text of ``docs/operators.md``; restrictions come without checks, in the page's words: say them in your own.

    ``source``: repository, file, commit, date, licence. Raises DataError where the page is built otherwise.
    """
    header = HEADER.search(text)
    if not header:
        raise DataError(
            "this is no list of ONNX-TensorRT's operators", why="it has no sentence with a version and a range of opsets"
        )
    operators: dict[str, str | None] = {}
    restrictions: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) < 2 or not re.fullmatch(r"[A-Z]\w*", cells[0]) or cells[1][:1] not in ("Y", "N"):
            continue
        listed = cells[1].startswith("Y")
        named = re.findall(r"\w+", cells[2].replace("DOUBLE", "FP64")) if listed and len(cells) > 2 else []
        operators[cells[0]] = " ".join(name for name in named if name in TYPES) if listed else None
        if len(cells) > 3 and cells[3]:
            restrictions[cells[0]] = [{"check": None, "words": cells[3]}]
    if not operators:
        raise DataError("this is no list of ONNX-TensorRT's operators", why="it has no row with Y or N")
    opsets = [int(header[2]), int(header[3])]
    return {
        "tensorrt": header[1],
        "opsets": opsets,
        "source": dict(source),
        "general": [],
        "operators": operators,
        "restrictions": restrictions,
        "later": [],
    }
