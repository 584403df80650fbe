"""Encoded pictures to pixel values, as CLIPImageProcessor makes them, from files and from bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_core.errors import ConfigError, ImageError, InputError
from clip_core.image import fast
from clip_core.image.input import (
    DECODING_ERRORS,
    apply_exif,
    check_pixels,
    decode,
    flatten,
    load_image,
    open_encoded,
    to_rgb,
)
from clip_core.image.ops import FIRST

from .augment import Augmenter, Colour
from .config import AugmentSection


def open_picture(picture: bytes | str, name: str, unread_jpeg: bool = False) -> Image.Image:
    """A decoded picture. Raises ImageError if it is not a picture, damaged, or too large (see `image/input.py`).

    `unread_jpeg`: see `load_image`.
    """
    if isinstance(picture, str):
        try:
            opened = load_image(picture, unread_jpeg)
        except FileNotFoundError as error:
            raise ImageError(f"{name}: wanted the picture {picture}, found no such file") from error
        assert isinstance(opened, Image.Image)
        return opened
    try:
        opened = open_encoded(io.BytesIO(picture), name)
        check_pixels(*opened.size, name)
        if not (unread_jpeg and fast.is_unread(opened)):
            decode(opened)
    except InputError:
        raise
    except DECODING_ERRORS as error:
        # For bytes, Pillow's message has only a memory address.
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ImageError(f"{name}: wanted a picture that Pillow can read, found something else{reason}") from error
    return opened


class PictureReader:
    """Pictures as pixel values [C, H, W], float32, all of one size.

    Without augmentation, exactly CLIPImageProcessor's; with it, its size, filter and normalisation.

    Args:
        image_processor: a CLIPImageProcessor with a crop, so that all results have one shape (ConfigError otherwise).
        augment: None for none.
        background: without augmentation, the colour behind transparent pictures; None leaves them to the processor,
            which drops the alpha channel.
        upright: without augmentation, turn pictures as their EXIF says, whatever the processor does.
    """

    def __init__(
        self, image_processor: Any, augment: AugmentSection | None = None, background: Any = None, upright: bool = False
    ) -> None:
        self.image_processor, self.background, self.upright = image_processor, background, upright
        self.steps = image_processor.steps(data_format=FIRST)
        size, crop = self.steps.size, self.steps.crop
        if crop is None and (size is None or "height" not in size):
            raise ConfigError("do_center_crop: wanted true, for pictures of one size, found false")
        crop = crop or size
        self.height, self.width = crop["height"], crop["width"]
        self.augmenter = Augmenter(augment, self.height, self.width, self.steps.resample) if augment else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        return 3, self.height, self.width

    def read(self, picture: bytes | str, name: str, out: np.ndarray, random: np.random.Generator | None) -> None:
        """Write a picture's values into `out` [C, H, W]. Raises ImageError."""
        if self.augmenter is None or random is None:
            with open_picture(picture, name, unread_jpeg=True) as image:
                self._plain(flatten(image, self.background), name, out)
            return
        image = open_picture(picture, name)
        if self.steps.exif:
            image = apply_exif(image)
        background = self.augmenter.background(random)
        image = to_rgb(flatten(self.augmenter.tint(image, background, random), background))
        if self.augmenter.is_plain:
            self._plain(image, name, out)
            return
        self.steps.finish(self._augmented(image, background, random), out)

    def _plain(self, image: Image.Image, name: str, out: np.ndarray) -> None:
        exif = {"apply_exif_orientation": True} if self.upright else {}
        values = self.image_processor.preprocess(image, data_format=FIRST, **exif)["pixel_values"][0]
        if values.shape != out.shape:
            raise ImageError(f"{name}: wanted values of shape {out.shape}, found {values.shape}")
        out[...] = values

    def _augmented(self, image: Image.Image, background: Colour, random: np.random.Generator) -> np.ndarray:
        assert self.augmenter is not None
        cropped = self.augmenter.crop(image, random)
        if cropped is None:  # the plain centre crop
            cropped = Image.fromarray(self.steps.bytes(image))
        return self.augmenter.change(cropped, background, random)
