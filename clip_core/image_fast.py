"""The image processor's short cuts. Each gives the plain path's bytes and floats exactly; tests hold them to it.

- A large picture is resized by matrix products (image_resample.py), and so are only the pixels that the crop keeps.
- Pillow resizes an 8-bit picture in two passes, across and down, rounding to bytes between them. The passes
  can be asked for one at a time, with the crop between and after them. (`resize(box=...)` rounds its coefficients
  differently.)
- Rescaling and normalising a byte is a function of the byte and its channel: a table of 256 floats for each channel, or
  three operations in float32 where these give the same 256 floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from . import image_resample
from .image_ops import (
    FIRST,
    center_crop,
    channel_values,
    crop_offset,
    normalize,
    rescale,
    resized_size,
)
from .image_resample import FILTER_SUPPORT

# The order of the passes shows in the bytes, and Pillow 13 changed it for tall pictures (ImagingResampleInner in its
# Resample.c): a later major version may change it again, so there nothing is taken apart.
PILLOW = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13

# The pass down makes whole columns, even if few of their rows are kept: at most this many pixels are made at a time.
MAX_COLUMN_PIXELS = 1 << 24


def passes_down_first(size: tuple[int, int], height: int, width: int, pillow: int = PILLOW) -> bool:
    """Whether this Pillow resizes a picture of `size` (width, height) down before across."""
    shorter = size[1] - height
    return pillow >= 13 and shorter > 0 and shorter > 2 * (size[0] - width)


def resize_and_crop(
    picture: Image.Image, height: int, width: int, box: tuple[int, int, int, int], resample: Any
) -> Image.Image:
    """`picture.resize((width, height), resample).crop(box)` for an RGB or L picture, without the pixels that go.

    `box` is (left, top, right, bottom) within the resized picture.
    """
    left, top, right, bottom = box
    if resample not in FILTER_SUPPORT or PILLOW > NEWEST_KNOWN_PILLOW:
        return _crop(picture.resize((width, height), resample), box)
    if passes_down_first(picture.size, height, width):
        picture = _down(picture, height, top, bottom, resample)
        return _crop(picture.resize((width, bottom - top), resample), (left, 0, right, bottom - top))
    if picture.width != width:
        picture = _across(picture, height, width, top, bottom, resample)
    return _down(_crop(picture, (left, 0, right, picture.height)), height, top, bottom, resample)


def _crop(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return picture if box == (0, 0, *picture.size) else picture.crop(box)


def _across(picture: Image.Image, height: int, width: int, top: int, bottom: int, resample: Any) -> Image.Image:
    """The pass across; rows that the kept ones can't reach stay black, since the pass down never shows them."""
    scale = picture.height / height
    reach = FILTER_SUPPORT[resample] * max(scale, 1.0) + 2
    first = max(0, math.floor((top + 0.5) * scale - reach))
    last = min(picture.height, math.ceil((bottom - 0.5) * scale + reach))
    if (last - first) * 8 > picture.height * 7:  # too little to gain over the copies
        return picture.resize((width, picture.height), resample)
    needed = picture.crop((0, first, picture.width, last)).resize((width, last - first), resample)
    result = Image.new(picture.mode, (width, picture.height))
    result.paste(needed, (0, first))
    return result


def _down(picture: Image.Image, height: int, top: int, bottom: int, resample: Any) -> Image.Image:
    """The pass down, its rows `top` to `bottom`, in strips where whole columns would take too much memory."""
    strip = max(1, MAX_COLUMN_PIXELS // height)
    if picture.height == height or picture.width <= strip:
        return _crop(picture.resize((picture.width, height), resample), (0, top, picture.width, bottom))
    result = Image.new(picture.mode, (picture.width, bottom - top))
    for left in range(0, picture.width, strip):
        right = min(left + strip, picture.width)
        columns = picture.crop((left, 0, right, picture.height)).resize((right - left, height), resample)
        result.paste(columns.crop((0, top, right - left, bottom)), (left, 0))
    return result


class Place(NamedTuple):
    """What of a resized picture is wanted."""

    height: int  # of the whole resized picture
    width: int
    box: tuple[int, int, int, int]  # (left, top, right, bottom) in it


def central_place(original: tuple[int, int], size: Mapping[str, int] | None, crop: Mapping[str, int] | None) -> Place:
    """What the crop keeps of a picture of `original` (width, height), resized unless `size` is None."""
    height, width = resized_size(original[1], original[0], size) if size else (original[1], original[0])
    if not crop:
        return Place(height, width, (0, 0, width, height))
    left, top = max(0, crop_offset(width, crop["width"])), max(0, crop_offset(height, crop["height"]))
    return Place(height, width, (left, top, min(width, left + crop["width"]), min(height, top + crop["height"])))


def central_pixels(
    picture: Image.Image, size: Mapping[str, int] | None, crop: Mapping[str, int] | None, resample: Any
) -> np.ndarray:
    """An RGB or L picture resized (unless `size` is None) and cropped (unless `crop` is): uint8 [H, W] or [H, W, 3]."""
    place = central_place(picture.size, size, crop)
    return np.asarray(resize_and_crop(picture, *place, resample) if size else _crop(picture, place.box))


def by_products(original: tuple[int, int], place: Place, resample: Any) -> bool:
    """Whether `planes` resizes a picture of `original` (width, height) itself: then it may be packed."""
    return PILLOW <= NEWEST_KNOWN_PILLOW and image_resample.suits(original, *place, resample)


def planes(picture: Image.Image | np.ndarray, place: Place, resample: Any) -> np.ndarray:
    """A picture resized and cropped, as [C, H, W]: uint8, or float32 that is the calling thread's until its next call.

    `picture`: RGB or L, or where `by_products` allows it RGB packed into int32 [H, W], red lowest.
    """
    original = image_resample.size_of(picture)
    height, width, box = place
    if not by_products(original, place, resample):
        assert isinstance(picture, Image.Image)
        pixels = np.asarray(resize_and_crop(picture, height, width, box, resample))
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    if not passes_down_first(original, height, width):
        return image_resample.resized_planes(picture, height, width, box, resample)
    left, top, right, bottom = box
    if isinstance(picture, np.ndarray):
        turned: Any = picture.swapaxes(0, 1)
    else:
        turned = picture.transpose(Image.Transpose.TRANSPOSE)
    found = image_resample.resized_planes(turned, width, height, (top, left, bottom, right), resample)
    return found.transpose(0, 2, 1)


class ByteValues(NamedTuple):
    """What a byte becomes: looked up, or worked out where that is known to give the same floats."""

    table: np.ndarray  # [channels, 256]
    arithmetic: tuple[np.ndarray, np.ndarray] | None  # float32 mean and std [channels, 1, 1]: (byte / 255 - mean) / std


def byte_values(table: np.ndarray, mean: tuple | None, std: tuple | None) -> ByteValues:
    """A table, with the arithmetic if it gives all of its values to the bit: that is quicker than looking them up."""
    table.flags.writeable = False  # shared between calls
    if mean is None:
        return ByteValues(table, None)
    numbers = [np.array(values, np.float32)[:, None, None] for values in (mean, std)]
    every = np.tile(np.arange(256, dtype=np.uint8), (len(table), 1, 1))
    worked_out = _work_out(every, numbers[0], numbers[1], np.empty(every.shape, np.float32))
    same = table.dtype == np.float32 and np.array_equal(worked_out[:, 0], table)
    return ByteValues(table, (numbers[0], numbers[1]) if same else None)


def _work_out(planes: np.ndarray, mean: np.ndarray, std: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.divide(planes, np.float32(255), out=out)
    np.subtract(out, mean, out=out)
    return np.divide(out, std, out=out)


def lookup_table(channels: int, scale: float | None, mean: Any, std: Any) -> ByteValues:
    """What rescaling by `scale` and normalising (each unless None) make of every byte."""
    if mean is None:
        return _table(channels, scale, None, None)
    return _table(
        channels,
        scale,
        tuple(channel_values(mean, channels, "image_mean")),
        tuple(channel_values(std, channels, "image_std")),
    )


@lru_cache(maxsize=16)
def _table(channels: int, scale: float | None, mean: tuple | None, std: tuple | None) -> ByteValues:
    table = np.tile(np.arange(256, dtype=np.uint8), (channels, 1, 1))
    if scale is not None:
        table = rescale(table, scale)
    if mean is not None:
        table = normalize(table, mean, std, FIRST)
    return byte_values(table[:, 0], mean, std)


def apply_table(
    pixels: np.ndarray, values: ByteValues, crop: Mapping[str, int] | None, out: np.ndarray | None = None
) -> np.ndarray:
    """Bytes [H, W] or [H, W, C], padded to `crop` where they are smaller, as their values: [C, H, W]."""
    return look_up(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None], values, crop, out)


def look_up(
    planes: np.ndarray, values: ByteValues, crop: Mapping[str, int] | None, out: np.ndarray | None = None
) -> np.ndarray:
    """Bytes [C, H, W] (uint8 or float32), padded to `crop` where they are smaller, as their values.

    These are in `out` where it has their shape and dtype, else in a new array.
    """
    if crop and planes.shape[1:] != (crop["height"], crop["width"]):
        planes = center_crop(planes, crop["height"], crop["width"], FIRST)
    if out is None or out.shape != planes.shape or out.dtype != values.table.dtype:
        out = np.empty(planes.shape, values.table.dtype)
    if values.arithmetic:
        return _work_out(planes, *values.arithmetic, out=out)
    for plane, row, part in zip(planes.astype(np.uint8, copy=False), values.table, out, strict=True):
        # A byte is always inside the table; "clip" only spares NumPy a buffered copy.
        np.take(row, plane, out=part, mode="clip")
    return out
