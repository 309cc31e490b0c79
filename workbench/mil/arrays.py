"""Values across the border: what a caller gives becomes tensors, what the program gives becomes numpy, images and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workbench.mil.errors import InputError
from workbench.mil.interface import Feature
from workbench.mil.types import NUMPY, torch_dtype


def to_tensor(feature: Feature, kind: Any, given: Any, half: torch.dtype, device: torch.device, allow_nan: bool) -> torch.Tensor:
    """An input in the type and place the program wants it. Raises InputError naming the input."""
    array = image_array(feature, given) if feature.image else plain_array(feature, given)
    wanted = NUMPY.get(kind.dtype, np.float32)
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {feature.name!r} holds {array.dtype}", why=f"the program declares {feature}")
    floats = np.issubdtype(wanted, np.floating)
    if array.dtype.kind == "f" and not floats:
        if not (np.isfinite(array).all() and (array == np.trunc(array)).all()):
            raise InputError(f"input {feature.name!r} holds {array.dtype} with fractions", why=f"the program declares {feature}")
        array = array.astype(np.int64)
    if array.dtype.kind in "iu" and not floats and wanted is not np.bool_ and array.size:
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise InputError(
                f"input {feature.name!r} holds {array.min()} to {array.max()}", why=f"{kind.dtype} ends at {limits.max}"
            )
    if array.dtype.kind == "f" and not allow_nan and np.isnan(array).any():
        raise InputError(
            f"input {feature.name!r} holds {int(np.isnan(array).sum())} NaN of {array.size} values",
            why="every number that follows would be NaN",
            fix="predict(..., allow_nan=True) if it is meant",
        )
    if feature.image is None:
        feature.check_shape(array.shape)
    # A copy: what the program keeps (a state) must not change when the caller's array does.
    tensor = torch.from_numpy(np.array(array, dtype=np.int64 if wanted in (np.uint16, np.uint32) else wanted))
    return tensor.to(device=device, dtype=torch_dtype(kind.dtype, half))


def plain_array(feature: Feature, given: Any) -> np.ndarray[Any, Any]:
    """Anything numpy understands; a plain number also for a tensor with one element."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given.float().numpy() if given.dtype == torch.bfloat16 else given.numpy()
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InputError(f"input {feature.name!r} is no array", why=str(error)) from error
    if array.dtype == object:
        raise InputError(
            f"input {feature.name!r} is no array of numbers: {type(given).__name__}", why=f"the program declares {feature}"
        )
    if array.ndim == 0 and feature.shape and all(size == 1 for size in feature.shape):
        array = array.reshape([1] * len(feature.shape))
    return array


def image_array(feature: Feature, given: Any) -> np.ndarray[Any, Any]:
    """A picture (PIL, or uint8 [height, width, 3] RGB, or [height, width]) as [1, channels, height, width] in 0 to 255."""
    assert feature.image is not None
    colour, channels = feature.image.colour, feature.image.channels
    if hasattr(given, "mode") and hasattr(given, "getbands"):
        modes = {"RGB": "RGB", "BGR": "RGB", "GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}
        if given.mode == "RGBA" and channels == 3:
            given = given.convert("RGB")
        if given.mode != modes[colour]:
            raise InputError(
                f"input {feature.name!r} is a picture of mode {given.mode}",
                why=f"the program wants {colour}",
                fix=f"image.convert({modes[colour]!r})",
            )
        array = np.asarray(given)
    else:
        array = plain_array(feature, given)
        if array.ndim == 4 and array.shape[1] == channels:
            feature.check_shape(array.shape)
            return array
        if array.dtype != np.uint8 and colour != "GRAYSCALE_FLOAT16":
            raise InputError(f"input {feature.name!r} is a picture of {array.dtype}", why="pictures are uint8, 0 to 255")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != channels:
        raise InputError(
            f"input {feature.name!r} has the shape {list(array.shape)}", why=f"a {colour} picture is [height, width, {channels}]"
        )
    if colour == "BGR":
        array = array[..., ::-1]
    array = np.moveaxis(array, 2, 0)[None]
    feature.check_shape(array.shape)
    return array


def from_value(feature: Feature, value: Any) -> Any:
    """An output as ``MLModel.predict`` gives it: array, picture, label or dictionary."""
    if feature.kind in ("label", "probabilities"):
        return value.item() if isinstance(value, torch.Tensor) else value
    tensor = value.detach().cpu()
    if feature.image is not None:
        return _picture(feature, tensor)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array = np.array(tensor.numpy(), dtype=NUMPY.get(feature.dtype))
    return array.item() if feature.kind == "scalar" else array


def _picture(feature: Feature, tensor: torch.Tensor) -> Any:
    """A PIL image; the array where Pillow is not installed. Values are rounded and cut to 0 to 255."""
    assert feature.image is not None
    array = np.moveaxis(tensor.float().numpy().reshape(tensor.shape[-3:]), 0, 2)
    if feature.image.colour == "GRAYSCALE_FLOAT16":
        array, mode = array[..., 0].astype(np.float32), "F"
    else:
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
        array = array[..., ::-1] if feature.image.colour == "BGR" else array
        mode = "RGB" if feature.image.channels == 3 else "L"
        array = np.ascontiguousarray(array if mode == "RGB" else array[..., 0])
    try:
        from PIL import Image
    except ImportError:
        return array
    return Image.fromarray(array, mode=mode)
