"""Golden cases: cast from every type to every other."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.cases import Case, check, inferred

NUMPY = {"fp16": np.float16, "fp32": np.float32, "bool": np.bool_} | {
    name: np.dtype(name).type for name in ("int8", "uint8", "int16", "uint16", "int32")
}
FIRST = ("fp16", "fp32", "int32", "bool")
"""The types of iOS15; iOS17 adds the narrow integers."""
FLOATS = np.array(
    [-np.inf, -3e9, -70000, -32769, -300.7, -128.6, -1.5, -0.5, 0, 0.5, 1.5, 127.9, 255.9, 300, 32768, 65535.5, 3e9, np.inf],
    np.float32,
)
"""Within every type, at its ends, beyond them."""
INTEGERS = np.array([-(2**31), -70000, -32769, -300, -129, -1, 0, 1, 128, 255, 256, 32768, 65536, 2**31 - 1], np.int32)


def converted(values, name):
    """The definition: numpy's astype, but floats that no integer of the type can hold go to its nearest end."""
    kind = NUMPY[name]
    if values.dtype.kind == "f" and np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        return np.clip(
            np.trunc(np.nan_to_num(values.astype(np.float64), nan=0, posinf=1e300, neginf=-1e300)), limits.min, limits.max
        ).astype(kind)
    with np.errstate(over="ignore"):
        return values.astype(kind)


def shown(values):
    """What a program can give out."""
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)


def case(source, targets, opset, **options):
    """One program: the input cast to ``source``, that to every target, and those to fp32 or int32."""

    def build(x):
        given = mb.cast(x=x, dtype=source)
        results = [mb.cast(x=given, dtype=name) for name in targets]
        return tuple(
            mb.cast(x=result, dtype="fp32" if name.startswith("fp") else "int32")
            for name, result in zip(targets, results, strict=True)
        )

    def expected(x):
        return tuple(shown(converted(converted(x, source), name)) for name in targets)

    x = FLOATS if source.startswith("fp") else INTEGERS
    label = "-".join([source, *map(str, options.values())])
    return Case("cast", opset, build, {"x": x}, expected, "numpy", label, tolerance=0, options=options)


CASES = [
    *(case(source, FIRST, "iOS15") for source in FIRST),
    *(case(source, tuple(NUMPY), "iOS17") for source in NUMPY),
    *(case(source, tuple(NUMPY), "iOS17", precision="emulate") for source in ("fp16", "fp32", "int32")),
    *(
        Case("cast", "iOS17", build, {"x": INTEGERS}, inferred(build, "iOS17"), "value_inference", f"int32-{name}")
        for name in ("int8", "uint16")
        for build in [lambda x, name=name: mb.cast(x=mb.cast(x=x, dtype=name), dtype="int32")]
    ),
    Case(
        "cast",
        "iOS17",
        lambda x: tuple(mb.cast(x=mb.cast(x=mb.sub(x=x, y=x), dtype=name), dtype="int32") for name in ("int32", "uint8", "bool")),
        {"x": np.array([np.inf, 1.0], np.float32)},
        lambda x: tuple(np.array([nan, 0], np.int32) for nan in (0, 0, 1)),
        "numpy",
        "nan",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)
