"""Predictions made elsewhere: JSON lines of ``{"id", "response"[, "extraction"]}``, matched to items.

predictions = read_predictions(Path("answers.jsonl"))          # {"validation_Art_1": Response("B"), ...}
matched = match(predictions, ["validation_Art_1", ...])        # raises DataError for what does not fit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.data.rows import read_json_lines
from workbench.errors import DataError
from workbench.types import Response

ID_NAMES = ("id", "index", "pid")
NAMED = 3


def read_predictions(path: Path) -> dict[str, Response]:
    """Responses by item id. Raises DataError: no file, broken line (named), field missing, not text, id given twice."""
    if not path.is_file():
        raise DataError(f"there is no predictions file {str(path)!r}", why='it holds lines like {"id": "1", "response": "B"}')
    found: dict[str, Response] = {}
    repeated: list[str] = []
    for number, line in read_json_lines(path):
        key = next((name for name in ID_NAMES if name in line), None)
        if key is None or "response" not in line:
            lacking = "'id'" if key is None else "'response'"
            raise DataError(f"line {number} of {path.name!r} lacks {lacking}", why=f"it has: {', '.join(line) or 'nothing'}")
        name, response, extraction = line[key], line["response"], line.get("extraction")
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise DataError(f"line {number} of {path.name!r}: {key} must be text or an integer, not {name!r}")
        if not isinstance(response, str):
            raise DataError(
                f"line {number} of {path.name!r}: response must be text, not {kind(response)}", why=f"of item {str(name)!r}"
            )
        if extraction is not None and (isinstance(extraction, bool) or not isinstance(extraction, (str, int, float, list))):
            raise DataError(f"line {number} of {path.name!r}: extraction must be text or a number, not {kind(extraction)}")
        if str(name) in found:
            repeated.append(str(name))
        found[str(name)] = Response(response, None if extraction is None else str(extraction))
    if repeated:
        raise DataError(f"{items(len(repeated))} {have(len(repeated))} more than one prediction", why=f"ids: {listing(repeated)}")
    if not found:
        raise DataError(f"{path.name!r} holds no predictions")
    return found


def match(predictions: Mapping[str, Response], ids: Sequence[str], *, partial: bool = False) -> dict[str, Response]:
    """The predictions in item order. Raises DataError for those without an item and, unless ``partial``, items without one."""
    known = set(ids)
    unknown = [name for name in predictions if name not in known]
    missing = [name for name in ids if name not in predictions]
    problems, hints = [], []
    if unknown:
        problems.append(f"{len(unknown)} {'prediction has' if len(unknown) == 1 else 'predictions have'} no item")
        hints.append(f"unknown ids: {listing(unknown)}; item ids look like {ids[0]!r}")
    if missing and not partial:
        problems.append(f"{items(len(missing))} {have(len(missing))} no prediction")
        hints.append(f"missing ids: {listing(missing)}")
    if problems:
        fix = "--partial scores only what is there" if missing and not partial and not unknown else None
        raise DataError(" and ".join(problems), why="; ".join(hints), fix=fix)
    found = {name: predictions[name] for name in ids if name in predictions}
    if not found:
        raise DataError("no item has a prediction")
    return found


def listing(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(map(repr, names[:NAMED]))
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def have(count: int) -> str:
    return "has" if count == 1 else "have"


def kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
