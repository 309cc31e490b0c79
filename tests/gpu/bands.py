"""How far an engine may be from the reference reading of the graph that it was built of.

The graph fixes the type of every value, so what remains is the order of sums and what a kernel keeps between two operations. What is
allowed is a multiple of what that precision does to this very program: for fp32 the distance of two readings of one graph on the CPU, for
the others the distance of the typed graph from the fp32 one. These bounds were set without a GPU: an engine outside of them is something
to look at, not proof of a defect.
"""

from __future__ import annotations

from tests.mac.bands import LEAST, distance

TIMES_OWN = {"fp32": 20.0, "fp16": 8.0, "bf16": 8.0, "int8-qdq": 2.0}
"""int8: a value that lies between two steps goes to either, which is the rounding that the whole graph already consists of."""

__all__ = ["LEAST", "TIMES_OWN", "allowed", "distance"]


def allowed(precision, name, reading, other):
    """The bound for one array. ``reading``: the pure reading of the graph; ``other``: of fp32 the optimised reading, else fp32's own."""
    return max(TIMES_OWN[precision] * distance(other[name], reading[name]), LEAST)
