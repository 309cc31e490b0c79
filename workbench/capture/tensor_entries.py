"""A weight as ``artifact.json`` lists it, from an array in memory: what ``workbench.models.artifact`` reads from safetensors.

    tensor_entry(array, "fp16")     # {"dtype": "F16", "shape": [128, 80, 3], "hash": "5c1e...", "sampled": False, "rms": 0.0412}

The same values in an ONNX file, a torch model and a Core ML package have the same hash, so rung 1 pairs them whatever their names.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

from workbench.models.artifact import FLOATS, read_bytes, root_mean_square

SHORT = {"float": "F", "fp": "F", "int": "I", "uint": "U", "bfloat": "BF", "bf": "BF"}


def tensor_entry(array: Any, dtype: str | None = None) -> dict[str, Any]:
    """``dtype``: what the values are, where numpy has no such type (``int4``, ``bf16``)."""
    import numpy

    held = numpy.ascontiguousarray(array)
    data, sampled = read_bytes(io.BytesIO(memoryview(held).cast("B") if held.size else b""), 0, held.nbytes)
    name = short(dtype or held.dtype.name)
    return {
        "dtype": name,
        "shape": list(held.shape),
        "hash": hashlib.sha256(data).hexdigest()[:16],
        "sampled": sampled,
        "rms": root_mean_square(data, name) if name in FLOATS and held.size else None,
    }


def short(dtype: str) -> str:
    """``fp16`` and ``float16`` are ``F16``, ``int4`` is ``I4``; others as they are, in capitals."""
    letters = dtype.rstrip("0123456789")
    bits = dtype[len(letters) :]
    return f"{SHORT[letters]}{bits}" if letters in SHORT and bits else dtype.upper()
