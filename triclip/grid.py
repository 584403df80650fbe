"""The similarity grid (pictures by texts, cosines as shades) and what a search found, drawn with Pillow alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clip_core.image.input import flatten, load_image

CELL = 72  # pixels
MARGIN = 12
FONT_SIZE = 15
RIGHT = (26, 127, 55)  # green that reads as such beside grey, and darker than it
INK, PAPER, FAINT = (28, 28, 30), (255, 255, 255), (220, 220, 224)


def draw_grid(pictures: Sequence[Any], texts: Sequence[str], cosines: np.ndarray, path: str | os.PathLike) -> Path:
    """Draw and save the grid as a PNG.

    Args:
        pictures: N paths or Pillow images.
        texts: M strings.
        cosines: [N, M]. Shading is relative within each row of the grid (one text); the best picture has a frame.
        path: the file to write; its folder is made if needed.
    """
    font = ImageFont.load_default(FONT_SIZE)
    left = MARGIN + max(int(font.getlength(shorten(text))) for text in texts) + MARGIN
    top = MARGIN + CELL + 6
    canvas = Image.new("RGB", (left + CELL * len(pictures) + MARGIN, top + CELL // 2 * len(texts) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, picture in enumerate(pictures):
        canvas.paste(thumbnail(picture, (CELL - 8, CELL)), (left + column * CELL + 4, MARGIN))
    for row, text in enumerate(texts):
        y = top + row * CELL // 2
        draw.text((left - MARGIN, y + CELL // 4), shorten(text), INK, font, anchor="rm")
        _draw_row(draw, cosines[:, row], left, y, font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG")
    return path


def draw_found(texts: Sequence[str], found: Sequence[Sequence[tuple[Any, bool]]], path: str | os.PathLike) -> Path:
    """Draw and save what was found for each text as a PNG: a row of pictures beside it, the right ones framed.

    Args:
        texts: M strings.
        found: M rows of (path or Pillow image, whether it is right), the best first.
        path: the file to write; its folder is made if needed.
    """
    font = ImageFont.load_default(FONT_SIZE)
    left = MARGIN + max(int(font.getlength(shorten(text))) for text in texts) + MARGIN
    size = (left + CELL * max(map(len, found)) + MARGIN, CELL * len(texts) + 2 * MARGIN)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (text, pictures) in enumerate(zip(texts, found, strict=True)):
        y = MARGIN + row * CELL
        draw.text((left - MARGIN, y + CELL // 2), shorten(text), INK, font, anchor="rm")
        for column, (picture, right) in enumerate(pictures):
            x = left + column * CELL
            canvas.paste(thumbnail(picture, (CELL - 12, CELL - 12)), (x + 6, y + 6))
            frame, width = (RIGHT, 3) if right else (FAINT, 1)
            draw.rectangle((x + 1, y + 1, x + CELL - 2, y + CELL - 2), outline=frame, width=width)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG")
    return path


def _draw_row(draw: ImageDraw.ImageDraw, values: np.ndarray, left: int, y: int, font: Any) -> None:
    low, high = float(values.min()), float(values.max())
    for column, value in enumerate(values):
        x = left + column * CELL
        strength = (float(value) - low) / (high - low) if high > low else 0.0
        box = (x + 1, y + 1, x + CELL - 2, y + CELL // 2 - 2)
        draw.rectangle(box, fill=_shade(strength), outline=INK if value == high else FAINT, width=2)
        ink = PAPER if strength > 0.6 else INK
        draw.text((x + CELL // 2, y + CELL // 4), f"{value:.2f}", ink, font, anchor="mm")


def _shade(strength: float) -> tuple[int, int, int]:
    """White to a deep blue, linear in the value."""
    return tuple(round(255 + (end - 255) * strength) for end in (21, 66, 140))  # type: ignore[return-value]


def thumbnail(picture: Any, size: tuple[int, int], transparent: bool = False) -> Image.Image:
    """A path, Pillow image or array as RGB over white (or as RGBA), at most `size` (width, height) in pixels."""
    image = load_image(picture)
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    image = image.convert("RGBA") if transparent else flatten(image, PAPER).convert("RGB")
    image.thumbnail(size)
    return image


def shorten(text: str, limit: int = 48) -> str:
    """At most `limit` characters, the last one an ellipsis if the text is shortened."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
