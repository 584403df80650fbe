"""Tables of numbers: the similarity grid and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import InputError

from .style import FAINT, PALETTE, SEQUENTIAL, drawn, ink_on, new_figure, picture_array, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST = 64  # most pictures or texts of a grid; more are illegible on paper
_NUMBERS_UP_TO = 24  # most classes with numbers; larger matrices have only colours
_NAMES_UP_TO = 60
_LETTERS = 60  # of a text
_WIDTH, _HEIGHT = 0.52, 0.29  # inches of a cell of the grid


@drawn
def similarity_grid(
    pictures: Sequence[Any],
    texts: Sequence[str],
    values: np.ndarray,
    title: str | None = None,
    number: str = ".2f",
    label: str = "cosine similarity",
) -> Figure:
    """Pictures as columns, texts as rows, a number in every cell; each text's best picture has a frame.

    Args:
        pictures: N paths, Pillow images or arrays; at most 64.
        texts: M strings; at most 64.
        values: [N, M], e.g. `clip.similarity(pictures, texts)`, or probabilities.
        number: the format of a number.
        label: the label of the colour scale.

    Raises InputError.
    """
    values = _matrix(values, "values", (len(pictures), len(texts))).T  # [M, N]
    if max(values.shape) > _LARGEST:
        raise InputError(f"similarity_grid: wanted at most {_LARGEST} pictures and texts, found {values.shape[::-1]}")
    rows, columns = values.shape
    labels = [plain(text, _LETTERS) for text in texts]
    letters = max(map(len, labels))
    width = columns * _WIDTH + letters * 0.062 + 0.9
    figure = new_figure(width, rows * _HEIGHT + _WIDTH + (0.55 if title else 0.25), title)
    axes = figure.subplots()
    cells = axes.imshow(values, cmap=SEQUENTIAL, aspect="auto")
    _write_numbers(axes, cells, values, number)
    for row, column in enumerate(values.argmax(1)):
        axes.add_patch(_frame(column, row))
    for column, picture in enumerate(pictures):
        _picture_above(axes, picture_array(picture), column)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.6 - _WIDTH / _HEIGHT)
    axes.set_aspect(_HEIGHT / _WIDTH)
    axes.set_xticks([])
    axes.set_yticks(range(rows), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(cells, ax=axes, shrink=0.8, pad=0.02, aspect=25)
    bar.set_label(plain(label))
    bar.outline.set_visible(False)
    return figure


def _picture_above(axes: Any, picture: np.ndarray, column: int) -> None:
    """Draw a picture inside a square of 0.9 of the cell's width, with its proportions kept."""
    height, width = picture.shape[:2]
    across, down = (0.45 * size / max(height, width) for size in (width, height))
    middle = -0.55 - 0.5 * _WIDTH / _HEIGHT
    half = down * _WIDTH / _HEIGHT
    axes.imshow(picture, extent=(column - across, column + across, middle + half, middle - half), aspect="auto")


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=PALETTE[1], linewidth=1.4)


def _write_numbers(axes: Any, cells: Any, values: np.ndarray, number: str, size: float = 7, zeros: bool = True) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not (zeros or value):
            continue
        ink, text = ink_on(float(cells.norm(value))), format(value, number)
        text = text.replace("-", "\N{MINUS SIGN}") if float(text.rstrip("%")) else text.removeprefix("-")  # no -0.00
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)


def confusion_counts(truth: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """int64 [C, C]: how often class `column` was predicted for class `row`. Raises InputError."""
    pairs = [np.asarray(given) for given in (truth, predicted)]
    for name, array in zip(("truth", "predicted"), pairs, strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) != len(pairs[0]):
            raise InputError(f"{name}: wanted {len(pairs[0])} class numbers, found {array.dtype} {array.shape}")
        if len(array) and not 0 <= array.min() <= array.max() < classes:
            raise InputError(f"{name}: wanted classes from 0 to {classes - 1}, found {array.min()} to {array.max()}")
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, tuple(array.astype(np.int64) for array in pairs), 1)
    return counts


@drawn
def confusion_matrix(
    truth: Sequence[int],
    predicted: Sequence[int],
    names: Sequence[str],
    normalize: bool = True,
    title: str | None = None,
) -> Figure:
    """True classes as rows, predicted ones as columns.

    Args:
        truth, predicted: int [N], numbers into `names`.
        names: C class names. Beyond 24 classes no numbers are written, beyond 60 no names.
        normalize: percent of the true class (default), or counts.

    Raises InputError.
    """
    from matplotlib.ticker import MaxNLocator

    if not len(names):
        raise InputError("names: wanted at least one class, found none")
    counts = confusion_counts(truth, predicted, len(names))
    totals = counts.sum(1, keepdims=True)
    values = 100 * counts / np.maximum(totals, 1) if normalize else counts.astype(float)
    cell = min(0.42, 7 / len(names))
    with_names, with_numbers = len(names) <= _NAMES_UP_TO, len(names) <= _NUMBERS_UP_TO
    labels = [plain(name, 28) for name in names] if with_names else []
    border = 0.062 * max(map(len, labels), default=0) + 0.5
    figure = new_figure(cell * len(names) + border + 0.6, cell * len(names) + border + 0.2 * bool(title), title)
    axes = figure.subplots()
    cells = axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=100 if normalize else max(values.max(), 1))
    if with_numbers:
        _write_numbers(axes, cells, values, ".0f", 6, zeros=False)
    _class_ticks(axes, labels, cell)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set(visible=True, color=FAINT)
    bar = figure.colorbar(cells, ax=axes, shrink=0.8, pad=0.02, aspect=25)
    bar.set_label("% of the true class" if normalize else "pictures")
    bar.locator = MaxNLocator(5, integer=True)  # counts are integers
    bar.update_ticks()
    bar.outline.set_visible(False)
    return figure


def _class_ticks(axes: Any, labels: Sequence[str], cell: float) -> None:
    size = max(4.0, min(7.0, cell * 72 * 0.8))
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.tick_params(length=0)


def _matrix(given: Any, name: str, shape: tuple[int, int]) -> np.ndarray:
    array = np.asarray(given, np.float64)
    if array.shape != shape or not array.size:
        raise InputError(f"{name}: wanted numbers {shape}, at least one, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: wanted finite numbers, found NaN or infinity")
    return array
