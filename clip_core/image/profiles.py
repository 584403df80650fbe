"""The steps of one call, for one picture. Three profiles follow the order and the rounding of three libraries.

`hf`: transformers 4.37.2's order: RGB, array, resize, crop, rescale, normalise, channel order.

`openai` and `open_clip`: OpenAI's `clip.py` and open_clip 3.3's `transform.py` both compose torchvision's Resize,
CenterCrop, conversion to RGB, ToTensor and Normalize. Against `hf`: a picture is resized and cropped in its own mode
(so palettes without interpolation, alpha premultiplied) and becomes RGB last; the crop starts at `int(round(d / 2))`,
not `d // 2`; a byte is divided by 255 in float32, not multiplied by 1/255 in float64. The two differ where the crop is
not square or `size` is {longest_edge}: open_clip then scales the picture to cover (or to fit into) the crop, rounding
both edges; OpenAI's code knows only the shortest edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageError, InputError
from . import fast, ops
from .fast import ByteValues, Place
from .input import loaded, reduced_twin, to_rgb, upright_size, warn_if_deep, warn_if_scaled
from .ops import FIRST, LAST, MAX_PIXELS


class Profile(NamedTuple):
    """The functions in which the profiles differ."""

    resized_size: Callable[[int, int, Mapping[str, int], Mapping[str, int] | None], tuple[int, int]]
    crop_offset: Callable[[int, int], int]
    worked_out: Callable[[np.ndarray, float | None, Any, Any], np.ndarray]  # bytes [C, 1, 256] -> values
    values: Callable[[Any, str, Steps, np.ndarray | None], np.ndarray]
    keeps_order: bool  # the channel order of the first picture is used for all


@dataclass(frozen=True)
class Steps:
    """One call's settings; None for a step that is not done."""

    size: dict[str, int] | None
    resample: Any
    crop: dict[str, int] | None
    scale: float | None
    mean: Any
    std: Any
    convert_rgb: bool
    exif: bool
    profile: Profile
    data_format: str | None
    input_data_format: str | None
    reduced: bool = False

    def place(self, original: tuple[int, int]) -> Place:
        """The part of a resized picture that the crop keeps; the whole edge if it is shorter than the crop.

        `original`: the picture's (width, height). Raises ImageError for more than MAX_PIXELS.
        """
        width, height = original
        if self.size:
            height, width = self.profile.resized_size(height, width, self.size, self.crop)
        left, top, right, bottom = 0, 0, width, height
        if self.crop:
            left = max(0, self.profile.crop_offset(width, self.crop["width"]))
            top = max(0, self.profile.crop_offset(height, self.crop["height"]))
            right, bottom = min(width, left + self.crop["width"]), min(height, top + self.crop["height"])
        if (right - left) * (bottom - top) > MAX_PIXELS:
            raise ImageError(
                f"images: wanted at most {MAX_PIXELS} pixels after resizing, found {width} x {height} of a picture of "
                f"{original[0]} x {original[1]}"
            )
        return Place(height, width, (left, top, right, bottom))

    def table(self, channels: int) -> ByteValues:
        """The value of every byte of each channel."""
        return fast.lookup_table(self.profile.worked_out, channels, self.scale, self.mean, self.std)

    def bytes(self, picture: Image.Image) -> np.ndarray:
        """An RGB or L picture resized and cropped, not padded: uint8 [H, W, 3] or [H, W]."""
        return np.asarray(fast.resize_and_crop(picture, *self.place(picture.size), self.resample))

    def finish(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Write the values of bytes [H, W, C], padded to the crop, into `out` [C, H, W]."""
        fast.look_up(_padded(pixels.transpose(2, 0, 1), self.crop), self.table(pixels.shape[2]), out)


def pixel_values(pictures: list[Any], steps: Steps) -> list[np.ndarray]:
    """The pictures' values, in order. Warns once about pictures whose values are clipped, as in transformers."""
    return _values(pictures, steps, [None] * len(pictures))


def pixel_batch(pictures: list[Any], steps: Steps) -> np.ndarray:
    """As `pixel_values`, in one array. Raises InputError if the shapes differ."""
    if steps.crop is None or steps.data_format != FIRST:
        return stack(_values(pictures, steps, [None] * len(pictures)))
    # Values are written directly into the batch if possible. Untouched memory is never allocated by the system.
    batch = np.empty((len(pictures), 3, steps.crop["height"], steps.crop["width"]), np.float32)
    places = list(batch)
    values = _values(pictures, steps, places)
    return batch if all(a is b for a, b in zip(values, places, strict=True)) else stack(values)


def stack(pixels: list[np.ndarray]) -> np.ndarray:
    """Arrays stacked; InputError if their shapes differ."""
    shapes = {array.shape for array in pixels}
    if len(shapes) > 1:
        raise InputError(
            f"images: wanted results of one shape to make one tensor, found {sorted(shapes)}; "
            f"keep do_center_crop, or pass return_tensors=None for a list"
        )
    return np.stack(pixels)


def _values(pictures: list[Any], steps: Steps, places: list[Any]) -> list[np.ndarray]:
    """Each picture's values: in its given place if that has their shape and dtype, else in a new array."""
    warn_if_deep(pictures, steps.convert_rgb)
    if steps.profile.keeps_order and steps.scale is not None:
        warn_if_scaled(pictures)
    first = _order_of(pictures[0], None, steps) if steps.profile.keeps_order else None

    def values(number: int) -> np.ndarray:
        return steps.profile.values(pictures[number], _order_of(pictures[number], first, steps), steps, places[number])

    return fast.on_threads(len(pictures), values)


def _order_of(picture: Any, first: str | None, steps: Steps) -> str:
    """The order of a picture's channels: `first`, that of the first picture, is used for all, as in transformers.

    A picture that can't have it is inferred by itself. An array is read as transformers does, unless only the other
    order can be normalised: one row of an RGB picture, [1, W, 3], is channels last if there are three means.
    """
    if isinstance(picture, Image.Image) and not steps.profile.keeps_order:
        return LAST
    if steps.input_data_format is not None:
        return steps.input_data_format
    array = _shape_only(picture, steps)
    if first is not None and array.ndim == 3 and array.shape[0 if first == FIRST else -1] in (1, 3):
        return first
    found = ops.infer_channel_format(array)
    wanted = len(steps.mean) if hasattr(steps.mean, "__len__") else None
    if found == FIRST and wanted is not None and array.shape[0] != wanted == array.shape[-1]:
        return LAST
    return found


def _shape_only(picture: Any, steps: Steps) -> np.ndarray:
    """An array of the picture's shape that takes no memory."""
    if not isinstance(picture, Image.Image):
        return picture
    bands = 3 if steps.convert_rgb else len(picture.getbands())
    width, height = upright_size(picture) if steps.exif else picture.size
    return np.broadcast_to(np.uint8(0), (height, width, bands) if bands > 1 else (height, width))


def _finished(planes: np.ndarray, order: str, steps: Steps, out: np.ndarray | None) -> np.ndarray:
    """The values of bytes [C, H, W], in the order asked for, by default the picture's."""
    values = fast.look_up(planes, steps.table(len(planes)), out)
    return ops.to_channel_format(values, steps.data_format or order, FIRST)


# ---- hf


def _padded(planes: np.ndarray, crop: Mapping[str, int] | None) -> np.ndarray:
    """Bytes [C, H, W] padded with zeros, as transformers pads pictures smaller than the crop."""
    if not crop or planes.shape[1:] == (crop["height"], crop["width"]):
        return planes
    return ops.center_crop(planes, crop["height"], crop["width"], FIRST)


def _hf_values(picture: Any, order: str, steps: Steps, out: np.ndarray | None) -> np.ndarray:
    """One picture's values in the `hf` profile, by the short cuts if its values are bytes."""
    packed = None
    if isinstance(picture, Image.Image):
        picture, steps = _reduced(picture, steps)
        picture, packed = loaded(picture, steps.exif)
        picture = to_rgb(picture) if steps.convert_rgb else picture
        if picture.mode != "RGB" or order != LAST:
            picture, packed = np.array(picture), None
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3:
            raise ImageError(f"images: wanted 3 dimensions, found shape {picture.shape}; keep do_convert_rgb=True")
        if picture.dtype != np.uint8 or ops.channel_count(picture, order) not in (1, 3):
            return plain_values(picture, order, steps)
        picture, _ = ops.to_pil(picture, order)
    return fast_values(picture, order, steps, out, packed)


def fast_values(
    picture: Image.Image, order: str, steps: Steps, out: np.ndarray | None = None, packed: np.ndarray | None = None
) -> np.ndarray:
    """One RGB or L picture: resized only inside the crop, then a table in place of the arithmetic."""
    planes = fast.planes(picture, steps.place(picture.size), steps.resample, packed)
    return _finished(_padded(planes, steps.crop), order, steps, out)


def plain_values(image: np.ndarray, order: str, steps: Steps) -> np.ndarray:
    """One array through every step in turn. `fast_values` equals it."""
    if steps.size:
        height, width = ops.resized_size(*ops.image_size(image, order), steps.size)
        image = ops.resize(image, height, width, steps.resample, order)
    if steps.crop:
        image = ops.center_crop(image, steps.crop["height"], steps.crop["width"], order)
    if steps.scale is not None:
        image = ops.rescale(image, steps.scale)
    if steps.mean is not None:
        image = ops.normalize(image, steps.mean, steps.std, order)
    return ops.to_channel_format(image, steps.data_format or order, order)


def _reduced(picture: Image.Image, steps: Steps) -> tuple[Image.Image, Steps]:
    """With `reduced_decoding`, a second Image of an undecoded JPEG that will be decoded smaller.

    The returned steps state the exact resized size.
    """
    if not steps.reduced or not steps.size or not fast.is_unread(picture) or fast.is_drafted(picture):
        return picture, steps
    height, width = ops.resized_size(picture.height, picture.width, steps.size)
    if picture.mode not in ("RGB", "L") or 2 * height > picture.height or 2 * width > picture.width:
        return picture, steps
    smaller = reduced_twin(picture, (width, height))
    if smaller is None:
        return picture, steps
    upright = upright_size(picture) if steps.exif else picture.size
    height, width = ops.resized_size(upright[1], upright[0], steps.size)
    return smaller, replace(steps, size={"height": height, "width": width})


def _hf_bytes(every: np.ndarray, scale: float | None, mean: Any, std: Any) -> np.ndarray:
    values = every if scale is None else ops.rescale(every, scale)
    return values if mean is None else ops.normalize(values, mean, std, FIRST)


# ---- openai and open_clip


def _torchvision_values(picture: Any, order: str, steps: Steps, out: np.ndarray | None) -> np.ndarray:
    """One picture's values by torchvision's transforms; an array is first made a Pillow image."""
    packed = None
    if isinstance(picture, Image.Image):
        picture, packed = loaded(picture, steps.exif)
    else:
        picture, _ = ops.to_pil(picture, order)
    place = steps.place(picture.size)
    if picture.mode == "RGB":
        planes = _with_border(fast.planes(picture, place, steps.resample, packed), steps.crop)
        return _finished(planes, order, steps, out)
    try:
        pixels = _torchvision_pixels(picture, place, steps)
    except (ImageError, InputError):
        raise
    except ValueError as error:
        raise ImageError(f"images: wanted a mode that Pillow resizes, found {picture.mode} ({error})") from error
    return _finished(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None], order, steps, out)


def _torchvision_pixels(picture: Image.Image, place: Place, steps: Steps) -> np.ndarray:
    """The picture's bytes, uint8 [H, W] or [H, W, C]: resized, cropped and padded in its own mode, then converted."""
    height, width, box = place
    if picture.mode == "L":
        picture = fast.resize_and_crop(picture, height, width, box, steps.resample)
    else:
        picture = picture.resize((width, height), steps.resample) if (height, width) != picture.size[::-1] else picture
        picture = picture.crop(box) if box != (0, 0, width, height) else picture
    picture = _pad(picture, steps.crop) if steps.crop else picture
    if steps.convert_rgb:
        picture = picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    return np.asarray(picture)


def _border(height: int, width: int, crop: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Rows and columns (left, top, right, bottom) missing for the crop; an odd one goes after the picture."""
    wide, high = max(0, crop["width"] - width), max(0, crop["height"] - height)
    return wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2


def _with_border(planes: np.ndarray, crop: Mapping[str, int] | None) -> np.ndarray:
    """Bytes [C, H, W] padded with zeros, as torchvision pads pictures smaller than the crop."""
    left, top, right, bottom = _border(planes.shape[1], planes.shape[2], crop) if crop else (0, 0, 0, 0)
    return np.pad(planes, ((0, 0), (top, bottom), (left, right))) if left + top + right + bottom else planes


def _pad(picture: Image.Image, crop: Mapping[str, int]) -> Image.Image:
    """A picture padded in its own mode: palette entry 0, transparent black."""
    border = _border(picture.height, picture.width, crop)
    if not any(border):
        return picture
    bands = len(picture.getbands())
    padded = ImageOps.expand(picture, border, fill=0 if bands == 1 else (0,) * bands)
    if picture.mode == "P" and (palette := picture.getpalette()):
        padded.putpalette(palette)
    return padded


def _rounded_offset(original: int, wanted: int) -> int:
    """The start of torchvision's central crop; Python rounds halves to even."""
    return int(round((original - wanted) / 2.0))


def _open_clip_size(
    height: int, width: int, size: Mapping[str, int], crop: Mapping[str, int] | None
) -> tuple[int, int]:
    """(height, width) after open_clip's resizing."""
    square = crop is None or crop["height"] == crop["width"]
    if "height" in size or ("shortest_edge" in size and square):
        return ops.resized_size(height, width, size)
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


def _to_tensor_bytes(every: np.ndarray, scale: float | None, mean: Any, std: Any) -> np.ndarray:
    """ToTensor (unless `scale` is None) and Normalize (unless `mean` is)."""
    values = every
    if scale is not None:
        # ToTensor divides by 255, for which the usual factor stands; it has no other.
        values = values.astype(np.float32)
        values = values / np.float32(255) if scale == 1 / 255 else values * np.float32(scale)
    if mean is not None:
        values = values.astype(np.float32) - np.array(mean, np.float32)[:, None, None]
        values = values / np.array(std, np.float32)[:, None, None]
    return values


def _size_alone(height: int, width: int, size: Mapping[str, int], crop: Mapping[str, int] | None) -> tuple[int, int]:
    return ops.resized_size(height, width, size)


PROFILES = {
    "hf": Profile(_size_alone, ops.crop_offset, _hf_bytes, _hf_values, keeps_order=True),
    "openai": Profile(_size_alone, _rounded_offset, _to_tensor_bytes, _torchvision_values, keeps_order=False),
    "open_clip": Profile(_open_clip_size, _rounded_offset, _to_tensor_bytes, _torchvision_values, keeps_order=False),
}
