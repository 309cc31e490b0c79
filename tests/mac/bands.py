"""How far a device may be from the reference executor on the same package.

The reference computes the package in its readings; none is the arithmetic of a device, which is not public. What is allowed is a
multiple of what rounding alone does to this very program: the distance of the readings from float64. Programs in fp32 on the CPU have
to be tight. These bounds were set without a Mac: a device outside of them is something to look at, not proof of a defect.
"""

from __future__ import annotations

import numpy as np

TIMES_OWN_FP32, TIMES_OWN_FP16 = 20.0, 8.0
LEAST = 1e-5
FP32_ELSEWHERE = 2e-3
"""GPU and Neural Engine may compute parts of an fp32 program in fp16."""


def distance(found, wanted):
    """Relative L2 of two arrays; infinite where one is not a number or the shapes differ."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    scale = np.linalg.norm(wanted)
    return float(np.linalg.norm(found - wanted) / (scale or 1.0))


def allowed(name, precision, units, exact, readings):
    """The bound for one output. ``exact``: by the float64 reading; ``readings``: by the others."""
    own = max(distance(each[name], exact[name]) for each in readings)
    if precision == "fp32":
        return max(TIMES_OWN_FP32 * own, LEAST) if units == "CPU_ONLY" else max(TIMES_OWN_FP32 * own, FP32_ELSEWHERE)
    return max(TIMES_OWN_FP16 * own, LEAST)
