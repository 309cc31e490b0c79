"""The tap of a real capture: statistics and sketches as the tensors pass, and as many values as were asked for; memory stays bounded.

accumulating = Accumulating(keep=True)
with tapped(model, outputs, inputs, accumulating): model.logits(prepared)
accumulating.records("digits-0001", "float32", paths)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.capture.taps import Swap
from workbench.metrics.sketch import PIECE, Moments
from workbench.run.layer_records import Record, sampled

ALWAYS_WHOLE = 4096
"""Tensors of so many values are kept whole even where only statistics are asked for: they are no larger than their sketch."""
KEPT_VALUES = 2**22
"""Above so many values of one layer and item a sample is kept: one in 2, 4, 8, ..."""


class Layer:
    """What one layer of one item put out so far."""

    def __init__(self, limit: int):
        self.moments, self.limit = Moments(), limit
        self.shape: tuple[int, ...] = ()
        self.axes = 0
        self.calls = 0
        self.one_in = 1
        self.parts: list[Any] | None = []

    def add(self, array: Any) -> None:
        before = self.moments.n
        self.moments.add(array)
        if self.calls:
            self.shape = self._joined(array.shape)
        else:
            self.shape, self.axes = array.shape, array.ndim
        self.calls += 1
        flat = array.reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._keep(flat[start : start + PIECE], before + start)

    def _joined(self, more: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what came so far with ``more``, the shape of the call just added: along the first axis where the others agree,
        as rows where the last one does (images of several sizes, one after another), else flat."""
        if self.shape and more and more[1:] == self.shape[1:]:
            return (self.shape[0] + more[0], *more[1:])
        if len(self.shape) > 1 and len(more) == self.axes and more[-1] == self.shape[-1] > 0:
            return (self.moments.n // more[-1], more[-1])
        return (self.moments.n,)

    def _keep(self, piece: Any, place: int) -> None:
        """Hold the values of ``piece``, which begins at ``place``, that are in the sample; then keep to the limit: hold none where it is
        the small one, else one in twice as many."""
        import numpy

        if self.parts is None:
            return
        end = place + piece.size
        self.parts.append(piece.copy() if self.one_in == 1 else piece[sampled(end, self.one_in, place) - place])
        if self.limit <= ALWAYS_WHOLE and end > self.limit:
            self.parts = None
            return
        while sum(each.size for each in self.parts) > self.limit:
            held = sampled(end, self.one_in)
            self.one_in *= 2
            kept = numpy.isin(held, sampled(end, self.one_in), assume_unique=True)
            self.parts = [numpy.concatenate(self.parts)[kept]]

    def record(self, item: str, name: str, layer: str, order: int, path: str | None) -> Record:
        import numpy

        values = None if self.parts is None else numpy.concatenate(self.parts) if self.parts else numpy.zeros(0, numpy.float32)
        found = self.moments.record()
        sketch = found.pop("sketch")
        line = {
            "id": item,
            "pass": name,
            "order": order,
            "layer": layer,
            "path": path,
            "shape": list(self.shape),
            "calls": self.calls,
            **found,
            "values": 0 if values is None else int(values.size),
            "one_in": None if values is None else self.one_in,
        }
        return Record(line, sketch, values)


class Accumulating:
    """``keep``: also the values, up to ``KEPT_VALUES`` a layer and item."""

    def __init__(self, keep: bool):
        self.limit = KEPT_VALUES if keep else ALWAYS_WHOLE
        self.layers: dict[str, Layer] = {}

    def __call__(self, name: str, array: Any) -> Any:
        self.layers.setdefault(name, Layer(self.limit)).add(array)
        return None

    def records(self, item: str, name: str, paths: Mapping[str, str]) -> dict[str, Record]:
        """By layer, in order of execution; ``paths`` are the modules' own, by layer."""
        return {
            layer: each.record(item, name, layer, order, paths.get(layer))
            for order, (layer, each) in enumerate(self.layers.items())
        }


class Swapping(Accumulating):
    """Also puts a reference's kept values in the place of what the model made (``capture.taps.Swapped`` says why)."""

    def __init__(self, keep: bool, reference: Mapping[str, Any]):
        super().__init__(keep)
        self.swap = Swap(reference)

    def __call__(self, name: str, array: Any) -> Any:
        super().__call__(name, array)
        return self.swap(name, array)
