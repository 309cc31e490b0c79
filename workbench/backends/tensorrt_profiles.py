"""Optimisation profiles: the least, typical and most sizes of every input that an engine is built for.

    profiles_of(file, "")                                        # from the ranges that the conversion wrote into the file
    profiles_of(file, "T:1/64/512")                              # by the names of the sizes
    profiles_of(file, "tokens:1x2,1x64,1x512;mask:1x2,1x64,1x512")  # by input
    profiles_of(file, "T:1/1/1|T:2/64/512")                      # two profiles: the first that takes an input runs it

TensorRT needs one wherever a size may vary (NVIDIA/TensorRT python/docstrings/infer/pyCoreDoc.h at a892d22, ``IOptimizationProfile``). An
input whose own values decide shapes is given those values in the place of its sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.backends.onnx_file import OnnxFile
from workbench.errors import UsageError

SIZE = re.compile(r"(?P<name>[^:;,|]+):(?P<least>\d+)/(?P<typical>\d+)/(?P<most>\d+)")
SHAPES = re.compile(r"(?P<name>[^;|]+):(?P<sizes>\d+(x\d+)*(,\d+(x\d+)*){2})")
FORMS = "T:1/64/512 for a size, tokens:1x2,1x64,1x512 for an input; several after each other with a semicolon"

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """``shapes``: input -> least, typical and most sizes. ``values``: input -> the same of its values; whether an input's values decide
    shapes is known when the graph was parsed (``tensorrt_build``)."""

    shapes: Mapping[str, tuple[Sizes, Sizes, Sizes]]
    values: Mapping[str, tuple[Sizes, Sizes, Sizes]]

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {name: [list(each) for each in three] for name, three in sorted(getattr(self, kind).items())}
            for kind in ("shapes", "values")
        }


def profiles_of(file: OnnxFile, text: str) -> tuple[Profile, ...]:
    """What the file needs; ``text`` is the option, empty for the file's own ranges. No profile where no size varies.

    Raises UsageError: a form that is not understood, a name that is not there, sizes that do not fit, and sizes that nobody gave.
    """
    parts = text.split("|") if text else [""]
    found = [_profile(file, part.strip()) for part in parts]
    if len(found) == 1 and not found[0].shapes and not found[0].values:
        return ()
    return tuple(found)


def _profile(file: OnnxFile, text: str) -> Profile:
    inputs = {each.name: each for each in file.model.graph.input if each.name in {spec.name for spec in file.inputs}}
    named, given = _read(text)
    symbols = {name: _symbols(described) for name, described in inputs.items()}
    known = {size for each in symbols.values() for size in each if isinstance(size, str)}
    for name in (*named, *given):
        if name not in (known if name in named else inputs):
            raise UsageError(
                f"profile={text} names {name!r}, which {file.path.name} does not have",
                why=f"sizes that may vary: {', '.join(sorted(known)) or 'none'}; inputs: {', '.join(sorted(inputs))}",
                fix=f"?profile={FORMS}",
            )
    ranges = {**{name: three for name, three in file.ranges.items() if name in known}, **named}
    shapes, values = {}, {}
    for spec in file.inputs:
        sizes = symbols[spec.name]
        if spec.name in given:
            (shapes if None in spec.shape else values)[spec.name] = _fitting(file, spec, given[spec.name])
        elif None in spec.shape:
            shapes[spec.name] = tuple(tuple(_size(file, spec.name, size, ranges, place) for size in sizes) for place in range(3))
    return Profile(shapes, values)


def _read(text: str) -> tuple[dict[str, tuple[int, int, int]], dict[str, tuple[Sizes, Sizes, Sizes]]]:
    """By size and by input."""
    named: dict[str, tuple[int, int, int]] = {}
    given: dict[str, tuple[Sizes, Sizes, Sizes]] = {}
    parts = [part.strip() for part in re.split(r"[;,]" if "/" in text and "x" not in text else ";", text) if part.strip()]
    for part in parts:
        size, shapes = SIZE.fullmatch(part), SHAPES.fullmatch(part)
        found = size or shapes
        if found is None:
            raise UsageError(f"profile={part} is not understood", why=f"forms: {FORMS}", fix="?profile=T:1/64/512")
        name = found["name"].strip()
        if name in named or name in given:
            raise UsageError(f"profile names {name!r} twice", fix="name it once")
        if size:
            named[name] = int(size["least"]), int(size["typical"]), int(size["most"])
            three = tuple((each,) for each in named[name])
        else:
            three = tuple(tuple(int(each) for each in sizes.split("x")) for sizes in shapes["sizes"].split(","))
            given[name] = three
        if len({len(each) for each in three}) != 1 or any(not a <= b <= c for a, b, c in zip(*three, strict=True)):
            raise UsageError(
                f"profile={part} does not go up",
                why="the least, the typical and the most, of as many sizes each",
                fix=f"?profile={FORMS}",
            )
    return named, given


def _symbols(described: Any) -> list[int | str]:
    """The sizes of an input; a name, or an empty text, where one may vary."""
    dims = described.type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else each.dim_param for each in dims]


def _size(file: OnnxFile, name: str, size: int | str, ranges: Mapping[str, tuple[int, int, int]], place: int) -> int:
    if isinstance(size, int):
        return size
    if size not in ranges:
        raise UsageError(
            f"nobody says how large {size or 'a size'!r} of input {name!r} may become",
            why=f"{file.path.name} holds no range for it, and an engine is built for a least, a typical and a most",
            fix=f"?profile={size}:1/64/512" if size else f"?profile={name}:LEAST,TYPICAL,MOST, such as 1x3,1x64,1x512",
        )
    return ranges[size][place]


def _fitting(file: OnnxFile, spec: Any, three: tuple[Sizes, Sizes, Sizes]) -> tuple[Sizes, Sizes, Sizes]:
    if None not in spec.shape:
        if len(spec.shape) <= 1 and spec.dtype in ("int32", "int64"):
            return three  # its values, if they decide shapes
        raise UsageError(
            f"a profile of {spec.name!r} would do nothing",
            why=f"its sizes are fixed, {list(spec.shape)}",
            fix="leave it out of the profile",
        )
    right = len(three[0]) == len(spec.shape) and all(
        want is None or {each[place] for each in three} == {want} for place, want in enumerate(spec.shape)
    )
    if not right:
        raise UsageError(
            f"the profile of {spec.name!r} does not fit {file.path.name}",
            why=f"{spec.name} is {[size if size is not None else 'any' for size in spec.shape]}",
            fix="give one size for each of its dimensions, the fixed ones as they are",
        )
    return three
