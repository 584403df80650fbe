"""Common to all figures: fonts, colours, pictures, and writing files."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

from ..grid import shorten, thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".pdf", ".png", ".svg")
INK, FAINT = "#1c1c1e", "#d5d5da"
# Okabe and Ito's colours, distinguishable with every kind of colour vision; without yellow, too light for lines.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
RIGHT, WRONG = PALETTE[0], PALETTE[1]
SEQUENTIAL = "Blues"
DARK_FROM = 0.55  # of the colour scale: above it numbers are white
TITLE_LIMIT = 90  # characters
PNG_DPI = 200
_PICTURE_PIXELS = 160
_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 10,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters stay searchable text
    "svg.hashsalt": "triclip",  # element ids do not change between runs
}
# Fonts for scripts that matplotlib's own font lacks, if installed.
_MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Emoji")
_FIXED = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".svg": {"Date": None}}

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


@contextmanager
def style() -> Iterator[None]:
    """Apply the settings of these figures in a block. Raises MissingDependencyError without matplotlib."""
    try:
        import matplotlib
        from matplotlib import font_manager
    except ModuleNotFoundError as error:
        raise MissingDependencyError("figures need matplotlib: pip install 'triclip[viz]'") from error
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]
    defaults: Any = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"
    }  # not restored
    with matplotlib.rc_context({**defaults, **_SETTINGS, "font.family": fonts}):
        yield


def drawn(function: Drawing) -> Drawing:
    """Decorator for functions that draw a figure: they run with these settings."""

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with style():
            return function(*args, **kwargs)

    return inside  # type: ignore[return-value]


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure, in inches, with a layout that cuts nothing off."""
    from .shown import ShownFigure

    figure = ShownFigure(style, figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(plain(title, TITLE_LIMIT))
    return figure


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a figure by suffix: .pdf and .svg for print, .png (200 dots an inch). The folder is made if needed.

    The file is replaced in one step; equal figures give equal bytes. Raises InputError for another suffix.
    """
    path = _by_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with style():
            figure.savefig(temporary, format=path.suffix[1:], dpi=PNG_DPI, metadata=_FIXED[path.suffix])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_output(path: str | os.PathLike) -> Path:
    """The path, checked for writing a figure. Raises InputError, or MissingDependencyError without matplotlib."""
    with style():
        return _by_suffix(path)


def _by_suffix(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"figure {path}: wanted a name ending in {', '.join(SUFFIXES)}")
    return path


def plain(text: Any, limit: int = 40) -> str:
    """A text as a label: one line of at most `limit` characters, never read as a formula."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\s]+", " ", str(text)).strip()
    return shorten(line, limit).replace("$", r"\$")


def wrapped(text: Any, width: int, lines: int) -> str:
    """A text as a label of at most `lines` lines of about `width` letters."""
    import textwrap

    found = textwrap.wrap(plain(text, width * lines), width, max_lines=lines, placeholder=" …")
    return "\n".join(found)


def show_picture(axes: Any, picture: Any, frame: str = FAINT, width: float = 0.6) -> None:
    """A picture alone in its axes, in a frame."""
    axes.imshow(picture_array(picture))
    bare(axes, frame, width)


def picture_array(picture: Any, transparent: bool = False) -> np.ndarray:
    """uint8 [h, w, 3] of a path, Pillow image or array, reduced and over white; [h, w, 4] if it may be transparent."""
    return np.asarray(thumbnail(picture, (_PICTURE_PIXELS, _PICTURE_PIXELS), transparent))


def bare(axes: Any, frame: str = FAINT, width: float = 0.6) -> None:
    """Axes with a frame and without ticks."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=frame, linewidth=width)


def ink_on(share: float) -> str:
    """The colour of a number on a cell with this place on the colour scale, from 0 to 1."""
    return "white" if share > DARK_FROM else INK
