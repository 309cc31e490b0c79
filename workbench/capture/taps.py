"""What to do with the tensors that hooks bring: keep them whole, or put a reference's in their place and keep what came.

    kept = Kept()
    with tapped(model, names, inputs, kept): model(...)
    kept.arrays["vision.block.0"]

A module that runs several times in one pass (once an image, say) has its outputs joined along the first axis, so a library that
loops compares with one that stacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Kept:
    """Every output by name, whole. ``order``: names as they were first finished."""

    def __init__(self):
        self._calls: dict[str, list[Any]] = {}

    def __call__(self, name: str, array: Any) -> Any:
        self._calls.setdefault(name, []).append(array.copy())
        return None

    @property
    def order(self) -> list[str]:
        return list(self._calls)

    @property
    def arrays(self) -> dict[str, Any]:
        return {name: join(calls) for name, calls in self._calls.items()}


class Swapped(Kept):
    """Keeps what the model made, and hands it the reference's values instead: every layer then works on the reference's inputs,
    so what it makes shows its own error and none that was passed on to it."""

    def __init__(self, reference: Mapping[str, Any]):
        super().__init__()
        self.swap = Swap(reference)

    def __call__(self, name: str, array: Any) -> Any:
        super().__call__(name, array)
        return self.swap(name, array)


class Swap:
    """The reference's values of a layer, handed out piece by piece where the candidate calls a module several times."""

    def __init__(self, reference: Mapping[str, Any]):
        self.reference = {name: array.ravel() for name, array in reference.items()}
        self.place: dict[str, int] = {}

    def __call__(self, name: str, array: Any) -> Any:
        """The reference's values for this call, in the shape of ``array``; None where it has none."""
        whole = self.reference.get(name)
        begin = self.place.get(name, 0)
        if whole is None or begin + array.size > whole.size:
            return None
        self.place[name] = begin + array.size
        return whole[begin : begin + array.size].reshape(array.shape)


def join(calls: list[Any]) -> Any:
    """The outputs of several calls as one array: along the first axis where the others agree, else flat."""
    import numpy

    if len(calls) == 1:
        return calls[0]
    if len({each.shape[1:] for each in calls}) == 1:
        return numpy.concatenate(calls)
    return numpy.concatenate([each.ravel() for each in calls])
