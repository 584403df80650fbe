"""A map of embeddings as one HTML file: thumbnails to zoom, drag and search; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import ImageError, InputError
from clip_core.files import write_text

from ..grid import thumbnail
from .maps import project

_SIDE = 64  # pixels of a thumbnail
_MOST = 4000  # thumbnails in a page: about 2 KB each


def save_page(
    path: str | os.PathLike,
    vectors: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    pictures: Sequence[Any] | None = None,
    method: str = "pca",
    title: str = "",
) -> Path:
    """Write the page. Beyond 4,000 pictures, evenly spread ones are thumbnails and the rest dots.

    Args: as for `embedding_map`. A picture that can't be read is a dot. Raises InputError, MissingDependencyError.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise InputError(f"map {path}: wanted a name ending in .html")
    points = project(vectors, method).points
    span = np.maximum(np.ptp(points, axis=0), 1e-9)
    places = ((points - points.min(0)) / span.max()).round(5).tolist()
    step = 1 if pictures is None else max(1, -(-len(pictures) // _MOST))
    items = []
    for row, (x, y) in enumerate(places):
        item: dict[str, Any] = {"x": x, "y": y, "name": str(labels[row])}
        if groups is not None:
            item["group"] = groups[row]
        if pictures is not None and row % step == 0 and (data := _small(pictures[row])):
            item["picture"] = data
        items.append(item)
    # No end of a script, and no character that ends a line of one, can come from a name.
    text = json.dumps({"title": title, "items": items}).replace("<", "\\u003c")
    page = files(__package__).joinpath("map.html").read_text(encoding="utf-8")
    write_text(path, page.replace("/*DATA*/null", text))
    return path


def _small(picture: Any) -> str:
    out = io.BytesIO()
    try:
        thumbnail(picture, (_SIDE, _SIDE)).save(out, "JPEG", quality=80)
    except (ImageError, OSError):
        return ""
    return base64.b64encode(out.getvalue()).decode()
