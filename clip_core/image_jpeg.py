"""JPEG files decoded by simplejpeg where that is installed (the `jpeg` extra): Pillow's bytes, in less time.

Both ask libjpeg-turbo. Pillow stores four bytes a pixel, which have to be copied out again, and holds the interpreter's
lock meanwhile; simplejpeg fills an array in one call, and threads don't wait for each other. Whatever is unusual about
a file (colours other than RGB, damage, even a warning of libjpeg's) is left to Pillow, whose result or error counts.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

PACKED = "RGBX" if sys.byteorder == "little" else "XBGR"
MOST_BYTES = 1 << 26  # of a file read at once; Pillow reads longer ones piece by piece


def is_unread(picture: Image.Image) -> bool:
    """Whether this is a JPEG file that was opened, but not decoded."""
    return picture.format == "JPEG" and bool(getattr(picture, "tile", None)) and bool(getattr(picture, "fp", None))


def is_drafted(picture: Image.Image) -> bool:
    """Whether `Image.draft` has told it to be decoded smaller, or in other colours."""
    return bool(getattr(picture, "decoderconfig", None))


def takes(picture: Image.Image) -> bool:
    """Whether `packed_pixels` will try."""
    return is_unread(picture) and picture.mode == "RGB" and decoder() is not None


def packed_pixels(picture: Image.Image, array: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray | None:
    """An unread JPEG's pixels in `array(shape)`: int32 [H, W], red the lowest byte. None where Pillow has to decode.

    The image stays unread. After `Image.draft` it is the smaller picture that was asked for.
    """
    if not takes(picture) or not (decode := decoder()):
        return None
    width, height = picture.size
    try:
        file: Any = picture.fp  # type: ignore[attr-defined]
        if file.seek(0, os.SEEK_END) > MOST_BYTES:
            return None
        file.seek(0)  # where Pillow starts, too
        out = array((height, width))
        # The smallest of libjpeg's sizes that is no smaller than this is this one.
        smaller = {"min_height": height, "min_width": width} if is_drafted(picture) else {}
        found = decode(file.read(), PACKED, buffer=out, **smaller)
    except Exception:  # whatever it is, Pillow meets it again and reports it, or knows better
        return None
    return out if found.shape[:2] == out.shape else None


@lru_cache(maxsize=1)
def decoder() -> Callable[..., Any] | None:
    """simplejpeg's function; None where it isn't installed, or its libjpeg doesn't give the bytes of Pillow's."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg if _gives_pillows_bytes(decode_jpeg) else None


def _gives_pillows_bytes(decode: Callable[..., Any]) -> bool:
    """Tried on small pictures: a Pillow may be built with another libjpeg, which upsamples or rounds otherwise."""
    numbers = np.arange(50 * 75 * 3, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(24)  # without np.random
    noise = Image.fromarray(numbers.astype(np.uint8).reshape(50, 75, 3)).resize((83, 61))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = io.BytesIO()
        noise.save(file, "JPEG", quality=90, subsampling=subsampling)
        for part in (1, 2, 4):
            with Image.open(file) as picture:
                picture.draft("RGB", (picture.width // part, picture.height // part))
                want = np.asarray(picture)
            try:
                found = decode(file.getvalue(), "RGB", min_height=want.shape[0], min_width=want.shape[1])
            except Exception:  # another simplejpeg than is known here
                return False
            if not np.array_equal(found, want):
                return False
    return True
