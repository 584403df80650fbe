"""Figures that show themselves as the last line of a notebook's cell, without pyplot and without a magic line."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from matplotlib.figure import Figure

_DPI = 130  # sharp enough on a screen; a notebook is smaller than with the 200 of a saved file
_PIXELS_PER_INCH = 110  # how large it is shown


class ShownFigure(Figure):
    """A matplotlib Figure that is drawn under `settings`; IPython and Jupyter ask for `_repr_png_`."""

    def __init__(self, settings: Callable[[], AbstractContextManager[None]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The PNG, equal bytes for equal figures, and the size to show it at."""
        buffer = io.BytesIO()
        with self._settings():
            self.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        width, height = (round(inches * _PIXELS_PER_INCH) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}
