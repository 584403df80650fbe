"""Array arithmetic of the image processor: channel order, sizes, resize, crop, rescale, normalise.

Every function gives transformers 4.37.2's numbers to the bit (its `image_transforms.py`), which fixes the order of the
operations and the dtype of each step. Pictures are NumPy arrays, [H, W, C] or [C, H, W].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ImageError, InputError

FIRST = "channels_first"  # [C, H, W]
LAST = "channels_last"  # [H, W, C]
# Of one picture: twice Pillow's own limit, above which Pillow refuses to read.
MAX_PIXELS = 178_956_970
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

BICUBIC = Image.Resampling.BICUBIC
BILINEAR = Image.Resampling.BILINEAR

SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
)


def channel_format(value: Any, name: str) -> str | None:
    """`value`, or an enum's value, as "channels_first", "channels_last" or None."""
    value = getattr(value, "value", value)
    if value not in (None, FIRST, LAST):
        raise InputError(f"{name}: wanted {FIRST!r}, {LAST!r} or None, found {value!r}")
    return value


def infer_channel_format(image: np.ndarray) -> str:
    """Channels first if the first axis has 1 or 3 entries, else channels last if the last axis has.

    So [3, 100, 3] reads as channels first, as in transformers: pass `input_data_format` to say otherwise.
    Raises ImageError for any other shape.
    """
    if image.ndim == 3 and image.shape[0] in (1, 3):
        return FIRST
    if image.ndim == 3 and image.shape[2] in (1, 3):
        return LAST
    raise ImageError(
        f"images: wanted shape (height, width, channels) or (channels, height, width) with 1 or 3 channels, "
        f"found {image.shape}; pass input_data_format for another number of channels"
    )


def to_channel_format(image: np.ndarray, target: str, source: str) -> np.ndarray:
    """The picture as a view in the order `target`."""
    if target == source:
        return image
    return image.transpose((2, 0, 1)) if target == FIRST else image.transpose((1, 2, 0))


def image_size(image: np.ndarray, source: str) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[-2:] if source == FIRST else image.shape[:2]


def channel_count(image: np.ndarray, source: str) -> int:
    """The number of channels."""
    return image.shape[0] if source == FIRST else image.shape[-1]


def _edge(value: Any, name: str, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise InputError(f"{name}: wanted a positive whole number of pixels for {key}, found {short(value)}")
    return int(value)


def size_dict(size: Any, name: str = "size", square: bool = True) -> dict[str, int]:
    """`size` as a new dict in pixels: {height, width}, {shortest_edge}, or either with longest_edge.

    An int n becomes {height: n, width: n}, or {shortest_edge: n} when `square` is false; a pair is (height, width).
    Raises InputError for anything else.
    """
    if isinstance(size, Integral):
        n = _edge(size, name, "the edge")
        return _bounded({"height": n, "width": n} if square else {"shortest_edge": n}, name)
    if isinstance(size, (tuple, list)) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if isinstance(size, Mapping):
        # transformers 5 may write unused edges as null.
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) in SIZE_KEYS:
            return _bounded({key: _edge(value, name, key) for key, value in given.items()}, name)
    raise InputError(
        f"{name}: wanted an int, (height, width), or a dict with the keys {{height, width}} or {{shortest_edge}}, "
        f"found {short(size)}"
    )


def _bounded(size: dict[str, int], name: str) -> dict[str, int]:
    """The size. Raises InputError if it, or the square of its shortest edge, has more than MAX_PIXELS pixels."""
    pixels = size["height"] * size["width"] if "height" in size else size.get("shortest_edge", 1) ** 2
    if max(pixels, *size.values()) > MAX_PIXELS:
        raise InputError(f"{name}: wanted at most {MAX_PIXELS} pixels, found {short(size)}")
    return size


def finite_number(value: Any, name: str) -> Any:
    """A number that float32 can hold, unchanged; InputError for anything else."""
    try:
        held = isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) <= LARGEST
    except OverflowError:  # an integer of hundreds of digits
        held = False
    if not held:
        raise InputError(f"{name}: wanted a finite number, found {short(value)}")
    return value


def short(value: Any) -> str:
    """A value for a message, at most 100 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else text[:97] + "..."


def resized_size(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """(height, width) after resizing: the shortest edge exactly, the other int(edge * long / short).

    A `longest_edge` beside `shortest_edge` is ignored, as in transformers 4.37.
    """
    if "shortest_edge" not in size:
        if "height" not in size:
            raise InputError(f"size: wanted 'shortest_edge' or 'height' and 'width', found {dict(size)!r}")
        return size["height"], size["width"]
    edge = size["shortest_edge"]
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def crop_offset(original: int, wanted: int) -> int:
    """The start of a central crop along one edge, rounded down; negative if the picture is too small."""
    return (original - wanted) // 2


def _needs_scaling_for_pil(image: np.ndarray) -> bool:
    """Whether a float picture is in [0, 1] and is multiplied by 255 to become bytes; ImageError for other ranges."""
    if image.dtype == np.uint8:
        return False
    with np.errstate(invalid="ignore"):
        whole = np.allclose(image, image.astype(int))
    low, high = image.min(), image.max()
    top = 255 if whole else 1
    if low >= 0 and high <= top:
        return not whole
    raise ImageError(
        f"images: to be resized, wanted whole numbers in [0, 255] or fractions in [0, 1], found {image.dtype} values "
        f"in [{low}, {high}]; convert them first, or pass do_resize=False"
    )


def to_pil(image: np.ndarray, source: str) -> tuple[Image.Image, bool]:
    """The picture as 8-bit Pillow, and whether it was multiplied by 255 on the way."""
    scaled = _needs_scaling_for_pil(image)
    image = to_channel_format(image, LAST, source)
    if image.shape[-1] == 1:
        image = image[..., 0]
    if scaled:
        image = rescale(image, 255)
    try:
        return Image.fromarray(np.ascontiguousarray(image.astype(np.uint8))), scaled
    except TypeError as error:
        raise ImageError(
            f"images: wanted 1 to 4 channels, found shape {image.shape} read as channels last; check input_data_format"
        ) from error


def resize(image: np.ndarray, height: int, width: int, resample: Any, source: str) -> np.ndarray:
    """The picture resized by Pillow in 8 bits, in the same channel order.

    uint8 [0, 255], except that a float picture in [0, 1] comes back as float32 in [0, 1].
    """
    if height * width > MAX_PIXELS:
        raise ImageError(f"images: wanted at most {MAX_PIXELS} pixels after resizing, found {width} x {height}")
    picture, scaled = to_pil(image, source)
    resized = np.array(picture.resize((width, height), BILINEAR if resample is None else resample))
    if resized.ndim == 2:
        resized = resized[..., None]
    resized = to_channel_format(resized, source, LAST)
    return rescale(resized, 1 / 255) if scaled else resized


def center_crop(image: np.ndarray, height: int, width: int, source: str) -> np.ndarray:
    """The central `height` x `width` pixels, padded with zeros if the picture is smaller; a view if possible."""
    image = to_channel_format(image, FIRST, source)
    rows, columns = image.shape[-2:]
    top, left = crop_offset(rows, height), crop_offset(columns, width)
    if top < 0 or left < 0:
        padded = np.zeros((image.shape[0], max(rows, height), max(columns, width)), image.dtype)
        # The padding is rounded down separately from the offset: they differ for odd differences.
        above, before = (padded.shape[1] - rows) // 2, (padded.shape[2] - columns) // 2
        padded[:, above : above + rows, before : before + columns] = image
        bottom, right = min(padded.shape[1], top + above + height), min(padded.shape[2], left + before + width)
        image = padded[:, max(0, top + above) : bottom, max(0, left + before) : right]
    else:
        image = image[:, top : top + height, left : left + width]
    return to_channel_format(image, source, FIRST)


def rescale(image: np.ndarray, scale: float, dtype: Any = np.float32) -> np.ndarray:
    """image * scale: in float64 for integers, in the picture's own precision for floats, then as `dtype`."""
    if isinstance(scale, Integral) and image.dtype.kind in "iu":
        # The result type of NumPy 1: wide enough for the scale, for which NumPy 2 would raise.
        image = image.astype(np.result_type(image.dtype, np.min_scalar_type(int(scale))), copy=False)
        return (image * image.dtype.type(scale)).astype(dtype)
    return (image * (int(scale) if isinstance(scale, Integral) else float(scale))).astype(dtype)


def channel_values(value: Any, channels: int, name: str) -> list[float]:
    """A mean or standard deviation as one number per channel; InputError for another count."""
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value] * channels
    if len(values) != channels:
        raise InputError(f"{name}: wanted one number, or one for each of {channels} channels, found {short(value)}")
    for number in values:
        finite_number(number, name)
        if name == "image_std" and abs(number) < SMALLEST:
            raise InputError(f"{name}: wanted numbers other than zero, found {short(value)}")
    return values


def normalize(image: np.ndarray, mean: Any, std: Any, source: str) -> np.ndarray:
    """(image - mean) / std per channel, in the picture's own float precision; integers as float32."""
    if image.dtype.kind != "f":
        image = image.astype(np.float32)
    channels = channel_count(image, source)
    mean = np.array(channel_values(mean, channels, "image_mean"), dtype=image.dtype)
    std = np.array(channel_values(std, channels, "image_std"), dtype=image.dtype)
    if source == FIRST:
        mean, std = mean[:, None, None], std[:, None, None]
    return (image - mean) / std
