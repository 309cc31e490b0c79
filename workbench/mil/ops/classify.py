"""The end of a classifier: the most probable label, and the probability of every label."""

from __future__ import annotations

from typing import Any

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Context, Family, Tensor

classes = Family("classify")


@classes.op("classify")
def classify(probabilities: Tensor, classes: Any, context: Context) -> tuple[str | int, dict[str | int, float]]:
    """``classes``: strings or 64-bit integers, one for each probability. Of equal probabilities the first wins."""
    labels = [item if isinstance(item, str) else int(item) for item in classes]
    values = probabilities.flatten().cpu().numpy()
    if len(labels) != values.size:
        raise ExecutionError(f"op {context.op!r} has {len(labels)} classes for {values.size} probabilities")
    return labels[int(values.argmax())], dict(zip(labels, values.tolist(), strict=True))
