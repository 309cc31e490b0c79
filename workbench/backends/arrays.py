"""What a caller hands to a program of arrays, checked: names, shapes, types, NaN. Nothing here knows a runtime.

    taken = Intake("step.onnx", (TensorSpec("tokens", "int32", (1, 1)),))
    taken({"tokens": [[7]]})["tokens"]       # array([[7]], dtype=int32), contiguous

Core ML's programs check theirs with the reference executor's own rules (``workbench.mil.arrays``), which are the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.backends.base import TensorSpec
from workbench.errors import ItemError


def stays(array: Any) -> bool:
    """Is this an array that may be taken to stay as it is: read-only, and nobody else's view?"""
    return isinstance(array, np.ndarray) and not array.flags.writeable and array.base is None


class Intake:
    """The inputs of one program. Arrays that stay as they are (`stays`) are checked and copied once for each name."""

    def __init__(self, label: str, specs: Sequence[TensorSpec]):
        self.label, self.specs = label, {spec.name: spec for spec in specs}
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Contiguous arrays of the types declared; the caller's own where nothing had to change. Raises ItemError(reason="model")."""
        self._check_names(arrays)
        found = {}
        for name, spec in self.specs.items():
            given = arrays[name]
            kept = self._kept.get(name)
            if kept is not None and kept[0] is given and stays(given):
                found[name] = kept[1]
                continue
            found[name] = checked(spec, given)
            if stays(given):
                self._kept[name] = (given, found[name])
        return found

    def clear(self) -> None:
        """Forget the arrays that stay."""
        self._kept.clear()

    def _check_names(self, arrays: Mapping[str, Any]) -> None:
        lost = [name for name in self.specs if name not in arrays]
        extra = [name for name in arrays if name not in self.specs]
        if lost or extra:
            what = f"there is no input {extra[0]!r}" if extra else f"input {lost[0]!r} is missing"
            known = "; ".join(described(spec) for spec in self.specs.values())
            raise ItemError(f"{self.label}: {what}", reason="model", why=f"inputs: {known or 'none'}")


def described(spec: TensorSpec) -> str:
    """``tokens int32 [1, any]``."""
    return f"{spec.name} {spec.dtype} [{', '.join('any' if size is None else str(size) for size in spec.shape)}]"


def checked(spec: TensorSpec, given: Any) -> np.ndarray:
    """One input in the type declared. Floats beyond the end of a narrower type become infinite, as on a device.

    Raises ItemError naming the input: no array of numbers, another shape, NaN, and fractions or values beyond the ends of whole numbers.
    """
    array = plain(spec, given)
    if len(array.shape) != len(spec.shape) or any(
        wanted not in (None, size) for size, wanted in zip(array.shape, spec.shape, strict=True)
    ):
        raise _error(spec, f"has the shape {list(array.shape)}")
    wanted = np.dtype(spec.dtype)
    # A maximum is NaN where any value is, and takes a tenth of the time that looking at each does: caches go through here at every step.
    if array.dtype.kind == "f" and array.size and np.isnan(array.max()):
        lost = int(np.isnan(array).sum())
        raise _error(spec, f"holds {lost} NaN of {array.size} values")
    _check_whole(spec, array, wanted)
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=wanted, order="C")


def plain(spec: TensorSpec, given: Any) -> np.ndarray:
    """Anything numpy understands, and torch's tensors; a plain number also for an input of one element."""
    try:
        if hasattr(given, "detach"):
            given = given.detach().cpu()
            given = given.float().numpy() if str(given.dtype) == "torch.bfloat16" else given.numpy()
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # ragged lists, sparse tensors
        raise _error(spec, f"is no array: {type(given).__name__}", str(error)) from error
    if array.dtype.kind not in "fiub":
        raise _error(spec, f"holds {array.dtype}")
    if array.ndim == 0 and spec.shape and all(size == 1 for size in spec.shape):
        array = array.reshape([1] * len(spec.shape))
    return array


def _check_whole(spec: TensorSpec, array: np.ndarray, wanted: np.dtype) -> None:
    if wanted.kind == "f" or array.dtype == wanted or array.dtype.kind == "b" or not array.size:
        return
    low, high = array.min().item(), array.max().item()
    least, most = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if low < least or high > most:
        raise _error(spec, f"holds {low} to {high}", f"{wanted.name} goes from {least} to {most}")
    if array.dtype.kind == "f" and not (array == np.trunc(array)).all():
        raise _error(spec, f"holds {array.dtype} with fractions")


def _error(spec: TensorSpec, what: str, why: str | None = None) -> ItemError:
    return ItemError(f"input {spec.name!r} {what}", reason="model", why=why or f"the program declares {described(spec)}")
