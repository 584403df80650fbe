"""SVG text to small pictures, and what near duplicates are told by."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

STORED = 64  # pixels of a stored picture; training crops and resizes it to the model's size
PRINT = 32  # pixels of a fingerprint


def draw(svg: str, side: int) -> Image.Image | None:
    """The drawing as RGBA, in the middle of a square of `side` pixels; None when nothing can be seen or read."""
    import resvg_py

    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side))
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        if picture.height > 4 * side:
            return None
        if picture.height > side:
            picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, height=side)))).convert("RGBA")
    except (
        Exception
    ):  # resvg's own errors have no common class, and one bad file of many thousands is no reason to stop
        return None
    if max(picture.size) != side or picture.width != side or picture.height != side:
        square = Image.new("RGBA", (side, side))
        picture.thumbnail((side, side))
        square.paste(picture, tuple((side - own) // 2 for own in picture.size))
        picture = square
    return picture if picture.getextrema()[3][1] else None


def on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def fingerprint(picture: Image.Image) -> np.ndarray:
    """The ink's bounding square on white, in grey: uint8 [PRINT, PRINT]. A recoloured copy has the same shape."""
    grey = on_white(picture).convert("L")
    box = grey.point(lambda value: 255 if value < 250 else 0).getbbox() or (0, 0, *grey.size)
    return np.asarray(grey.crop(box).resize((PRINT, PRINT), Image.Resampling.BILINEAR))


def drawn(job: tuple[str, bool]) -> tuple[bytes, np.ndarray] | None:
    """(PNG of an SVG at STORED pixels, its fingerprint); None for an empty one. `job`: SVG, whether to mirror it."""
    svg, mirrored = job
    picture = draw(svg, STORED)
    if picture is None:
        return None
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue(), fingerprint(picture)


def unit_prints(prints: np.ndarray) -> np.ndarray:
    """Fingerprints [N, PRINT, PRINT] as unit vectors of mean 0 [N, PRINT²], float32: products are correlations."""
    vectors = prints.reshape(len(prints), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
