"""Figures that a notebook displays as a cell's last value, without pyplot and magics."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from matplotlib.figure import Figure

_DPI = 130  # sharp enough on a screen, and smaller in a notebook than 200, as in saved files
_PIXELS_PER_INCH = 110  # display size


class ShownFigure(Figure):
    """A matplotlib Figure that is drawn with `settings`; IPython and Jupyter call `_repr_png_`."""

    def __init__(self, settings: Callable[[], AbstractContextManager[None]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """(the PNG, with equal bytes for equal figures; its display size)."""
        buffer = io.BytesIO()
        with self._settings():
            self.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        width, height = (round(inches * _PIXELS_PER_INCH) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}
