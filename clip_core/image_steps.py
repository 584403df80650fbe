"""One picture through one call's steps: by the short cut where there is one, else step by step.

The steps of transformers 4.37.2: RGB, array, resize, crop, rescale, normalise, channel order.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from . import image_fast, image_jpeg, image_ops, image_profiles, image_resample
from .errors import ImageError, InputError
from .image_fast import Place
from .image_input import apply_exif, decode, to_rgb, warn_if_scaled
from .image_ops import FIRST, LAST

MOST_KEPT = 1 << 22  # pixels of a decoded JPEG, in memory that a thread keeps


@dataclass(frozen=True)
class Steps:
    """One call's settings: a step that isn't done has None."""

    size: dict[str, int] | None
    resample: Any
    crop: dict[str, int] | None
    scale: float | None
    mean: Any
    std: Any
    convert_rgb: bool
    exif: bool
    profile: str
    data_format: str | None
    input_data_format: str | None
    reduced: bool = False


def pixel_values(pictures: list[Any], steps: Steps) -> list[np.ndarray]:
    """The pictures' values, in order. Warns once about float pictures in [0, 1] that are to be rescaled."""
    return _values(pictures, steps, [None] * len(pictures))


def pixel_batch(pictures: list[Any], steps: Steps) -> np.ndarray:
    """The same as one array. Raises InputError where the shapes differ."""
    if steps.crop is None or steps.data_format != FIRST:
        return stack(_values(pictures, steps, [None] * len(pictures)))
    # Where they can be, the values are put where they belong at once. What isn't touched takes no memory.
    batch = np.empty((len(pictures), 3, steps.crop["height"], steps.crop["width"]), np.float32)
    places = list(batch)
    values = _values(pictures, steps, places)
    return batch if all(a is b for a, b in zip(values, places, strict=True)) else stack(values)


def _values(pictures: list[Any], steps: Steps, places: list[Any]) -> list[np.ndarray]:
    """Each picture's values: its place, where that has their shape and dtype, else a new array."""
    if steps.profile != "hf":
        return _each(lambda picture, place: _torchvision_values(picture, steps, place), pictures, places)
    if steps.scale is not None:
        warn_if_scaled(pictures)
    first = steps.input_data_format or _format_of(pictures[0], steps)
    return _each(lambda picture, place: _hf_values(picture, first, steps, place), pictures, places)


def _format_of(picture: Any, steps: Steps) -> str:
    """The order of a picture's channels.

    An array is read as transformers does, except where that can't be normalised and the other reading can: one row of
    an RGB picture, [1, W, 3], is channels last when there are three means.
    """
    array = _shape_only(picture, steps)
    found = image_ops.infer_channel_format(array)
    wanted = len(steps.mean) if hasattr(steps.mean, "__len__") else None
    if found == FIRST and wanted is not None and array.shape[0] != wanted == array.shape[-1]:
        return LAST
    return found


def _shape_only(picture: Any, steps: Steps) -> np.ndarray:
    """An array of the picture's shape and no memory."""
    if not isinstance(picture, Image.Image):
        return picture
    bands = 3 if steps.convert_rgb else len(picture.getbands())
    width, height = _upright_size(picture, steps)
    return np.broadcast_to(np.uint8(0), (height, width, bands) if bands > 1 else (height, width))


def _twin(picture: Any) -> Any:
    """Another Image over the file of a JPEG that was opened but not decoded.

    The caller's stays as it is, and its pixels don't pile up in a list of many: new memory is slow.
    """
    twin = Image.open(picture.fp, formats=["JPEG"])
    twin.filename = getattr(picture, "filename", "")  # type: ignore[attr-defined]  # for messages
    return twin


def _opened(picture: Image.Image, steps: Steps) -> Image.Image:
    """The picture decoded, and upright when asked for."""
    alone = image_jpeg.is_unread(picture) and not image_jpeg.is_drafted(picture)  # a twin would know of no draft
    picture = decode(_twin(picture) if alone else picture)
    return apply_exif(picture) if steps.exif else picture


def _upright_size(picture: Image.Image, steps: Steps) -> tuple[int, int]:
    """(width, height) after turning, where the steps ask for that: orientations 5 to 8 swap the edges."""
    width, height = picture.size
    return (height, width) if steps.exif and picture.getexif().get(0x0112, 1) >= 5 else (width, height)


def _reduced(picture: Image.Image, steps: Steps) -> tuple[Image.Image, Steps]:
    """An unread JPEG, told to be decoded smaller; the steps then state its exact resized size."""
    if not image_jpeg.is_unread(picture) or image_jpeg.is_drafted(picture) or picture.mode not in ("RGB", "L"):
        return picture, steps
    assert steps.size
    height, width = image_ops.resized_size(picture.height, picture.width, steps.size)
    if 2 * height > picture.height or 2 * width > picture.width:
        return picture, steps
    smaller = _twin(picture)
    smaller.draft(picture.mode, (width, height))
    upright = _upright_size(picture, steps)
    height, width = image_ops.resized_size(upright[1], upright[0], steps.size)
    return smaller, replace(steps, size={"height": height, "width": width})


def _jpeg_pixels(picture: Image.Image, steps: Steps, place: Place) -> np.ndarray | None:
    """An unread JPEG's packed pixels by the quicker decoder, if they will be resized as an array; else None."""
    if steps.exif and picture.getexif().get(0x0112, 1) != 1:
        return None
    if not image_fast.by_products(picture.size, place, steps.resample):
        return None
    return image_jpeg.packed_pixels(picture, _memory)


def _memory(shape: tuple[int, ...]) -> np.ndarray:
    """int32 that the thread uses again, since new memory is slow; but a huge picture's is given back."""
    if math.prod(shape) > MOST_KEPT:
        return np.empty(shape, np.int32)
    return image_resample.scratch("jpeg", shape, np.int32)


def _hf_values(picture: Any, first: str, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """One picture's values, by the short cut where there is one."""
    source = first
    if steps.input_data_format is None:
        # The first picture's order is taken for all, as in transformers; one that can't have it decides for itself.
        shape = _shape_only(picture, steps).shape
        if len(shape) != 3 or shape[0 if first == FIRST else -1] not in (1, 3):
            source = _format_of(picture, steps)
    if isinstance(picture, Image.Image):
        if steps.reduced and steps.size:
            picture, steps = _reduced(picture, steps)
        if source == LAST and image_jpeg.takes(picture):
            packed = _jpeg_pixels(picture, steps, image_fast.central_place(picture.size, steps.size, steps.crop))
            if packed is not None:
                return fast_values(packed, source, steps, place)
        picture = _opened(picture, steps)
        picture = to_rgb(picture) if steps.convert_rgb else picture
        if picture.mode != "RGB" or source != LAST:
            picture = np.array(picture)
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3:
            raise ImageError(f"images: wanted 3 dimensions, found shape {picture.shape}; keep do_convert_rgb=True")
        if picture.dtype != np.uint8 or image_ops.channel_count(picture, source) not in (1, 3):
            return plain_values(picture, source, steps)
        picture, _ = image_ops.to_pil(picture, source)
    return fast_values(picture, source, steps, place)


def plain_values(image: np.ndarray, source: str, steps: Steps) -> np.ndarray:
    """One array through every step in turn: what `fast_values` has to equal."""
    if steps.size:
        height, width = image_ops.resized_size(*image_ops.image_size(image, source), steps.size)
        image = image_ops.resize(image, height, width, steps.resample, source)
    if steps.crop:
        image = image_ops.center_crop(image, steps.crop["height"], steps.crop["width"], source)
    if steps.scale is not None:
        image = image_ops.rescale(image, steps.scale)
    if steps.mean is not None:
        image = image_ops.normalize(image, steps.mean, steps.std, source)
    return image_ops.to_channel_format(image, steps.data_format or source, source)


def fast_values(
    picture: Image.Image | np.ndarray, source: str, steps: Steps, place: np.ndarray | None = None
) -> np.ndarray:
    """One RGB or L picture: both resizing passes around the crop, then a table in place of the arithmetic.

    It may be packed pixels where `image_fast.by_products` allows it.
    """
    central = image_fast.central_place(image_resample.size_of(picture), steps.size, steps.crop)
    planes = image_fast.planes(picture, central, steps.resample)
    table = image_fast.lookup_table(len(planes), steps.scale, steps.mean, steps.std)
    values = image_fast.look_up(planes, table, steps.crop, place)
    return image_ops.to_channel_format(values, steps.data_format or source, FIRST)


def _torchvision_values(picture: Any, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """One picture's values in the `openai` and `open_clip` profiles; an array is made a Pillow image first."""
    source = LAST
    if not isinstance(picture, Image.Image):
        source = steps.input_data_format or _format_of(picture, steps)
        picture, _ = image_ops.to_pil(picture, source)
    planes = _torchvision_planes(picture, steps)
    table = image_profiles.lookup_table(len(planes), steps.scale, steps.mean, steps.std)
    return image_ops.to_channel_format(
        image_fast.look_up(planes, table, None, place), steps.data_format or source, FIRST
    )


def _torchvision_planes(picture: Image.Image, steps: Steps) -> np.ndarray:
    """A picture resized and cropped, as [C, H, W]: by the short cuts where it is RGB and no smaller than the crop."""
    if not (unread := image_jpeg.takes(picture)):
        picture = _opened(picture, steps)
    wanted, fits = image_profiles.central_place(_upright_size(picture, steps), steps.size, steps.crop, steps.profile)
    if unread:
        packed = _jpeg_pixels(picture, steps, wanted) if fits else None
        if packed is not None:
            return image_fast.planes(packed, wanted, steps.resample)
        picture = _opened(picture, steps)
    if fits and picture.mode == "RGB":
        return image_fast.planes(picture, wanted, steps.resample)
    try:
        pixels = image_profiles.torchvision_pixels(picture, wanted, steps.crop, steps.resample, steps.convert_rgb)
    except (ImageError, InputError):
        raise
    except ValueError as error:
        raise ImageError(f"images: wanted a mode that Pillow resizes, found {picture.mode} ({error})") from error
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _each(
    function: Callable[[Any, Any], np.ndarray], pictures: list[Any], places: list[np.ndarray | None]
) -> list[np.ndarray]:
    """The function over the pictures, on as many threads as there are cores: Pillow and NumPy let others run."""
    workers = min(len(pictures), os.cpu_count() or 1)
    if workers == 1:
        return list(map(function, pictures, places))
    seen: set[int] = set()
    for picture in pictures:
        # A picture may be in the list twice; two threads mustn't decode it at once.
        if isinstance(picture, Image.Image) and id(picture) in seen:
            decode(picture)
        seen.add(id(picture))
    out: list[Any] = [None] * len(pictures)
    failed: dict[int, Exception] = {}
    numbers = iter(range(len(pictures)))  # each goes to one thread

    def work() -> None:
        for number in numbers:
            try:
                out[number] = function(pictures[number], places[number])
            except Exception as error:
                failed[number] = error
                deque(numbers, maxlen=0)  # no more are begun

    # One future for each thread: one for each picture would wake the caller, and have it wait for the lock, at each.
    threads = _threads(os.getpid())
    try:
        for future in [threads.submit(work) for _ in range(workers)]:
            future.result()
    finally:
        deque(numbers, maxlen=0)
    if failed:
        raise failed[min(failed)]
    return out


@lru_cache(maxsize=1)
def _threads(process: int) -> Any:
    """A thread per core, kept with its memory for the next call; a forked `process` has none and starts its own."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="triclip-images")


def stack(pixels: list[np.ndarray]) -> np.ndarray:
    shapes = {array.shape for array in pixels}
    if len(shapes) > 1:
        raise InputError(
            f"images: wanted results of one shape to make one tensor, found {sorted(shapes)}; "
            f"keep do_center_crop, or pass return_tensors=None for a list"
        )
    return np.stack(pixels)
