"""Can a low type hold a tensor? What is beyond its range, and what would all become 0.

Ranges("float16").of(tensor)      # "holds 1e+06, beyond float16's 65504", "would all become 0 in float16 (1e-12)" or None
"""

from __future__ import annotations

from typing import Any


def numpy_type(word: str) -> Any:
    """numpy's type of "float16" or "bfloat16"."""
    import ml_dtypes
    import numpy

    return numpy.dtype(ml_dtypes.bfloat16) if word == "bfloat16" else numpy.dtype(word)


class Ranges:
    """Answers for one low type, each tensor looked at once."""

    def __init__(self, word: str):
        self._word, self._known = word, {}
        self._kind = numpy_type(word)

    def of(self, tensor: Any, normal: bool = False) -> str | None:
        """What is wrong with an ``onnx_ir`` tensor of float32 in the low type; None where nothing is. ``normal``: numbers below the smallest
        normal one are refused too (a scale has its full precision only above it)."""
        key = (id(tensor), normal)
        if key not in self._known:
            self._known[key] = (tensor, self._look(tensor, normal))  # holds the tensor, so that its id stays its own
        return self._known[key][1]

    def _look(self, tensor: Any, normal: bool) -> str | None:
        import ml_dtypes
        import numpy

        if not tensor.size:
            return None
        values = numpy.asarray(tensor.numpy())
        limits = ml_dtypes.finfo(self._kind)
        with numpy.errstate(over="ignore", under="ignore", invalid="ignore"):
            low = values.astype(self._kind).astype(numpy.float32)
        lost = numpy.isfinite(values) & ~numpy.isfinite(low)
        if lost.any():
            worst = values[lost][numpy.abs(values[lost]).argmax()]
            lowest = " (float32's lowest)" if worst == numpy.finfo(numpy.float32).min else ""
            return f"holds {worst:.6g}{lowest}, beyond {self._word}'s {float(limits.max):.6g}"
        sizes = numpy.abs(values[values != 0])
        if sizes.size and not (low != 0).any():
            return f"would all become 0 in {self._word} ({sizes.max():.3g})"
        if normal and sizes.size and sizes.min() < float(limits.smallest_normal):
            return f"holds the scale {sizes.min():.3g}, below {self._word}'s smallest normal number"
        return None
