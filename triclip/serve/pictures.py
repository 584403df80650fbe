"""Picture files of unknown origin: identifying, decoding, and thumbnails."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image

from clip_core.errors import ImageError
from clip_core.image.input import DECODING_ERRORS, apply_exif, load_image, open_encoded, reads_heif

from ..grid import thumbnail
from .limits import Refusal

# Pillow's formats for the suffixes that `Clip` reads in a folder. Others, such as EPS, would start programs.
TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "PPM": "image/x-portable-pixmap",
    "AVIF": "image/avif",
    "JPEG2000": "image/jp2",
    "ICO": "image/x-icon",
    "HEIF": "image/heic",
}
_QUALITY = 88


def media_type(image: Image.Image) -> str:
    """The media type of a picture's file."""
    return TYPES.get(str(image.format), "image/jpeg")  # Pillow's name of a JPEG with several pictures


def identify(file: BinaryIO, most_pixels: int) -> Image.Image:
    """A picture with its header read and its size checked, not decoded.

    Raises Refusal: 415 for another format, 413 for too many pixels.
    """
    reads_heif()
    Image.init()  # formats that this Pillow was built without are not registered then
    able = [name for name in TYPES if name in Image.OPEN]
    try:
        image = open_encoded(file, "picture", able)
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"picture: wanted at most {most_pixels} pixels, found far more") from error
    except ImageError as error:  # one that this machine lacks a reader for
        raise Refusal(415, str(error)) from error
    except DECODING_ERRORS as error:
        raise Refusal(415, f"picture: wanted one of {', '.join(able)}, found something else") from error
    width, height = image.size
    if width * height > most_pixels:
        raise Refusal(413, f"picture: wanted at most {most_pixels} pixels, found {width} x {height}")
    return image


_EXIF = {"taken": (0x9003, 0x0132), "camera": (0x0110,), "lens": (0xA434,)}  # the first that is there


def picture_facts(image: Image.Image, size: int) -> dict[str, str]:
    """Format, pixels, bytes, and from its EXIF when it was taken and with what; nothing of where."""
    facts = {"format": str(image.format), "pixels": f"{image.width} × {image.height}", "bytes": f"{size:,}"}
    try:
        exif = image.getexif()
        known = {**exif, **exif.get_ifd(0x8769)}
    except DECODING_ERRORS:
        return facts
    for name, tags in _EXIF.items():
        value = next((known[tag] for tag in tags if isinstance(known.get(tag), str)), "").strip("\0 ")
        if value:
            facts[name] = value[:200]
    return facts


def decode(file: BinaryIO, most_pixels: int) -> Image.Image:
    """A decoded picture for `Clip`. Raises Refusal: as `identify`, and 400 if it is damaged."""
    try:
        return load_image(identify(file, most_pixels))  # type: ignore[return-value]
    except ImageError as error:
        raise Refusal(400, str(error).replace("images:", "picture:", 1)) from error


def small_jpeg(image: Image.Image, side: int) -> bytes:
    """A JPEG copy of a picture, upright, over white, at most `side` pixels wide and high.

    `image`: from `identify`; a JPEG is decoded at about the needed size. Raises Refusal 400.
    """
    image.draft("RGB", (side, side))
    out = io.BytesIO()
    try:
        thumbnail(apply_exif(load_image(image)), (side, side)).save(out, "JPEG", quality=_QUALITY)  # type: ignore[arg-type]
    except DECODING_ERRORS as error:
        raise Refusal(400, "picture: wanted a readable picture, found a damaged one") from error
    return out.getvalue()
