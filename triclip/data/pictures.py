"""Encoded pictures to pixel values, as CLIPImageProcessor makes them, from files and from bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_core import image_fast, image_jpeg, image_profiles
from clip_core.errors import ConfigError, ImageError
from clip_core.image_input import DECODING_ERRORS, apply_exif, check_depth, check_pixels, decode, load_image, to_rgb
from clip_core.image_ops import FIRST

from .augment import Augmenter, Colour, flatten
from .config import AugmentSection


def open_picture(picture: bytes | str, name: str, unread_jpeg: bool = False) -> Image.Image:
    """A decoded picture. Raises ImageError for what is none, is damaged, or is too large (see `image_input`).

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
        opened = Image.open(io.BytesIO(picture))
        check_pixels(*opened.size, name)
        if not (unread_jpeg and image_jpeg.takes(opened)):
            check_depth(decode(opened))
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        # Of bytes, Pillow says only where in memory they are.
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ImageError(f"{name}: wanted a picture that Pillow can read, found something else{reason}") from error
    return opened


class PictureReader:
    """Pictures as pixel values [C, H, W], float32, all of one size.

    Without augmentation, exactly CLIPImageProcessor's; with it, its size, filter and normalisation.

    Args:
        image_processor: a CLIPImageProcessor that crops, so that all results have one shape (ConfigError otherwise).
        augment: None for none, and then transparency is what the processor makes of it: it drops the alpha channel.
    """

    def __init__(self, image_processor: Any, augment: AugmentSection | None = None) -> None:
        self.image_processor = image_processor
        self.steps = image_processor._steps({"kwargs": {}, "data_format": FIRST, "input_data_format": None})
        size, crop = self.steps.size, self.steps.crop
        if crop is None and (size is None or "height" not in size):
            raise ConfigError("do_center_crop: wanted true, for pictures of one size, found false")
        crop = crop or size
        self.height, self.width = crop["height"], crop["width"]
        self.augmenter = Augmenter(augment, self.height, self.width, self.steps.resample) if augment else None
        if self.steps.profile == "hf":
            self._table = image_fast.lookup_table(3, self.steps.scale, self.steps.mean, self.steps.std)
        else:
            self._table = image_profiles.lookup_table(3, self.steps.scale, self.steps.mean, self.steps.std)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        return 3, self.height, self.width

    def read(self, picture: bytes | str, name: str, out: np.ndarray, random: np.random.Generator | None) -> None:
        """Put a picture's values into `out` [C, H, W]. Raises ImageError."""
        if self.augmenter is None or random is None:
            with open_picture(picture, name, unread_jpeg=True) as image:
                self._plain(image, name, out)
            return
        image = open_picture(picture, name)
        if self.steps.exif:
            image = apply_exif(image)
        background = self.augmenter.background(random)
        image = flatten(image, background) if image.has_transparency_data else to_rgb(image)
        if self.augmenter.is_plain:
            self._plain(image, name, out)
            return
        image_fast.apply_table(self._augmented(image, background, random), self._table, self.steps.crop, out)

    def _plain(self, image: Image.Image, name: str, out: np.ndarray) -> None:
        values = self.image_processor.preprocess(image, data_format=FIRST)["pixel_values"][0]
        if values.shape != out.shape:
            raise ImageError(f"{name}: wanted values of shape {out.shape}, found {values.shape}")
        out[...] = values

    def _augmented(self, image: Image.Image, background: Colour, random: np.random.Generator) -> np.ndarray:
        assert self.augmenter is not None
        cropped = self.augmenter.crop(image, random)
        if cropped is None:  # the plain centre crop
            cropped = Image.fromarray(
                image_fast.central_pixels(image, self.steps.size, self.steps.crop, self.steps.resample)
            )
        return self.augmenter.change(cropped, background, random)
