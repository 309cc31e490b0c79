"""Do a bundle's files hold what a comparison reads? Values of another kind are an error with a name, never a traceback.

    check(run)                      # BundleError: results.json of mmmu-... is damaged / why: performance.item_seconds is no mapping
    check_line(run, 7, line)        # the same of one item

Checked once, when a side is read: the rungs then take the fields as they are documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from workbench.errors import BundleError
from workbench.fingerprint import of_json
from workbench.run.bundle import Run
from workbench.run.lines import problem


@dataclass(frozen=True)
class Maybe:
    """The field may be absent or null."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """A mapping with any names, whose values all have one shape."""

    shape: Any


NUMBER = float
SIZE = "size"
"""A number of bytes. Weights may hold any number that a float can (the smallest of float32 as a mask, say); a size is drawn and printed."""
LARGEST_SIZE = 1e30
NUMBERS = Maybe(Each(Maybe(NUMBER)))

MANIFEST = {
    "status": str,
    "run_key": str,
    "n": int,
    "evidence": str,
    "key": {
        "task": dict,
        "data": {"fingerprint": Maybe(str)},
        "model": {"weights": Maybe(str), "size_bytes": Maybe(SIZE)},
        "backend": {"name": str},
        "options": dict,
        "generation": dict,
        "libraries": dict,
    },
    "asked": {"shard": Maybe(str)},
    "task": {"name": str, "scorer": str},
    "model": {"text": str},
    "mixed_fields": Maybe([str]),
    "merged": Maybe([{"run_key": str}]),
}
ENVIRONMENT = Maybe([{"hardware_key": Maybe(str), "gpus": Maybe(list)}])
RESULTS = Maybe(
    {
        "scorer": Maybe(str),
        "performance": Maybe(
            {
                **dict.fromkeys(
                    (
                        *("n", "cold_start_seconds", "load_seconds", "items_per_second", "tokens_per_second", "peak_memory_bytes"),
                        *("audio_seconds", "rtf", "rtfx"),
                    ),
                    Maybe(NUMBER),
                ),
                **dict.fromkeys(("item_seconds", "first_token_seconds"), NUMBERS),
            }
        ),
    }
)
TENSOR = {"dtype": str, "shape": [int], "hash": str, "rms": Maybe(NUMBER), "error": Maybe(NUMBER)}
OF_A_WEIGHT = ("half", "single", "turned", "of", "how", "kind", "compression", "asked", "why_not", "value", "op", "module", "line")
SCALE = {"value": str, "recorded": NUMBER, "found": NUMBER}
OP = {"value": str, "op": str, "dtype": Maybe(str), "module": Maybe(str), "line": Maybe(str)}
CONVERTED = {
    "label": Maybe(str),
    "recipe": Maybe(dict),
    "stages": Maybe(Each({"computes": Maybe(Each(int)), "others": Maybe(int), "other": Maybe([OP]), "scales": Maybe([SCALE])})),
}
ARTIFACT = Maybe(
    {
        "bytes": Maybe(SIZE),
        "tensors": Maybe(
            Each(
                TENSOR
                | dict.fromkeys(OF_A_WEIGHT, Maybe(str))
                | {"stored_bytes": Maybe(SIZE), "dense_bytes": Maybe(SIZE), "stages": Maybe([str])}
            )
        ),
        "converted": Maybe(CONVERTED),
        "settings": Maybe(Each(Maybe(dict))),
        "quantisation": Maybe(dict),
    }
)
EVENT = {"event": str, "model": Maybe(dict)}
WORDS: dict[Any, str] = {str: "text", int: "whole number", NUMBER: "finite number", SIZE: "finite number", dict: "mapping", list: "list"}


def misfit(value: Any, shape: Any, path: str = "") -> str | None:
    """What does not fit, by its path: ``"key.data is no mapping"``; None when all does. Fields that are not named may be anything."""
    here = path or "it"
    if isinstance(shape, Maybe):
        return None if value is None else misfit(value, shape.shape, path)
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return f"{here} is no mapping"
        parts = ((value.get(name), each, name) for name, each in shape.items())
    elif isinstance(shape, Each):
        if not isinstance(value, Mapping):
            return f"{here} is no mapping"
        parts = ((item, shape.shape, str(name)) for name, item in value.items())
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{here} is no list"
        parts = ((item, shape[0], str(place)) for place, item in enumerate(value))
    else:
        kinds = (int, float) if shape in (NUMBER, SIZE) else shape
        fits = isinstance(value, kinds) and not isinstance(value, bool) and not (isinstance(value, float) and not isfinite(value))
        if fits and shape is SIZE and abs(value) > LARGEST_SIZE:
            return f"{here} is too large"
        return None if fits else f"{here} is {'missing' if value is None else f'no {WORDS[shape]}'}"
    return next((found for item, each, name in parts if (found := misfit(item, each, f"{path}.{name}" if path else name))), None)


def check(run: Run) -> None:
    """Everything of a bundle but its items. Raises BundleError naming file and field."""
    try:
        of_json(run.manifest)
    except ValueError as error:
        raise damaged(run, "manifest.json", f"it holds a number that is none ({error})") from error
    for file, value, shape in (
        ("manifest.json", run.manifest, MANIFEST),
        ("environment.json", run.environment, ENVIRONMENT),
        ("results.json", run.results, RESULTS),
        ("artifact.json", run.artifact, ARTIFACT),
        ("events.jsonl", run.events(), [EVENT]),
    ):
        why = misfit(value, shape)
        if why is not None:
            raise damaged(run, file, why)


def check_line(run: Run, number: int, line: Mapping[str, Any]) -> None:
    """One item, ``number`` counting from 1. Raises BundleError."""
    why = problem(line) or about_seen((line.get("input") or {}).get("seen")) or about_capture(line.get("capture"))
    if why is None and "value" not in line["score"]:
        why = "score.value is missing"
    if why is not None:
        raise damaged(run, "samples.jsonl", f"line {number}: {why}")


def about_seen(found: Any) -> str | None:
    """Written out, because it is asked of every item."""
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("prompt", 0), str | None):
        return "input.seen holds no prompt"
    tokens, arrays = found.get("tokens"), found.get("arrays")
    if not (isinstance(tokens, dict) and isinstance(tokens.get("n"), int) and isinstance(tokens.get("hash"), str)):
        return "input.seen.tokens is no number and hash"
    if not isinstance(arrays, dict) or not all(map(is_array, arrays.values())):
        return "input.seen.arrays holds what is no array's hash, shape and dtype"
    return None


def about_capture(found: Any) -> str | None:
    """What a capture says of its causality probe."""
    return misfit(found, Maybe({"causality": Maybe({"moved": NUMBER, "largest": NUMBER})}), "capture")


def is_array(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("hash"), str)
        and isinstance(found.get("shape"), list)
        and isinstance(found.get("dtype"), str)
    )


def damaged(run: Run, file: str, why: str) -> BundleError:
    return BundleError(f"{file} of {run.name} is damaged", why=why, fix=f"workbench verify {run.name} says what else is")
