"""Faster steps of the image processor. Tests check that each gives exactly the plain path's bytes and floats.

- Pillow resizes an 8-bit picture in two passes, across and down, rounding to bytes between them. Here each pass is a
  call of its own, and the crop is applied between and after them. (`resize(box=...)` rounds its coefficients
  differently.)
- Step "pixels": large pictures are resized by matrix products (`resample.py`).
- Step "jpeg": JPEG files are decoded by simplejpeg where that is installed (the extra `jpeg`). Like Pillow, it calls
  libjpeg-turbo. Files with anything unusual (colours other than RGB, damage, even a warning of libjpeg) are left to
  Pillow, whose result or error counts.
- The rescaled and normalised value depends only on the byte and its channel: it comes from a table of 256 floats for
  each channel, or from three float32 operations where these give the same 256 floats.
- Pictures are spread over the usable processors.

The two named steps are faster on some processors only; `machine.choice` decides.
"""

from __future__ import annotations

import io
import math
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image, ImageFile

from .. import machine
from . import resample as products
from .ops import channel_values
from .resample import FILTER_SUPPORT, packed_pixels

# The order of the passes affects the bytes, and Pillow 13 changed it for tall pictures (ImagingResampleInner in its
# Resample.c). A later major version may change it again, so passes are split only up to this one.
PILLOW = int(PIL.__version__.split(".")[0])
NEWEST_KNOWN_PILLOW = 13

# The pass down computes whole columns, even if few of their rows are kept; this is the most pixels at a time.
MAX_COLUMN_PIXELS = 1 << 24


def passes_down_first(size: tuple[int, int], height: int, width: int, pillow: int = PILLOW) -> bool:
    """Whether this Pillow resizes a picture of `size` (width, height) down before across."""
    shorter = size[1] - height
    return pillow >= 13 and shorter > 0 and shorter > 2 * (size[0] - width)


def resize_and_crop(
    picture: Image.Image, height: int, width: int, box: tuple[int, int, int, int], resample: Any
) -> Image.Image:
    """`picture.resize((width, height), resample).crop(box)` of an RGB or L picture; computes only what the crop keeps.

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
    """The pass across; rows that the pass down does not read stay black."""
    scale = picture.height / height
    reach = FILTER_SUPPORT[resample] * max(scale, 1.0) + 2
    first = max(0, math.floor((top + 0.5) * scale - reach))
    last = min(picture.height, math.ceil((bottom - 0.5) * scale + reach))
    if (last - first) * 8 > picture.height * 7:  # the gain would not cover the copies
        return picture.resize((width, picture.height), resample)
    needed = picture.crop((0, first, picture.width, last)).resize((width, last - first), resample)
    result = Image.new(picture.mode, (width, picture.height))
    result.paste(needed, (0, first))
    return result


def _down(picture: Image.Image, height: int, top: int, bottom: int, resample: Any) -> Image.Image:
    """Rows `top` to `bottom` of the pass down, in strips if whole columns would take too much memory."""
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
    """The size of a resized picture, and the box to keep of it."""

    height: int  # of the whole resized picture
    width: int
    box: tuple[int, int, int, int]  # (left, top, right, bottom) in it


def planes(picture: Image.Image, place: Place, resample: Any, packed: np.ndarray | None = None) -> np.ndarray:
    """An RGB or L picture resized and cropped: bytes [C, H, W] as uint8, or as float32 in memory of the thread.

    The thread's next call reuses that memory. `packed`: the picture's pixels, if `load` returned them.
    """
    height, width, box = place
    taken = PILLOW <= NEWEST_KNOWN_PILLOW and products.suits(picture.size, height, width, box, resample)
    if not taken or not machine.choice("pixels", _products_ratio):
        pixels = np.asarray(resize_and_crop(picture, height, width, box, resample))
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    return _planes_by_products(picture.size, packed_pixels(picture) if packed is None else packed, place, resample)


def _planes_by_products(size: tuple[int, int], packed: np.ndarray, place: Place, resample: Any) -> np.ndarray:
    height, width, box = place
    if not passes_down_first(size, height, width):
        return products.resized_planes(packed, height, width, box, resample)
    left, top, right, bottom = box
    turned = (top, left, bottom, right)
    return products.resized_planes(packed.swapaxes(0, 1), width, height, turned, resample).transpose(0, 2, 1)


def _products_ratio() -> float:
    """Pillow's time over the products' time, for a picture of 512 x 384 made 224 pixels high."""
    picture, place = _sample(512, 384), Place(224, 298, (37, 0, 261, 224))
    return machine.quicker(
        lambda: _planes_by_products(picture.size, packed_pixels(picture), place, Image.Resampling.BICUBIC),
        lambda: np.asarray(resize_and_crop(picture, *place, Image.Resampling.BICUBIC)),
    )


def _sample(width: int, height: int) -> Image.Image:
    """Smooth colours with fine noise, like a photograph, without `np.random`, whose state belongs to the caller."""
    numbers = np.arange(9000, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(24)
    noise = Image.fromarray(np.resize(numbers.astype(np.uint8), (height, width, 3)))
    smooth = noise.crop((0, 0, 9, 7)).resize((width, height), Image.Resampling.BILINEAR)
    return Image.blend(smooth, noise, 0.2)


class ByteValues(NamedTuple):
    """The value of each byte: looked up, or computed if that is known to give the same floats."""

    table: np.ndarray  # [channels, 256]
    arithmetic: tuple[np.ndarray, np.ndarray] | None  # float32 mean and std [channels, 1, 1]: (byte / 255 - mean) / std


def byte_values(table: np.ndarray, mean: tuple | None, std: tuple | None) -> ByteValues:
    """A table, with the arithmetic if it gives the same values to the bit: computing is faster than looking up."""
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


def lookup_table(worked_out: Callable, channels: int, scale: float | None, mean: Any, std: Any) -> ByteValues:
    """The value of every byte after rescaling by `scale` and normalising (each unless None).

    `worked_out(bytes [C, 1, 256], scale, mean, std)`: a profile's arithmetic.
    """
    if mean is None:
        return _table(worked_out, channels, scale, None, None)
    means, stds = channel_values(mean, channels, "image_mean"), channel_values(std, channels, "image_std")
    return _table(worked_out, channels, scale, tuple(means), tuple(stds))


@lru_cache(maxsize=16)
def _table(
    worked_out: Callable, channels: int, scale: float | None, mean: tuple | None, std: tuple | None
) -> ByteValues:
    every = np.tile(np.arange(256, dtype=np.uint8), (channels, 1, 1))
    return byte_values(worked_out(every, scale, mean, std)[:, 0], mean, std)


def look_up(planes: np.ndarray, values: ByteValues, out: np.ndarray | None = None) -> np.ndarray:
    """The values of bytes [C, H, W] (uint8 or float32), written to `out` if it has their shape and dtype."""
    if out is None or out.shape != planes.shape or out.dtype != values.table.dtype:
        out = np.empty(planes.shape, values.table.dtype)
    if values.arithmetic:
        return _work_out(planes, *values.arithmetic, out=out)
    for plane, row, part in zip(planes.astype(np.uint8, copy=False), values.table, out, strict=True):
        # A byte is always inside the table; "clip" avoids NumPy's buffered copy.
        np.take(row, plane, out=part, mode="clip")
    return out


# ---- JPEG files

PACKED = "RGBX" if sys.byteorder == "little" else "XBGR"
MOST_BYTES = 1 << 26  # of a file read at once; Pillow reads longer ones piece by piece


def is_unread(picture: Image.Image) -> bool:
    """Whether this is a JPEG file that was opened but not decoded."""
    return picture.format == "JPEG" and bool(getattr(picture, "tile", None)) and bool(getattr(picture, "fp", None))


def is_drafted(picture: Image.Image) -> bool:
    """Whether `Image.draft` was called to decode it smaller or in another mode."""
    return bool(getattr(picture, "decoderconfig", None))


def load(picture: Image.Image) -> np.ndarray | None:
    """`picture.load()`, with simplejpeg as the decoder of a JPEG file if that is faster.

    Returns its packed pixels in that case (see `packed_pixels`), in memory that the thread's next call reuses; else
    None.
    """
    packed = _decoded(picture) if takes(picture) else None
    if packed is None:
        picture.load()
    else:
        _hand_over(packed, picture)
    return packed


def takes(picture: Image.Image) -> bool:
    """Whether `load` tries simplejpeg."""
    return is_unread(picture) and picture.mode == "RGB" and quick_decoder() is not None


def quick_decoder() -> Callable[..., Any] | None:
    """simplejpeg's function if the step "jpeg" takes its short cut."""
    return decoder() if machine.choice("jpeg", _jpeg_ratio) else None


def _decoded(picture: Image.Image) -> np.ndarray | None:
    """The packed pixels of an unread JPEG, which stays unread; None if Pillow has to decode it.

    After `Image.draft`, those of the smaller picture that was asked for.
    """
    decode = decoder()
    width, height = picture.size
    try:
        assert decode is not None
        file: Any = picture.fp  # type: ignore[attr-defined]
        if file.seek(0, os.SEEK_END) > MOST_BYTES:
            return None
        file.seek(0)  # Pillow starts there too
        out = products.scratch("decoded", (height, width), np.int32)
        # A drafted size is one that libjpeg offers, so the smallest size that is not below it is exactly this one.
        smaller = {"min_height": height, "min_width": width} if is_drafted(picture) else {}
        found = decode(file.read(), PACKED, buffer=out, **smaller)
    except Exception:  # Pillow reads the same file: it reports the error or decodes the file
        return None
    return out if found.shape[:2] == out.shape else None


class _Given(ImageFile.PyDecoder):
    """A decoder for Pillow that copies pixels already decoded, so that `load` does everything else as usual."""

    _pulls_fd = True  # it takes nothing from the file

    def decode(self, buffer: Any) -> tuple[int, int]:
        self.set_as_raw(self.args[0], PACKED)
        return -1, 0


Image.register_decoder("triclip", _Given)


def _hand_over(packed: np.ndarray, picture: Any) -> None:
    """Leave the picture as Pillow's `load` does: decoded, its file closed."""
    picture.tile = [("triclip", (0, 0, *picture.size), 0, (packed,))]
    picture.load()


@lru_cache(maxsize=1)
def decoder() -> Callable[..., Any] | None:
    """simplejpeg's function; None if it is not installed or its libjpeg gives other bytes than Pillow's."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg if _gives_pillows_bytes(decode_jpeg) else None


def _gives_pillows_bytes(decode: Callable[..., Any]) -> bool:
    """Compare both on small pictures: Pillow may have another libjpeg, which upsamples or rounds differently."""
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = io.BytesIO()
        _sample(83, 61).save(file, "JPEG", quality=90, subsampling=subsampling)
        for part in (1, 2, 4):
            with Image.open(file) as picture:
                picture.draft("RGB", (picture.width // part, picture.height // part))
                want = np.asarray(picture)
            try:
                found = decode(file.getvalue(), "RGB", min_height=want.shape[0], min_width=want.shape[1])
            except Exception:  # an unknown version of simplejpeg
                return False
            if not np.array_equal(found, want):
                return False
    return True


def _jpeg_ratio() -> bool | float:
    """Pillow's time over simplejpeg's, from the file to the next step's input; False without simplejpeg."""
    if decoder() is None:
        return False
    file = io.BytesIO()
    _sample(512, 384).save(file, "JPEG", quality=90)
    packed = machine.choice("pixels", _products_ratio)

    def by_pillow() -> None:
        with Image.open(file) as picture:
            picture.load()
            if packed:
                packed_pixels(picture)

    def by_simplejpeg() -> None:
        with Image.open(file) as picture:
            found = _decoded(picture)
            assert found is not None
            _hand_over(found, picture)

    return machine.quicker(by_simplejpeg, by_pillow)


def measure() -> None:
    """Make both steps' choices now instead of at first use."""
    machine.choice("pixels", _products_ratio)
    machine.choice("jpeg", _jpeg_ratio)


# ---- threads

Result = TypeVar("Result")


def on_threads(count: int, function: Callable[[int], Result]) -> list[Result]:
    """`function(number)` for each number below `count`, on as many threads as there are usable processors.

    libjpeg, Pillow and NumPy release the GIL while they work. Raises the first error in the order of the numbers; after
    an error no further number is started.
    """
    workers = min(count, machine.usable_cpus())
    if workers <= 1:
        return [function(number) for number in range(count)]
    work = _Work(count, function)
    # One future for each thread, not for each number: every future that ends wakes the caller, which takes the GIL.
    pool = _pool(os.getpid(), machine.usable_cpus())
    try:
        for future in [pool.submit(work.run) for _ in range(workers)]:
            future.result()
    finally:
        work.begin_no_more()
    if work.failed:
        raise work.failed[min(work.failed)]
    return work.out


class _Work:
    """A queue of numbers for threads, with each number's result or error."""

    def __init__(self, count: int, function: Callable[[int], Any]) -> None:
        self.function = function
        self.out: list[Any] = [None] * count
        self.failed: dict[int, Exception] = {}
        self._left = iter(range(count))
        self._lock = threading.Lock()

    def run(self) -> None:
        """One thread's loop."""
        while (number := self._next()) is not None:
            try:
                self.out[number] = self.function(number)
            except Exception as error:  # the caller raises the first
                self.failed[number] = error
                self.begin_no_more()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._left, None)

    def begin_no_more(self) -> None:
        with self._lock:
            self._left = iter(range(0))


@lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> Any:
    """A pool of threads, kept with their scratch memory for the next call; a forked `process` makes its own."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers, thread_name_prefix="triclip-images")
