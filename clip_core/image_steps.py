"""One picture through one call's steps: by the short cut where there is one, else step by step.

The steps of transformers 4.37.2: RGB, array, resize, crop, rescale, normalise, channel order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from . import image_fast, image_jpeg, image_ops, image_profiles
from .errors import ImageError, InputError
from .image_fast import ByteValues, Place
from .image_input import apply_exif, decode, to_rgb, warn_if_scaled
from .image_ops import FIRST, LAST
from .image_threads import Memory, in_two_steps

_memory = Memory(np.int32)  # of decoded JPEG files


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
    order = None  # of the channels
    if steps.profile == "hf":
        if steps.scale is not None:
            warn_if_scaled(pictures)
        order = steps.input_data_format or _format_of(pictures[0], steps)
    _decode_repeated(pictures)

    def values(number: int, decoded: Decoded | None) -> np.ndarray:
        if decoded is not None:
            return _resized_values(decoded, steps, places[number])
        if order is not None:
            return _hf_values(pictures[number], order, steps, places[number])
        return _torchvision_values(pictures[number], steps, places[number])

    return in_two_steps(len(pictures), lambda number: _decoded(pictures[number], order, steps), values)


def _decode_repeated(pictures: list[Any]) -> None:
    """Decodes what is in the list twice: two threads mustn't do so at once."""
    seen: set[int] = set()
    for picture in pictures:
        if isinstance(picture, Image.Image) and id(picture) in seen:
            decode(picture)
        seen.add(id(picture))


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
    """Where the steps ask for it, an unread JPEG told to be decoded smaller; they then state its exact resized size."""
    if not steps.reduced or not steps.size or picture.mode not in ("RGB", "L"):
        return picture, steps
    if not image_jpeg.is_unread(picture) or image_jpeg.is_drafted(picture):
        return picture, steps
    height, width = image_ops.resized_size(picture.height, picture.width, steps.size)
    if 2 * height > picture.height or 2 * width > picture.width:
        return picture, steps
    smaller = _twin(picture)
    smaller.draft(picture.mode, (width, height))
    upright = _upright_size(picture, steps)
    height, width = image_ops.resized_size(upright[1], upright[0], steps.size)
    return smaller, replace(steps, size={"height": height, "width": width})


class Decoded(NamedTuple):
    """A JPEG file before it is resized."""

    pixels: np.ndarray  # packed, in `_memory`
    wanted: Place


def _decoded(picture: Any, order: str | None, steps: Steps) -> Decoded | None:
    """An unread JPEG by the quicker decoder, if it will be resized as an array; else None, and nothing is done."""
    if not isinstance(picture, Image.Image) or not image_jpeg.takes(picture):
        return None
    if steps.exif and picture.getexif().get(0x0112, 1) != 1:
        return None
    if order is None:
        wanted, fits = image_profiles.central_place(picture.size, steps.size, steps.crop, steps.profile)
        if not fits:
            return None
    else:
        if _order_of(picture, order, steps) != LAST:
            return None
        picture, steps = _reduced(picture, steps)
        wanted = image_fast.central_place(picture.size, steps.size, steps.crop)
    if not image_fast.by_products(picture.size, wanted, steps.resample):
        return None
    pixels = image_jpeg.packed_pixels(picture, _memory.take)
    return None if pixels is None else Decoded(pixels, wanted)


def _resized_values(decoded: Decoded, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """The rest of the steps."""
    planes = image_fast.planes(decoded.pixels, decoded.wanted, steps.resample)
    _memory.give_back(decoded.pixels)
    return _finished(planes, LAST, steps, place)


def _finished(planes: np.ndarray, source: str, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """Resized bytes [C, H, W] as their values, in the order that is asked for or else `source`."""
    hf = steps.profile == "hf"
    tables: Any = image_fast if hf else image_profiles
    table: ByteValues = tables.lookup_table(len(planes), steps.scale, steps.mean, steps.std)
    values = image_fast.look_up(planes, table, steps.crop if hf else None, place)
    return image_ops.to_channel_format(values, steps.data_format or source, FIRST)


def _order_of(picture: Any, order: str, steps: Steps) -> str:
    """The order of a picture's channels: `order`, the first one's, is taken for all, as in transformers.

    A picture that can't have it decides for itself.
    """
    if steps.input_data_format is None:
        shape = _shape_only(picture, steps).shape
        if len(shape) != 3 or shape[0 if order == FIRST else -1] not in (1, 3):
            return _format_of(picture, steps)
    return order


def _hf_values(picture: Any, order: str, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """One picture's values in the `hf` profile, by the short cut where there is one."""
    source = _order_of(picture, order, steps)
    if isinstance(picture, Image.Image):
        picture, steps = _reduced(picture, steps)
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


def fast_values(picture: Image.Image, source: str, steps: Steps, place: np.ndarray | None = None) -> np.ndarray:
    """One RGB or L picture: both resizing passes around the crop, then a table in place of the arithmetic."""
    wanted = image_fast.central_place(picture.size, steps.size, steps.crop)
    return _finished(image_fast.planes(picture, wanted, steps.resample), source, steps, place)


def _torchvision_values(picture: Any, steps: Steps, place: np.ndarray | None) -> np.ndarray:
    """One picture's values in the `openai` and `open_clip` profiles; an array is made a Pillow image first."""
    source = LAST
    if not isinstance(picture, Image.Image):
        source = steps.input_data_format or _format_of(picture, steps)
        picture, _ = image_ops.to_pil(picture, source)
    return _finished(_torchvision_planes(picture, steps), source, steps, place)


def _torchvision_planes(picture: Image.Image, steps: Steps) -> np.ndarray:
    """A picture resized and cropped, as [C, H, W]: by the short cuts where it is RGB and no smaller than the crop."""
    picture = _opened(picture, steps)
    wanted, fits = image_profiles.central_place(picture.size, steps.size, steps.crop, steps.profile)
    if fits and picture.mode == "RGB":
        return image_fast.planes(picture, wanted, steps.resample)
    try:
        pixels = image_profiles.torchvision_pixels(picture, wanted, steps.crop, steps.resample, steps.convert_rgb)
    except (ImageError, InputError):
        raise
    except ValueError as error:
        raise ImageError(f"images: wanted a mode that Pillow resizes, found {picture.mode} ({error})") from error
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def stack(pixels: list[np.ndarray]) -> np.ndarray:
    shapes = {array.shape for array in pixels}
    if len(shapes) > 1:
        raise InputError(
            f"images: wanted results of one shape to make one tensor, found {sorted(shapes)}; "
            f"keep do_center_crop, or pass return_tensors=None for a list"
        )
    return np.stack(pixels)
