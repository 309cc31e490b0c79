"""Parts of images: cut out, cut out and resized, or sampled at places that the program gives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from workbench.mil.errors import UnsupportedError
from workbench.mil.ops.gathers import within
from workbench.mil.ops.resizing import grid
from workbench.mil.registry import Context, Family, Ints, Tensor

crops = Family("image_resizing")


@crops.op("crop", moves=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """How much to cut off: (top, bottom), (left, right)."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _edges(boxes: Tensor, mode: str, normalized: bool, scale: float, sides: torch.Size) -> list[tuple[Tensor, Tensor]]:
    """Start and end, each [N], of the boxes [N, 4] along the height and along the width; in pixels, in double precision."""
    if mode not in ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"):
        raise UnsupportedError(f"box coordinate mode {mode!r} is not known")
    columns = (boxes.double() * scale).unbind(1)
    edges = []
    for side, place in zip(sides, (1, 0) if mode.endswith("WIDTH_FIRST") else (0, 1), strict=True):
        start, end = columns[place], columns[place + 2]
        if mode.startswith("CENTER_SIZE"):
            start, end = start - end / 2, start + end / 2
        edges.append((start * (side - 1), end * (side - 1)) if normalized else (start, end))
    return edges


def _crop_resize(
    x: Tensor, images: Tensor, edges: list[tuple[Tensor, Tensor]], size: tuple[int, int], mode: str, pad: float
) -> Tensor:
    """The boxes of ``x`` [B, C, H, W], box n from image ``images[n]``, as [N, C, *size]; ``pad`` where a point leaves the image."""
    sides, inside = [], []
    for (start, end), length, count in zip(edges, x.shape[2:], size, strict=True):
        points = grid(mode, start, end, count)
        inside.append((points >= 0) & (points <= length - 1))
        low = points.clamp(0, length - 1).floor()
        weight = (points - low).float()
        sides.append(((low.long(), 1 - weight), ((low.long() + 1).clamp(max=length - 1), weight)))
    total: Any = 0.0
    for row, row_weight in sides[0]:
        for column, column_weight in sides[1]:
            taken = x[images[:, None, None], :, row[:, :, None], column[:, None, :]].float()  # [N, height, width, C]
            total = total + taken * (row_weight[:, :, None] * column_weight[:, None, :])[..., None]
    known = inside[0][:, :, None] & inside[1][:, None, :]
    return torch.where(known[..., None], total, pad).movedim(-1, 1).to(x.dtype)


def _crop_regions(
    x: Tensor,
    roi: Tensor,
    size: tuple[int, int],
    normalized: bool,
    scale: float,
    coordinates: str,
    mode: str,
    pad: float,
    context: Context,
) -> Tensor:
    """``roi`` [N, 1, 4, 1, 1]: every box from every image, [N, B, C, *size]; [N, 1, 5, 1, 1]: the image's number comes before the
    box, [N, 1, C, *size], although coremltools' ``type_inference`` says B there too."""
    count, (batch, channels, height, width) = roi.shape[0], x.shape
    given = roi.reshape(count, roi.shape[2])
    edges = _edges(given[:, -4:], coordinates, normalized, scale, x.shape[2:])
    if given.shape[1] == 5:
        context.allow((count, 1, channels, *size), torch.float32)
        images = within(given[:, 0].long(), batch, True, context)
        return _crop_resize(x, images, edges, size, mode, pad)[:, None]
    context.allow((count, batch, channels, *size), torch.float32)
    planes = x.reshape(1, batch * channels, height, width)
    images = torch.zeros(count, dtype=torch.int64, device=x.device)
    return _crop_resize(planes, images, edges, size, mode, pad).reshape(count, batch, channels, *size)


@crops.op("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor,
    context: Context,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """A point outside the image is 0, as in tf.image.crop_and_resize: coremltools' TensorFlow front end."""
    size = (target_height, target_width)
    return _crop_regions(x, roi, size, normalized_coordinates, spatial_scale, box_coordinate_mode, sampling_mode, 0.0, context)


@crops.op("crop_resize", since="iOS16")
def crop_resize_padded(
    x: Tensor,
    roi: Tensor,
    context: Context,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    size = (target_height, target_width)
    return _crop_regions(
        x, roi, size, normalized_coordinates, spatial_scale, box_coordinate_mode, sampling_mode, pad_value, context
    )


@crops.op("crop_resize", since="iOS17")
def crop_resize_boxes(
    x: Tensor,
    boxes: Tensor,
    context: Context,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    size = (target_height, target_width)
    context.allow((boxes.shape[0], x.shape[1], *size), torch.float32)
    images = torch.arange(boxes.shape[0], device=x.device) if box_indices is None else box_indices
    edges = _edges(boxes, box_coordinate_mode, normalized_coordinates, spatial_scale, x.shape[2:])
    return _crop_resize(x, within(images, x.shape[0], True, context), edges, size, sampling_mode, pad_value)


def _reflected(points: Tensor, low: float, high: float) -> Tensor:
    """Coordinates folded into [low, high] by mirrors at both."""
    span = high - low
    if span == 0:
        return torch.full_like(points, low)
    away = (points - low).remainder(2 * span)
    return low + torch.minimum(away, 2 * span - away)


def _pixels(places: Tensor, mode: str, align: bool, length: int) -> Tensor:
    """Coordinates along an axis of ``length``, in pixels."""
    if mode == "unnormalized":
        return places
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise UnsupportedError(f"coordinates mode {mode!r} is not known")
    return places * (length - 1) if align else places * length - 0.5


def _padded(at: Tensor, padding: str, length: int) -> Tensor:
    """Coordinates in pixels, brought where there are pixels; with ``constant``, no further than one pixel outside."""
    if padding == "reflection":
        return _reflected(at, 0, length - 1)
    if padding == "symmetric":
        at = _reflected(at, -0.5, length - 0.5)
    return at.clamp(-1, length) if padding == "constant" else at.clamp(0, length - 1)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, nearest: bool, outside: float | None) -> Tensor:
    """``x`` [B, C, H, W] at places [B, height, width] in pixels, as [B, C, height, width]; pixels outside are ``outside``."""
    sides = []
    for at, length in ((rows, x.shape[2]), (columns, x.shape[3])):
        low = at.round() if nearest else at.floor()
        corners = [(low, torch.ones_like(at))] if nearest else [(low, 1 - (at - low)), (low + 1, at - low)]
        sides.append([(place.long().clamp(0, length - 1), (place >= 0) & (place < length), w) for place, w in corners])
    flat = x.flatten(2)
    total: Any = 0.0
    for row, row_inside, row_weight in sides[0]:
        for column, column_inside, column_weight in sides[1]:
            index = (row * x.shape[3] + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
            taken = flat.gather(2, index).unflatten(2, rows.shape[1:])
            if outside is not None:
                taken = torch.where((row_inside & column_inside)[:, None], taken, outside)
            total = total + taken * (row_weight * column_weight)[:, None]
    return total


def _sample(x: Tensor, places: Tensor, sampling: str, padding: str, value: float, mode: str, align: bool) -> Tensor:
    """As `resample`; by torch's own sampler where it has the same meaning."""
    sampling, padding, mode = sampling.lower(), padding.lower(), mode.lower()
    if sampling not in ("bilinear", "nearest") or padding not in ("constant", "border", "reflection", "symmetric"):
        raise UnsupportedError(f"sampling mode {sampling!r} with padding mode {padding!r} is not known")
    kind, x, places = x.dtype, x.float(), places.float()
    torchs = {"constant": "zeros", "border": "border", "reflection" if align else "symmetric": "reflection"}
    if mode == "normalized_minus_one_to_one" and padding in torchs and not (padding == "constant" and value):
        return F.grid_sample(x, places, mode=sampling, padding_mode=torchs[padding], align_corners=align).to(kind)
    rows, columns = (
        _padded(_pixels(places[..., place], mode, align, length), padding, length)
        for place, length in ((1, x.shape[2]), (0, x.shape[3]))
    )
    return _sampled(x, rows, columns, sampling == "nearest", value if padding == "constant" else None).to(kind)


@crops.op("resample")
@crops.op("resample", since="iOS16")
@crops.op("resample", since="iOS17")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    context: Context,
) -> Tensor:
    """Of two nearest pixels the even one is taken, as torch does and as coremltools' iOS15 test of ``nearest`` with ``symmetric``
    shows. iOS16 takes coordinates of fp16 too, iOS17 small integers."""
    context.allow((*x.shape[:2], *coordinates.shape[1:3]), torch.float32)
    return _sample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


@crops.op("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    context: Context,
) -> Tensor:
    """torch's affine_grid and grid_sample: its front end emits this op for the two."""
    if coordinates_mode.lower() != "normalized_minus_one_to_one":
        raise UnsupportedError(f"coordinates mode {coordinates_mode!r} is not known for affine")
    batch, channels = x.shape[:2]
    shape = (batch, channels, output_height, output_width)
    context.allow(shape, torch.float32)
    matrices = transform_matrix.float().reshape(-1, 2, 3).expand(batch, 2, 3)
    places = F.affine_grid(matrices, list(shape), align_corners=align_corners)
    return _sample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)
