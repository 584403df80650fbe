"""Random crops, flips, rotation and colour jitter of training pictures, in Pillow and NumPy.

All random numbers come from the given generator, in a fixed order, and the arithmetic is Pillow's and NumPy's
elementwise operations: the same generator gives the same bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from .config import AugmentSection

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
ATTEMPTS = 10  # for a crop that fits; then the largest central one is used (as in torchvision's RandomResizedCrop)
CONTRAST = 64  # least difference in luma of a one-coloured drawing from its background, of 255
SAME_COLOUR = 8  # difference of a channel, which rounding at an edge may make
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's conversion to "L"


class Augmenter:
    """The augmentations of an AugmentSection, for pictures of `height` x `width` pixels."""

    def __init__(self, section: AugmentSection, height: int, width: int, resample: Any) -> None:
        self.section, self.height, self.width, self.resample = section, height, width, resample
        self.crops = list(section.crop_scale) != [1.0, 1.0]
        self.recolours = any(section.color_jitter)
        changes = self.recolours or section.flip > 0 or section.grayscale > 0 or section.rotate > 0
        self.is_plain = not (self.crops or changes)

    def background(self, random: np.random.Generator) -> Colour:
        """The colour behind transparent pixels, and in the corners that rotation exposes.

        "random" is white for half of the pictures, like most pages, and a random colour for the others.
        """
        if self.section.background == "random" and random.random() < 0.5:
            red, green, blue = random.integers(0, 256, 3).tolist()
            return red, green, blue
        return BLACK if self.section.background == "black" else WHITE

    def tint(self, picture: Image.Image, background: Colour, random: np.random.Generator) -> Image.Image:
        """A drawing of one colour on transparent ground in another colour, one that stands out; others as they are."""
        if self.section.tint <= 0 or picture.mode not in ("LA", "RGBA"):
            return picture
        own = one_colour(picture)
        if own is None:
            return picture
        drawn = random.random() < self.section.tint
        colour = tuple(random.integers(0, 256, 3).tolist()) if drawn else own
        if abs(luma(colour) - luma(background)) < CONTRAST:
            colour = BLACK if luma(background) > 127 else WHITE
        tinted = Image.new("RGBA", picture.size, colour)
        tinted.putalpha(picture.getchannel("A"))
        return tinted

    def crop(self, picture: Image.Image, random: np.random.Generator) -> Image.Image | None:
        """A random part of the picture at the wanted size; None for the plain central crop."""
        if not self.crops:
            return None
        box = crop_box(picture.width, picture.height, self.section.crop_scale, self.section.crop_ratio, random)
        return picture.crop(box).resize((self.width, self.height), self.resample)

    def change(self, picture: Image.Image, background: Colour, random: np.random.Generator) -> np.ndarray:
        """Randomly flipped, rotated, recoloured and made grey: uint8 [H, W, 3]."""
        section = self.section
        if section.flip > 0 and random.random() < section.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if section.rotate > 0:
            angle = random.uniform(-section.rotate, section.rotate)
            picture = picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=background)
        pixels = np.asarray(picture)
        if self.recolours:
            pixels = recolour(pixels, section.color_jitter, random)
        if section.grayscale > 0 and random.random() < section.grayscale:
            pixels = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)
        return pixels


def luma(colour: Colour) -> float:
    return sum(weight * part for weight, part in zip(LUMA, colour, strict=True))


def one_colour(picture: Image.Image) -> Colour | None:
    """The colour of all that can be seen of a picture with transparent parts; None for none or several."""
    pixels = np.asarray(picture.convert("RGBA"))
    alpha = pixels[..., 3]
    seen = pixels[alpha > 0][:, :3]
    if len(seen) in (0, alpha.size):
        return None
    low, high = seen.min(0), seen.max(0)
    if (high - low).max() > SAME_COLOUR:
        return None
    red, green, blue = ((low.astype(int) + high) // 2).tolist()
    return red, green, blue


def crop_box(
    width: int, height: int, scale: list[float], ratio: list[float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part with a share of the area in `scale`, and width over height in `ratio`."""
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(scale[0], scale[1])
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(random.integers(0, width - wide + 1)), int(random.integers(0, height - high + 1))
            return left, top, left + wide, top + high
    shape = min(max(width / height, ratio[0]), ratio[1])
    wide, high = max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def recolour(pixels: np.ndarray, jitter: list[float], random: np.random.Generator) -> np.ndarray:
    """Colour jitter: brightness, contrast, saturation and hue, each by at most its value in `jitter`: uint8 [H, W, 3].

    One affine map of the colours: scaling, contrast about the mean grey, saturation about each pixel's grey, and a
    rotation about the grey axis. Clipped to bytes once, at the end.
    """
    brightness, contrast, saturation = (1 + random.uniform(-min(share, 1.0), share) for share in jitter[:3])
    turn = 2 * math.pi * random.uniform(-jitter[3], jitter[3])
    grey = np.tile(np.array(LUMA), (3, 1))
    # Rodrigues' formula about (1, 1, 1) / sqrt(3).
    cross = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) / 3
    colour = _product(rotation, saturation * np.eye(3) + (1 - saturation) * grey)
    mean = sum(weight * float(pixels[..., channel].mean()) for channel, weight in enumerate(LUMA))
    offset = (1 - contrast) * brightness * mean * colour.sum(axis=1)
    matrix = (contrast * brightness * colour).astype(np.float32)
    planes = [pixels[..., channel].astype(np.float32) for channel in range(3)]
    out = np.empty_like(pixels)
    for channel in range(3):
        # Written out, because the rounding of a matrix product may depend on the BLAS and its number of threads.
        plane = planes[0] * matrix[channel, 0]
        plane += planes[1] * matrix[channel, 1]
        plane += planes[2] * matrix[channel, 2]
        plane += np.float32(offset[channel] + 0.5)
        np.clip(plane, 0, 255, out=plane)
        out[..., channel] = plane  # a half was added, so truncation rounds
    return out


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left[:, :, None] * right[None]).sum(axis=1)
