"""The `openai` and `open_clip` profiles: pictures as torchvision's transforms make them.

OpenAI's `clip.py` and open_clip 3.3's `transform.py` both compose Resize, CenterCrop, conversion to RGB, ToTensor and
Normalize.  Against the `hf` profile: a picture is resized and cropped in its own mode (so palettes without
interpolation, alpha premultiplied) and becomes RGB last; the crop starts at `int(round(d / 2))`, not `d // 2`; a byte
is divided by 255 in float32, not multiplied by 1/255 in float64.

The two differ where the crop is not square or `size` is {longest_edge}: open_clip then scales the picture to cover (or
to fit into) the crop, rounding both edges; OpenAI's code knows only the shortest edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .errors import ImageError, InputError
from .image_fast import ByteValues, Place, byte_values, resize_and_crop
from .image_input import check_depth
from .image_ops import channel_values, resized_size

PROFILES = ("hf", "openai", "open_clip")


def crop_offset(original: int, wanted: int) -> int:
    """Where torchvision's central crop starts; Python rounds halves to the even number."""
    return int(round((original - wanted) / 2.0))


def torchvision_size(
    original: tuple[int, int], size: Mapping[str, int], crop: Mapping[str, int] | None, profile: str
) -> tuple[int, int]:
    """(height, width) after resizing a picture of `original` (width, height)."""
    width, height = original
    square = crop is None or crop["height"] == crop["width"]
    if profile != "open_clip" or "height" in size or ("shortest_edge" in size and square):
        return resized_size(height, width, size)
    if crop is None:
        raise InputError("size: {longest_edge} in the open_clip profile needs do_center_crop, whose size it fills")
    ratios = height / crop["height"], width / crop["width"]
    ratio = min(ratios) if "shortest_edge" in size else max(ratios)
    resized = round(height / ratio), round(width / ratio)
    if 0 in resized:
        raise ImageError(
            f"images: {width} x {height} pixels, made to fit {crop['width']} x {crop['height']}, leave an edge of none"
        )
    return resized


def central_place(
    original: tuple[int, int], size: Mapping[str, int] | None, crop: Mapping[str, int] | None, profile: str
) -> tuple[Place, bool]:
    """What of a resized picture is wanted, and whether the crop fits into it; what doesn't fit is kept and padded."""
    width, height = original
    if size:
        height, width = torchvision_size(original, size, crop, profile)
    if not crop:
        return Place(height, width, (0, 0, width, height)), True
    if width < crop["width"] or height < crop["height"]:
        return Place(height, width, (0, 0, width, height)), False
    left, top = crop_offset(width, crop["width"]), crop_offset(height, crop["height"])
    return Place(height, width, (left, top, left + crop["width"], top + crop["height"])), True


def _pad(picture: Image.Image, crop: Mapping[str, int]) -> Image.Image:
    """Zeros (palette entry 0, transparent black) around a picture smaller than the crop, the odd one after it."""
    wide, high = max(0, crop["width"] - picture.width), max(0, crop["height"] - picture.height)
    if not wide and not high:
        return picture
    bands = len(picture.getbands())
    border = (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2)
    padded = ImageOps.expand(picture, border, fill=0 if bands == 1 else (0,) * bands)
    if picture.mode == "P" and (palette := picture.getpalette()):
        padded.putpalette(palette)
    return padded


def torchvision_pixels(
    picture: Image.Image, place: Place, crop: Mapping[str, int] | None, resample: Any, convert_rgb: bool
) -> np.ndarray:
    """The picture's bytes, uint8 [H, W] or [H, W, C], resized, cropped and converted in torchvision's order.

    It is resized and cropped in its own mode. Without `crop` nothing is padded.
    """
    if convert_rgb:
        check_depth(picture)
    height, width, box = place
    if picture.mode in ("RGB", "L"):
        picture = resize_and_crop(picture, height, width, box, resample)
    else:
        picture = picture.resize((width, height), resample) if (height, width) != picture.size[::-1] else picture
        picture = picture.crop(box) if box != (0, 0, width, height) else picture
    if crop and picture.size != (crop["width"], crop["height"]):
        picture = _pad(picture, crop)
        left, top = crop_offset(picture.width, crop["width"]), crop_offset(picture.height, crop["height"])
        picture = picture.crop((left, top, left + crop["width"], top + crop["height"]))
    if convert_rgb:
        picture = picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    return np.asarray(picture)


def lookup_table(channels: int, scale: float | None, mean: Any, std: Any) -> ByteValues:
    """What ToTensor (unless `scale` is None) and Normalize (unless `mean` is) make of every byte."""
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
    table: np.ndarray = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    if scale is not None:
        # ToTensor divides, which the usual factor stands for; it knows no other.
        table = table.astype(np.float32)
        table = table / np.float32(255) if scale == 1 / 255 else table * np.float32(scale)
    if mean is not None:
        table = table.astype(np.float32) - np.array(mean, np.float32)[:, None]
        table = table / np.array(std, np.float32)[:, None]
    return byte_values(table, mean, std)
