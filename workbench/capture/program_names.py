"""Names of values on both sides of a conversion: what a converter does to a name, undone.

    normal("encoder/layer_0/add_1:0"), normal("encoder_layer_0_add_1_cast_fp16")     # the same: 'encoder_layer_0_add_1'

Two packages of one model, a program and the model it was converted from: their values are compared under these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

OUTPUT = "output."
"""What the name of an output begins with; ``normal`` leaves no dot in any other."""

CASTS = re.compile(r"(_cast(_fp16|_fp32|_ui16|_int16|_int32)?|_promoted(_to_fp16|_to_fp32)?)+$")
"""Endings that coremltools adds where it changes a value's type (9.0, converters/mil/mil/passes/defs/quantization.py)."""
NUMBER = re.compile(r"(var_)?\d+")


def normal(name: str) -> str:
    """A value's name without what converters add: the place among an op's outputs, casts, and characters that MIL has not."""
    found = re.sub(r":\d+$", "", name)
    found = re.sub(r"[^A-Za-z0-9_]", "_", found).strip("_")
    found = CASTS.sub("", found) or found
    if found.isdigit():  # TorchScript's unnamed values, as coremltools names them
        found = f"var_{found}"
    return f"value_{found}" if found in ("logits", "") else found  # "logits" means a language model's to the ladder


def numbers(name: str) -> bool:
    """Does a name only count values (``var_26``)? Another trace counts others."""
    return NUMBER.fullmatch(normal(name)) is not None


def layer_names(names: Iterable[str]) -> dict[str, str]:
    """``{value: layer}`` with normal names; of several values with one normal name the later ones keep their own."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        layer = normal(name)
        if layer in taken:
            layer = re.sub(r"[^A-Za-z0-9_]", "_", name)
            while layer in taken:
                layer += "_"
        taken.add(layer)
        found[name] = layer
    return found
