"""What a model was really given, as hashes that are the same on every runtime when the values are.

    seen(prepared)   # {"prompt": "USER: <image>\\n...", "tokens": {"n": 31, "hash": "9f0c..."}, "arrays": {"pixel_values": {...}}}

Floating-point arrays are hashed as float32 and integers as int64, in C order with their shape, whichever library holds them.
"""

from __future__ import annotations

import hashlib
from typing import Any

from workbench.models.processors import Prepared

HASH_DIGITS = 32


def seen(prepared: Prepared) -> dict[str, Any]:
    """Prompt, token ids (count and hash) and every other array (hash, shape, dtype) of one request."""
    arrays = {name: value for name, value in as_arrays(prepared).items() if name != "input_ids"}
    return {
        "prompt": prepared.prompt,
        "tokens": {"n": prepared.length, "hash": digest(as_array(prepared.arrays["input_ids"]))},
        "arrays": {
            name: {"hash": digest(value), "shape": list(value.shape), "dtype": str(value.dtype)} for name, value in arrays.items()
        },
    }


def as_arrays(prepared: Prepared) -> dict[str, Any]:
    """Every array of a request in numpy, float32 or int64; lists of arrays (images of several sizes) become ``name.0``, ``name.1``."""
    found: dict[str, Any] = {}
    for name, value in prepared.arrays.items():
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            found |= {f"{name}.{place}": as_array(each) for place, each in enumerate(value)}
        else:
            found[name] = as_array(value)
    return found


def as_array(value: Any):
    """One array of torch, MLX or numpy as contiguous numpy: floats as float32, everything else as int64."""
    import numpy

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value.long()).numpy()
    elif type(value).__module__.startswith("mlx"):
        from mlx import core

        value = value.astype(core.float32) if core.issubdtype(value.dtype, core.floating) else value
    array = numpy.asarray(value)
    return numpy.asarray(array, dtype=numpy.float32 if array.dtype.kind == "f" else numpy.int64, order="C")


def digest(array: Any) -> str:
    """The hash of an array's shape and values."""
    made = hashlib.sha256(repr(array.shape).encode())
    made.update(array.data if array.size else b"")
    return made.hexdigest()[:HASH_DIGITS]
