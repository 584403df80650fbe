"""Picture files of unknown origin: identifying, decoding, and thumbnails."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image

from clip_core.errors import ImageError
from clip_core.image.input import DECODING_ERRORS, apply_exif, load_image

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
}
_QUALITY = 88


def media_type(image: Image.Image) -> str:
    """The media type of a picture's file."""
    return TYPES.get(str(image.format), "image/jpeg")  # Pillow's name of a JPEG with several pictures


def identify(file: BinaryIO, most_pixels: int) -> Image.Image:
    """A picture with its header read and its size checked, not decoded.

    Raises Refusal: 415 for another format, 413 for too many pixels.
    """
    Image.init()  # without formats that this Pillow lacks
    able = [name for name in TYPES if name in Image.OPEN]
    try:
        image = Image.open(file, formats=able)
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"picture: wanted at most {most_pixels} pixels, found far more") from error
    except DECODING_ERRORS as error:
        raise Refusal(415, f"picture: wanted one of {', '.join(able)}, found something else") from error
    width, height = image.size
    if width * height > most_pixels:
        raise Refusal(413, f"picture: wanted at most {most_pixels} pixels, found {width} x {height}")
    return image


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
