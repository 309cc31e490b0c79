"""Why an op's result is NaN, infinite or at risk, told from the op's type and its inputs' measures.

``given``: parameter -> the measures of its arguments, as far as they are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from workbench.mil.graph import Op
from workbench.mil.measure import Measured
from workbench.mil.numerics import LARGEST

Given = dict[str, list[Measured]]

EXP_MOST = 10.4
"""Inputs from here on: exp(x) reaches fp16's largest at 11.09, and softplus was seen to collapse at 10.4 (apple/coremltools 2687)."""
SQUARE_MOST = 256.0
"""The square of this does not fit fp16; coremltools 9.0, converters/mil/frontend/torch/ops.py, rms_norm, rescales for that reason."""


def _whole(given: Given, *parameters: str) -> Measured:
    whole = Measured()
    for name in parameters or given:
        for item in given.get(name, ()):
            whole |= item
    return whole


def cause_of_nan(op: Op, given: Given) -> str:
    """Why ``op`` makes NaN of inputs that hold none."""
    x, every = _whole(given, "x"), _whole(given)
    if op.type in ("softmax", "scaled_dot_product_attention") and every.infinite:
        return "an input holds infinity, and a row that is -infinity throughout has no softmax"
    if op.type in ("log", "sqrt", "rsqrt") and x.low < 0:
        return f"{op.type} of {x.low:.4g}"
    if op.type in ("acos", "asin", "atanh") and x.largest > 1:
        return f"{op.type} of {x.largest:.4g} in magnitude"
    if op.type in ("real_div", "floor_div", "mod") and _whole(given, "y").zeros:
        return "it divides 0 by 0"
    if op.type == "pow" and x.low < 0:
        return f"a negative number ({x.low:.4g}) to a power that is no integer"
    if every.infinite:
        return "an input holds infinity: infinity minus infinity, or 0 times infinity"
    if op.type in ("layer_norm", "instance_norm", "batch_norm", "l2_norm"):
        return "it divides 0 by 0, for its epsilon is too small"
    return f"from finite inputs, the largest {every.largest:.4g}: on the way a number was too large"


def cause_of_infinity(op: Op, given: Given, half: bool) -> str:
    """Why ``op`` makes infinity of finite inputs."""
    x = _whole(given, "x")
    if op.type in ("real_div", "floor_div") and _whole(given, "y").zeros:
        return "it divides by 0"
    if op.type in ("log", "inverse", "rsqrt", "pow") and x.zeros:
        return f"{op.type} of 0"
    if op.type == "atanh" and x.largest == 1:
        return "atanh of 1"
    if "x" in given and x.count == 0:
        return "its input is empty"
    return f"more than fp16 holds ({LARGEST:,.0f})" if half else "more than its type holds"


def _exponential(given: Given, count: int) -> tuple[float, str] | None:
    x = _whole(given, "x")
    if x.high < EXP_MOST:
        return None
    return x.high, (
        f"has an input of {x.high:.4g}: the exponential inside is more than fp16 holds, and the Neural Engine was seen to give 0 "
        "from 10.4 on [apple/coremltools issue 2687]"
    )


def _log_sum_exp(given: Given, count: int) -> tuple[float, str] | None:
    x = _whole(given, "x")
    terms = x.count / max(count, 1)
    if not x.count or x.high + math.log(max(terms, 1)) < math.log(LARGEST):
        return None
    return x.high, (
        f"has an input of {x.high:.4g} and sums {terms:.0f} exponentials: where the largest is not subtracted first the sum may be more "
        "than fp16 holds, as was seen on the Neural Engine [apple/coremltools issue 2690]"
    )


def _squares(size: Callable[[Measured], float]) -> Callable[[Given, int], tuple[float, str] | None]:
    def check(given: Given, count: int) -> tuple[float, str] | None:
        found = size(_whole(given, "x"))
        if found < SQUARE_MOST:
            return None
        return found, (
            f"squares numbers of up to {found:.4g}: a device that keeps the squares in fp16 makes them infinite "
            "[coremltools 9.0, converters/mil/frontend/torch/ops.py, rms_norm]"
        )

    return check


def _deviation(x: Measured) -> float:
    return (x.high - x.low) / 2 if x.low <= x.high else 0.0


INSIDE: dict[str, Callable[[Given, int], tuple[float, str] | None]] = {
    "softplus": _exponential,
    "reduce_log_sum_exp": _log_sum_exp,
    "l2_norm": _squares(lambda x: x.largest),
    "reduce_l2_norm": _squares(lambda x: x.largest),
    "layer_norm": _squares(_deviation),
    "instance_norm": _squares(_deviation),
}
"""Ops whose definition passes through numbers far larger than their result."""


def inside(op: Op, given: Given, count: int) -> Iterator[tuple[float, str]]:
    """(how large, what may happen) for an fp16 op of ``count`` results whose inside may overflow although its result does not."""
    check = INSIDE.get(op.type)
    found = check(given, count) if check is not None else None
    if found is not None:
        yield found
