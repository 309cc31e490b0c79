"""A repair of coremltools 9.0's pruning of large weights in float16.

    with thresholds():
        coremltools.optimize.coreml.prune_weights(...)

It cuts at a percentile that numpy works out in the weight's own type. In float16 the place of that percentile among more than 65,504 values
is no number, no value lies below it, and the weight is stored "sparse" with every value kept: larger than before, and without a word
(optimize/coreml/_quantization_passes.py, ``prune_weights.compress_by_magnitude``). Here the percentile is worked out in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

METHOD = "compress_by_magnitude"


@contextmanager
def thresholds() -> Iterator[None]:
    """Nothing is changed where the method is not the one that is known."""
    import numpy as np
    from coremltools.optimize.coreml import _quantization_passes as passes

    kind = getattr(passes, "prune_weights", None)
    original = getattr(kind, METHOD, None)
    if original is None:
        yield
        return

    def in_single(val: Any, *settings: Any, **more: Any) -> Any:
        made = original(np.asarray(val, np.float32) if val.dtype == np.float16 else val, *settings, **more)
        return made and made._replace(nonzero_data=made.nonzero_data.astype(val.dtype))

    setattr(kind, METHOD, staticmethod(in_single))
    try:
        yield
    finally:
        setattr(kind, METHOD, staticmethod(original))
