"""Reading pictures: files, Pillow images, arrays, tensors and lists of them."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps

from ..errors import ImageError, InputError
from . import fast
from .ops import short

# Errors of Pillow's decoders on damaged or hostile files.
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

MOST_FETCHED = 100_000_000  # bytes of a picture at a URL, at most

# Modes with more than 8 bits a channel: conversion to RGB clips to [0, 255] and truncates fractions.
DEEP_MODES = ("I", "F")


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise ImageError for a picture without pixels or with more than twice Pillow's limit, before it is decoded.

    Pillow itself warns between its limit and twice that (Image.DecompressionBombWarning), and refuses larger pictures
    when it opens them.
    """
    if width == 0 or height == 0:
        raise ImageError(f"{name}: wanted a picture of at least 1 x 1 pixels, found {width} x {height}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ImageError(
            f"{name}: wanted at most {2 * limit} pixels (twice PIL.Image.MAX_IMAGE_PIXELS, a guard against "
            f"decompression bombs), found {width} x {height}"
        )


def _name(image: Any) -> str:
    return str(getattr(image, "filename", "") or "images")


# ---- decoding

# Pillow decodes a picture lazily, which two threads must not do at once. Pictures can't carry a lock of their own,
# so these locks are assigned to them by id.
_LOCKS: list[Any] = []


def _new_locks() -> None:
    _LOCKS[:] = [threading.RLock() for _ in range(61)]


_new_locks()
if hasattr(os, "register_at_fork"):  # the thread that held one does not exist in the child
    os.register_at_fork(after_in_child=_new_locks)


def _lock_of(image: Image.Image) -> Any:
    return _LOCKS[id(image) // 16 % len(_LOCKS)]


def decode(image: Image.Image) -> Image.Image:
    """The picture, decoded as by Pillow's `load`, which closes its file.

    Safe on several threads at once. Raises ImageError if the pixels can't be read or there are none.
    """
    loaded(image)
    return image


def loaded(image: Image.Image, exif: bool = False) -> tuple[Image.Image, np.ndarray | None]:
    """(the picture, decoded and, with `exif`, upright; its packed pixels or None).

    Packed pixels exist if decoding produced them; the thread's next call overwrites them (see `fast.load`).
    """
    name = _name(image)
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name}: wanted a picture of at least 1 x 1 pixels, found {image.width} x {image.height}")
    with _lock_of(image):
        try:
            packed = fast.load(image)
        except InputError:  # an invalid TRICLIP_SHORT_CUTS
            raise
        except DECODING_ERRORS as error:
            raise ImageError(
                f"{name}: wanted a readable picture, found a damaged or truncated one ({error})"
            ) from error
        if exif and _orientation(image) in range(2, 9):
            return apply_exif(image), None
    return image, packed


def reduced_twin(image: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """A second Image of an undecoded JPEG, to be decoded no larger than `size` needs.

    The caller's stays undecoded. None if it was decoded meanwhile.
    """
    with _lock_of(image):
        if not fast.is_unread(image):
            return None
        file: Any = image.fp  # type: ignore[attr-defined]
        try:
            file.seek(0)
            twin: Any = Image.open(io.BytesIO(file.read()), formats=["JPEG"])
        except DECODING_ERRORS:
            return None  # decoding the picture itself reports the error
    twin.filename = getattr(image, "filename", "")  # for messages
    twin.draft(image.mode, size)
    return twin


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if there is none or it can't be read."""
    try:
        return image.getexif().get(0x0112, 1)
    except DECODING_ERRORS:
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after turning: orientations 5 to 8 swap the edges."""
    with _lock_of(image):
        turned = _orientation(image) in range(5, 9)
    return image.size[::-1] if turned else image.size


def apply_exif(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation; unchanged if there is none or it can't be read."""
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS:
        return image


# ---- what may be given


def load_image(image: Any, unread_jpeg: bool = False) -> Image.Image | np.ndarray:
    """A picture from a path, decoded; a Pillow image or an array as it is, checked.

    Args:
        image: a path (str or PathLike), a `PIL.Image.Image`, or an array or tensor of a framework.
        unread_jpeg: leave a JPEG file open and undecoded for the image processor, which may decode it smaller
            (`reduced_decoding`). The caller closes it. Damage shows when it is decoded.
    Returns:
        The Pillow image in the file's own mode (its first frame), or a NumPy array.
    Raises:
        FileNotFoundError: no such file. ImageError: a folder, not a picture, a damaged or truncated one, no pixels,
        or more than twice `PIL.Image.MAX_IMAGE_PIXELS`; the message names the file. InputError: another type.
    """
    if isinstance(image, (str, os.PathLike)):
        return _open(Path(image), unread_jpeg)
    return decode(image) if isinstance(image, Image.Image) else to_array(image)


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
        if unread_jpeg and (opened := _unread_jpeg(path)):
            return opened
        # Opened here, because Pillow before 11.2 fails on a picture that is closed twice, and callers close it too.
        with path.open("rb") as file:
            image: Any = open_encoded(file, str(path))
            check_pixels(image.width, image.height, str(path))
            image.filename = str(path)
            return decode(image)
    except (InputError, PermissionError):
        raise
    except DECODING_ERRORS as error:
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise ImageError(f"{path}: wanted a picture that Pillow can read, found something else{reason}") from error


def _unread_jpeg(path: Path) -> Image.Image | None:
    """A JPEG file, opened but not decoded; None for other formats."""
    with ExitStack() as closing:
        try:
            image = closing.enter_context(Image.open(path))
        except Image.UnidentifiedImageError:  # it may be one that is read with help
            return None
        check_pixels(image.width, image.height, str(path))
        if not fast.is_unread(image):
            return None
        closing.pop_all()  # stays open
        return image


# Formats that Pillow lists but reads only with another library's reader or an external program (Ghostscript).
_NOT_READ = frozenset(("BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "PDF", "WMF"))


# What phones call their pictures.
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Whether HEIF pictures can be read: by pillow-heif (extra `heic`), which Pillow is then told of."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def open_encoded(file: Any, name: str, formats: Any = None) -> Image.Image:
    """`Image.open` of a file at its start; a HEIF one, whatever its name, with pillow-heif.

    Raises what Pillow does; ImageError for HEIF without pillow-heif.
    """
    try:
        return Image.open(file, formats=formats)
    except Image.UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        if head[4:8] != b"ftyp" or head[8:12] not in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            raise
        if not reads_heif():
            raise ImageError(f"{name}: a HEIC picture needs pillow-heif: pip install 'triclip[heic]'") from None
        return Image.open(file, formats=["HEIF"])


@lru_cache(maxsize=1)
def picture_suffixes() -> frozenset[str]:
    """Suffixes, lower-case with their dot, of the picture files that Pillow reads on this machine."""
    Image.init()
    reads_heif()
    found = Image.registered_extensions().items()
    return frozenset(suffix.lower() for suffix, kind in found if kind in Image.OPEN and kind not in _NOT_READ)


def fetch_image(url: Any, timeout: float = 30.0) -> Image.Image:
    """The picture at a URL (http, https), opened. Raises InputError and ImageError, which name the URL."""
    from http.client import HTTPException  # slow to import, rarely needed
    from urllib.request import Request, urlopen

    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise InputError(f"url: wanted a URL of http or https, found {short(url)}")
    try:
        with urlopen(Request(url, headers={"User-Agent": "triclip"}), timeout=timeout) as answer:
            data = answer.read(MOST_FETCHED + 1)
    except (OSError, ValueError, HTTPException) as error:  # no network, refused, or not a URL
        raise ImageError(f"{url}: wanted a picture, found that it can't be fetched ({error})") from error
    if len(data) > MOST_FETCHED:
        raise ImageError(f"{url}: wanted at most {MOST_FETCHED} bytes, found more")
    try:
        image: Any = open_encoded(io.BytesIO(data), url)
        check_pixels(image.width, image.height, url)
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        raise ImageError(f"{url}: wanted a picture that Pillow can read, found something else") from error
    image.filename = url  # for messages
    return image


def is_image(value: Any) -> bool:
    """Whether `value` is a Pillow image, an array, or a tensor of a framework (known by shape and conversion)."""
    if isinstance(value, (Image.Image, np.ndarray)):
        return True
    converts = hasattr(value, "numpy") or hasattr(value, "__array__")
    return converts and hasattr(value, "shape") and hasattr(value, "dtype")


def to_array(image: Any) -> np.ndarray:
    """An array or tensor of numbers as NumPy, without a copy if possible.

    bfloat16, which NumPy lacks, becomes float32. Raises InputError for other types, ImageError for other contents.
    """
    if not is_image(image) or isinstance(image, Image.Image):
        raise InputError(
            f"images: wanted a Pillow image, a NumPy array, a tensor, or a list of them, found {type(image).__name__}"
        )
    if hasattr(image, "detach"):  # torch: detached and on the CPU first
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

    Lists of numbers are read as one array. Raises InputError for an empty list or a value that is not a picture,
    ImageError for an array without 3 or 4 dimensions.
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


# ---- colours


def flatten(image: Image.Image, background: Any = "white") -> Image.Image:
    """A picture composed over a background colour: RGB.

    Args:
        image: of any mode. Transparency comes from an alpha channel (RGBA, LA, PA, La, RGBa), a palette's transparent
            entries, or the colour that a PNG or GIF file names as transparent (mode 1, L, I or RGB).
        background: a colour's name or "#rrggbb" as Pillow knows them, (red, green, blue) of 0 to 255, or None, which
            returns the picture unchanged.
    Returns:
        The picture itself, in its own mode, if nothing is transparent; else a new one.
    Raises:
        InputError: a background that is not a colour. ImageError: a picture that can't be read.
    """
    if background is None:
        return image
    colour = _colour(background)
    if fast.is_unread(image):  # a JPEG, which has no transparency
        return image
    image = decode(image)
    if not _has_transparency(image):
        return image
    seen = _with_alpha(image)
    return Image.alpha_composite(Image.new("RGBA", seen.size, (*colour, 255)), seen).convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    """A picture with transparency as RGBA."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):  # Pillow does not look for the key there
        seen = to_rgb(image)
        seen.putalpha(Image.fromarray(np.where(np.asarray(image) == key, np.uint8(0), np.uint8(255))))
        return seen
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image = image.copy()  # Pillow keeps the upper 8 of a file's 16 bits, but all 16 of the key
        image.info["transparency"] = tuple(value >> 8 for value in key)
    try:
        # Pillow converts premultiplied grey only in this order.
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    except (ValueError, OSError) as error:
        raise ImageError(f"{_name(image)}: wanted a mode that converts to RGB, found {image.mode} ({error})") from error


def _has_transparency(image: Image.Image) -> bool:
    # Image.has_transparency_data, which Pillow 10.1 has too, but without the premultiplied modes.
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _colour(background: Any) -> tuple[int, int, int]:
    """(red, green, blue) of a colour in one of Pillow's forms."""
    wanted = 'a colour such as "white", "#ffffff" or (255, 255, 255), or None'
    if isinstance(background, str):
        try:
            return ImageColor.getrgb(background)[:3]  # type: ignore[return-value]
        except ValueError:
            raise InputError(f"background: wanted {wanted}, found {background!r}") from None
    numbers = background if isinstance(background, (tuple, list)) else ()
    if len(numbers) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in numbers):
        raise InputError(f"background: wanted {wanted}, found {background!r}")
    return tuple(numbers)  # type: ignore[return-value]


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture in mode RGB by Pillow's conversion: alpha is dropped, palettes are looked up.

    Channels of more than 8 bits are clipped (see `warn_if_deep`). Raises ImageError for modes unknown to Pillow.
    """
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise ImageError(f"{_name(image)}: wanted a mode that converts to RGB, found {image.mode} ({error})") from error


def warn_if_deep(images: list[Any], convert_rgb: bool = True) -> None:
    """Warn once about a picture of more than 8 bits a channel, which the conversion to RGB clips: above 255 is white.

    This is what Pillow, and with it transformers, does.
    """
    for image in images:
        if convert_rgb and isinstance(image, Image.Image) and image.mode.startswith(DEEP_MODES) and _is_spoilt(image):
            warnings.warn(
                f"images: found mode {image.mode} with values that 8 bits can't hold; RGB makes all above 255 "
                "white and cuts fractions off, as in transformers. Scale such pictures to 0 to 255 first (of 16 "
                "bits: divide by 257)",
                UserWarning,
                stacklevel=6,
            )
            return


def _is_spoilt(image: Image.Image) -> bool:
    decode(image)
    try:
        extrema: Any = (image.convert("I") if ";" in image.mode else image).getextrema()
    except ValueError:  # a mode that `to_rgb` can't convert either
        return False
    low, high = extrema
    return not (low >= 0 and high <= 255 and (image.mode != "F" or bool(np.all(np.asarray(image) % 1 == 0))))


def warn_if_scaled(images: list[Any]) -> None:
    """Warn once about a float (or boolean) array in [0, 1], which rescaling would darken to nearly black."""
    for image in images:
        if isinstance(image, np.ndarray) and image.dtype.kind in "fb" and image.min() >= 0 and image.max() <= 1:
            warnings.warn(
                "images: found values in [0, 1], which do_rescale=True would divide by 255 again; "
                "pass do_rescale=False for pictures that are scaled already",
                UserWarning,
                stacklevel=6,
            )
            return
