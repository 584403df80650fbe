"""Whether pictures are clearly photographs: the embedded model knows drawings alone, and the command line says so.

A cheap look at a small copy. Drawings have flat parts, where neighbouring pixels are alike, or few colours, or
transparent ground; photographs have noise and texture everywhere. In doubt the answer is no: a photograph cut out on
white, one that is mostly sky, and a screenshot are all "not clearly a photograph". Of 240 icons, emoji and drawings
none was taken for one; of 13 photographs in colour that scikit-image and scikit-learn bring, 9 were found (the others
are of the night sky, a retina and the like).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from clip_core.errors import InputError
from clip_core.image.input import flatten, load_image

SIDE = 128  # pixels of the longer side of the copy that is looked at
ALIKE = 3  # largest difference of a channel between neighbours that count as alike, of 255
FLAT = 0.5  # share of neighbours alike from which on a picture has flat parts
COLOURS = 64  # distinct colours (4 bits a channel) up to which they are few
GREYS = 10  # the same of a grey picture, which has 16 at most
LOOKED_AT = 16  # pictures of a set


def is_photograph(picture: Any) -> bool:
    """Whether a picture (a path or a Pillow image) is clearly a photograph. Raises what `load_image` raises."""
    image = load_image(picture)
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    flat = flatten(image)
    if flat is not image and image.mode != "P":
        return False  # something shows through: a drawing, or a photograph cut out
    small = flat.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    if min(pixels.shape[:2]) < 2:
        return False
    across, down = (np.abs(np.diff(pixels, axis=axis)).max(2) <= ALIKE for axis in (1, 0))
    coarse = pixels >> 4
    grey = (np.ptp(pixels, axis=2) <= ALIKE).all()
    codes = (coarse[..., 0] << 8) | (coarse[..., 1] << 4) | coarse[..., 2]
    few = GREYS if grey else COLOURS
    flatness = (across.sum() + down.sum()) / (across.size + down.size)
    return bool(flatness < FLAT and len(np.unique(codes)) > few)


def mostly_photographs(pictures: Iterable[Any]) -> bool:
    """Whether most of the first LOOKED_AT pictures are clearly photographs. What can't be read counts as none."""
    found = []
    for picture, _ in zip(pictures, range(LOOKED_AT), strict=False):
        try:
            found.append(is_photograph(picture))
        except (InputError, OSError):
            found.append(False)
    return sum(found) * 2 > len(found)
