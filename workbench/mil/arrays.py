"""Values across the border: what a caller gives becomes tensors, what the program gives becomes numpy, images and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workbench.mil.errors import ExecutionError, InputError
from workbench.mil.interface import Feature
from workbench.mil.types import NUMPY, torch_dtype


def to_tensor(feature: Feature, kind: Any, given: Any, half: torch.dtype, device: torch.device, allow_nan: bool) -> torch.Tensor:
    """An input in the type and place the program wants it. Raises InputError naming the input."""
    array = image_array(feature, given) if feature.image else plain_array(feature, given)
    if feature.image is None:
        feature.check_shape(array.shape)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{feature.title} holds {array.dtype}", why=f"the program declares {feature}")
    wanted = np.dtype(NUMPY.get(kind.dtype, np.float32))
    if array.dtype.kind == "f" and not (allow_nan and wanted.kind == "f") and (lost := int(np.isnan(array).sum())):
        raise InputError(
            f"{feature.title} holds {lost} NaN of {array.size} values",
            why="every number that follows would be NaN" if wanted.kind == "f" else f"the program declares {feature}",
            fix="predict(..., allow_nan=True) if it is meant" if wanted.kind == "f" else None,
        )
    _check_whole(feature, kind, array, wanted)
    # A copy: what the program keeps (a state) must not change when the caller's array does.
    with np.errstate(over="ignore"):  # a float beyond the end of its type is infinite, as on a device; workbench.mil.watch tells
        tensor = torch.from_numpy(np.array(array, dtype=np.int64 if wanted in (np.uint16, np.uint32) else wanted))
    return tensor.to(device=device, dtype=torch_dtype(kind.dtype, half))


def _check_whole(feature: Feature, kind: Any, array: np.ndarray[Any, Any], wanted: np.dtype[Any]) -> None:
    """Raises InputError where an integer or boolean is wanted and a value is a fraction or beyond the ends."""
    if wanted.kind == "f" or array.dtype == wanted or array.dtype.kind == "b" or not array.size:
        return
    low, high = array.min().item(), array.max().item()
    least, most = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if low < least or high > most:
        raise InputError(f"{feature.title} holds {low} to {high}", why=f"{kind.dtype} goes from {least} to {most}")
    if array.dtype.kind == "f" and not (array == np.trunc(array)).all():
        raise InputError(f"{feature.title} holds {array.dtype} with fractions", why=f"the program declares {feature}")


def plain_array(feature: Feature, given: Any) -> np.ndarray[Any, Any]:
    """Anything numpy understands; a plain number also for a tensor with one element."""
    try:
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
            given = given.float().numpy() if given.dtype == torch.bfloat16 else given.numpy(force=True)
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # ragged lists, sparse tensors
        raise InputError(f"{feature.title} is no array: {type(given).__name__}", why=str(error)) from error
    if array.dtype == object:
        raise InputError(f"{feature.title} is no array of numbers: {type(given).__name__}", why=f"the program declares {feature}")
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
                f"{feature.title} is a picture of mode {given.mode}",
                why=f"the program wants {colour}",
                fix=f"image.convert({modes[colour]!r})",
            )
        try:
            array = np.asarray(given)
        except (OSError, ValueError, SyntaxError) as error:  # a file that Pillow reads only now, and cannot
            raise InputError(f"{feature.title} is a picture that cannot be read", why=str(error)) from error
    else:
        array = plain_array(feature, given)
        if array.ndim == 4 and array.shape[1] == channels:
            feature.check_shape(array.shape)
            return array
        if array.dtype != np.uint8 and colour != "GRAYSCALE_FLOAT16":
            raise InputError(f"{feature.title} is a picture of {array.dtype}", why="pictures are uint8, 0 to 255")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != channels:
        raise InputError(
            f"{feature.title} has the shape {list(array.shape)}", why=f"a {colour} picture is [height, width, {channels}]"
        )
    try:
        feature.check_shape((1, channels, *array.shape[:2]))
    except InputError as error:
        raise InputError(
            f"{feature.title} is a picture of {array.shape[1]} by {array.shape[0]} (width, height)", why=error.why
        ) from error
    array = array[..., ::-1] if colour == "BGR" else array
    return np.moveaxis(array, 2, 0)[None]


def from_value(feature: Feature, value: Any) -> Any:
    """An output as ``MLModel.predict`` gives it: array, picture, label or dictionary."""
    if feature.kind in ("label", "probabilities"):
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ExecutionError(f"output {feature.name!r} is a label and has the shape {list(value.shape)}")
        return value.item() if isinstance(value, torch.Tensor) else value
    tensor = value.detach().cpu()
    if feature.image is not None:
        return _picture(feature, tensor)
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):  # numpy has none of these
        tensor = tensor.float()
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the ends of the type declared: infinite, as torch has it
        array = np.array(tensor.numpy(), dtype=NUMPY.get(feature.dtype))
    return array.item() if feature.kind == "scalar" and array.size == 1 else array


def _picture(feature: Feature, tensor: torch.Tensor) -> Any:
    """A PIL image; the array where Pillow is not installed. Values are rounded and cut to 0 to 255; NaN is 0."""
    assert feature.image is not None
    colour, channels = feature.image.colour, feature.image.channels
    shape = tuple(tensor.shape)
    if len(shape) < 3 or shape[-3] != channels or tensor.numel() != channels * shape[-1] * shape[-2]:
        raise ExecutionError(
            f"output {feature.name!r} has the shape {list(shape)}", why=f"a {colour} picture is [1, {channels}, height, width]"
        )
    array = np.moveaxis(tensor.float().numpy().reshape(shape[-3:]), 0, 2)
    if colour == "GRAYSCALE_FLOAT16":
        array = np.array(array[..., 0])
    else:
        array = np.clip(np.rint(np.nan_to_num(array, nan=0.0, posinf=255.0, neginf=0.0)), 0, 255).astype(np.uint8)
        array = np.ascontiguousarray(array[..., ::-1] if colour == "BGR" else (array if channels == 3 else array[..., 0]))
    try:
        from PIL import Image
    except ImportError:
        return array
    return Image.fromarray(array)
