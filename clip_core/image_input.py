"""What may be given as a picture: files, Pillow images, arrays, tensors, lists of them."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from . import image_jpeg
from .errors import ImageError, InputError

# What Pillow's decoders raise on damaged or hostile files.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# Modes with more than 8 bits a channel: converting to RGB clips them to [0, 255] and cuts fractions off.
DEEP_MODES = ("I", "F")


def check_pixels(width: int, height: int, name: str) -> None:
    """ImageError for a picture of no pixels or of more than Pillow's limit, before it is decoded."""
    if width == 0 or height == 0:
        raise ImageError(f"{name}: wanted a picture of at least 1 x 1 pixels, found {width} x {height}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{name}: wanted at most {limit} pixels (PIL.Image.MAX_IMAGE_PIXELS, a guard against decompression "
            f"bombs), found {width} x {height}"
        )


def _name(image: Any) -> str:
    return str(getattr(image, "filename", "") or "images")


def decode(image: Image.Image) -> Image.Image:
    """Read the pixels of a lazily opened picture; ImageError when they can't be read or there are none."""
    name = _name(image)
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name}: wanted a picture of at least 1 x 1 pixels, found {image.width} x {image.height}")
    try:
        image.load()
    except DECODING_ERRORS as error:
        raise ImageError(f"{name}: wanted a readable picture, found a damaged or truncated one ({error})") from error
    return image


def load_image(image: Any, unread_jpeg: bool = False) -> Image.Image | np.ndarray:
    """A picture from a path, decoded; a Pillow image or an array as it is, checked.

    Args:
        image: a path (str or PathLike), a `PIL.Image.Image`, or an array or tensor of a framework.
        unread_jpeg: leave a JPEG file open and unread where the image processor decodes it faster itself (see
            image_jpeg.py); to be closed afterwards. What is damaged in it shows then.
    Returns:
        The Pillow image in the file's own mode (its first frame), or a NumPy array.
    Raises:
        FileNotFoundError: nothing is there. ImageError: a folder, no picture, a damaged or truncated one, no pixels,
        more than `PIL.Image.MAX_IMAGE_PIXELS`, or 16 bits a channel (see `check_depth`); the message names the file.
        InputError: none of these types.
    """
    if isinstance(image, (str, os.PathLike)):
        return _open(Path(image), unread_jpeg)
    if not isinstance(image, Image.Image):
        return to_array(image)
    check_depth(decode(image))
    return image


def _open(path: Path, unread_jpeg: bool) -> Image.Image:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture")
    if path.is_dir():
        raise ImageError(f"{path}: wanted a picture, found a folder")
    if not path.is_file():
        raise ImageError(f"{path}: wanted a picture, found no regular file")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: wanted a picture, found an empty file")
    try:
        with ExitStack() as stack:
            image = stack.enter_context(Image.open(path))
            check_pixels(*image.size, str(path))
            if unread_jpeg and image_jpeg.takes(image):
                stack.pop_all()  # stays open
                return image
            check_depth(decode(image))
            return image
    except (ImageError, PermissionError):
        raise
    except DECODING_ERRORS as error:
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise ImageError(f"{path}: wanted a picture that Pillow can read, found something else{reason}") from error


def is_image(value: Any) -> bool:
    """Whether `value` is a Pillow image, an array, or a tensor of a framework (known by shape and conversion)."""
    if isinstance(value, (Image.Image, np.ndarray)):
        return True
    converts = hasattr(value, "numpy") or hasattr(value, "__array__")
    return converts and hasattr(value, "shape") and hasattr(value, "dtype")


def to_array(image: Any) -> np.ndarray:
    """An array or tensor as NumPy, without copying where it can be; numbers only.

    bfloat16, which NumPy lacks, becomes float32. Raises InputError for other types, ImageError for other contents.
    """
    if not is_image(image) or isinstance(image, Image.Image):
        raise InputError(
            f"images: wanted a Pillow image, a NumPy array, a tensor, or a list of them, found {type(image).__name__}"
        )
    if hasattr(image, "detach"):  # torch: off the graph and the device first
        image = image.detach().cpu()
        if str(image.dtype) == "torch.bfloat16":
            image = image.float()
    if not isinstance(image, np.ndarray):
        image = image.numpy() if hasattr(image, "numpy") else np.asarray(image)
    if image.dtype.name == "bfloat16":
        image = image.astype(np.float32)
    if image.dtype.kind not in "biuf":
        raise ImageError(f"images: wanted an array of numbers, found dtype {image.dtype}")
    if image.size == 0:
        raise ImageError(f"images: wanted a picture of at least 1 x 1 pixels, found an array of shape {image.shape}")
    return image


def flatten_images(images: Any) -> list[Any]:
    """One picture, a batch [N, H, W, C] or [N, C, H, W], or (nested) lists of either, as a flat list of pictures.

    Lists of numbers are read as one array. Raises InputError for an empty list or something that is no picture,
    ImageError for an array of other than 3 or 4 dimensions.
    """
    if isinstance(images, (list, tuple)):
        if len(images) == 0:
            raise InputError("images: wanted at least one picture, found an empty list")
        innermost = images
        while isinstance(innermost, (list, tuple)) and len(innermost) > 0:
            innermost = innermost[0]
        if isinstance(innermost, (bool, int, float)):
            return flatten_images(_numbers(images))
        return [picture for entry in images for picture in flatten_images(entry)]
    if isinstance(images, Image.Image):
        return [images]
    array = to_array(images)
    if array.ndim not in (3, 4):
        raise ImageError(f"images: wanted 3 dimensions for a picture or 4 for a batch, found shape {array.shape}")
    return list(array) if array.ndim == 4 else [array]


def _numbers(images: Any) -> np.ndarray:
    try:
        return np.array(images)
    except ValueError as error:
        raise ImageError("images: wanted lists of numbers of equal length, found a ragged one") from error


def apply_exif(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is when that says nothing or can't be read."""
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS:
        return image


def check_depth(image: Image.Image) -> None:
    """Raise ImageError for a picture of more than 8 bits a channel that RGB would clip or round.

    Pillow (and so transformers) turns everything above 255 white without a word.
    """
    if not image.mode.startswith(DEEP_MODES):
        return
    extrema: Any = (image.convert("I") if ";" in image.mode else image).getextrema()
    low, high = extrema
    whole = image.mode != "F" or bool(np.all(np.asarray(image) % 1 == 0))
    if not (low >= 0 and high <= 255 and whole):
        kind = "whole numbers" if whole else "fractions"
        raise ImageError(
            f"{_name(image)}: wanted 8 bits a channel, found mode {image.mode} with {kind} in [{low}, {high}], which "
            f"RGB can't hold; scale it to 0 to 255 first (a 16-bit picture: divide by 257)"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture in mode RGB by Pillow's conversion: alpha is dropped, palettes are looked up.

    Raises ImageError for 16-bit and float pictures whose values RGB can't hold, and for modes Pillow can't convert.
    """
    if image.mode == "RGB":
        return image
    check_depth(image)
    try:
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise ImageError(f"{_name(image)}: wanted a mode that converts to RGB, found {image.mode} ({error})") from error


def warn_if_scaled(images: list[Any]) -> None:
    """Warn once when a float (or boolean) array lies in [0, 1], so that rescaling would darken it to nearly black."""
    for image in images:
        if isinstance(image, np.ndarray) and image.dtype.kind in "fb" and image.min() >= 0 and image.max() <= 1:
            warnings.warn(
                "images: found values in [0, 1], which do_rescale=True would divide by 255 again; "
                "pass do_rescale=False for pictures that are scaled already",
                UserWarning,
                stacklevel=6,
            )
            return
