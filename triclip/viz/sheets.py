"""Sheets of pictures with the results of a search or a classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import InputError

from .style import FAINT, PALETTE, RIGHT, WRONG, bare, drawn, new_figure, plain, show_picture, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 0.95  # inches of a picture
_QUERY = 1.35  # of a query, in pictures
_LARGEST = 40  # rows of a sheet


@drawn
def retrieval_sheet(
    queries: Sequence[Any],
    results: Sequence[Sequence[Any]],
    scores: Sequence[Sequence[float]],
    right: Sequence[Sequence[bool]] | None = None,
    title: str | None = None,
) -> Figure:
    """A row for each query: the query, then its results, best first, with their scores.

    Args:
        queries: Q texts (str), or pictures: paths (Path), Pillow images or arrays. At most 40.
        results: for each query K texts or pictures, of the same types.
        scores: for each query K numbers.
        right: for each query K times whether the result is right, shown by frames and marks. Default: unknown.

    Raises InputError, and ImageError for an unreadable picture.
    """
    if not 1 <= len(queries) <= _LARGEST or len({len(queries), len(results), len(scores)}) > 1:
        found = f"{len(queries)} queries, {len(results)} results, {len(scores)} scores"
        raise InputError(f"retrieval_sheet: wanted 1 to {_LARGEST} queries and as many results, found {found}")
    for row, (found_here, values) in enumerate(zip(results, scores, strict=True)):
        if len(found_here) != len(values) or right is not None and len(right[row]) != len(values):
            raise InputError(f"retrieval_sheet: query {row}: wanted one score (and truth) for each of its results")
    columns = 1 + max(1, max(map(len, results)))
    figure = new_figure(columns * _SIDE * 1.12 + 0.35, len(queries) * _SIDE * 1.3 + (0.3 if title else 0.05), title)
    grid = figure.subplots(len(queries), columns, squeeze=False, width_ratios=[_QUERY] + [1] * (columns - 1))
    for row, query in enumerate(queries):
        _fill(grid[row, 0], query, PALETTE[-1], 0.6, "query" if row == 0 else "")
        for column in range(1, columns):
            axes = grid[row, column]
            if column > len(results[row]):
                axes.set_axis_off()
                continue
            truth = None if right is None else bool(right[row][column - 1])
            colour = FAINT if truth is None else RIGHT if truth else WRONG
            mark = "" if truth is None else " ✓" if truth else " ✗"
            label = f"{scores[row][column - 1]:.3f}{mark}"
            _fill(axes, results[row][column - 1], colour, 0.6 if truth is None else 2.2, label)
    return figure


@drawn
def search_sheet(
    query: Any,
    results: Sequence[Any],
    scores: Sequence[float],
    names: Sequence[str] | None = None,
    columns: int = 6,
    title: str | None = None,
) -> Figure:
    """One query and what was found, in as many rows as it takes, best first, with scores and names.

    Args:
        query: a text (str), or a picture as in `retrieval_sheet`.
        results, scores: K texts or pictures, and numbers. names: K strings, written below; default those of paths.
        columns: results in a row.

    Raises InputError, and ImageError for a picture that can't be read.
    """
    if len(results) != len(scores) or names is not None and len(names) != len(results):
        found = f"{len(results)} results, {len(scores)} scores, {'no' if names is None else len(names)} names"
        raise InputError(f"search_sheet: wanted one score and one name for each result, found {found}")
    rows = max(1, -(-len(results) // columns))
    if rows > _LARGEST:
        raise InputError(f"search_sheet: wanted at most {_LARGEST * columns} results, found {len(results)}")
    wide = 1 + min(columns, max(1, len(results)))
    figure = new_figure(wide * _SIDE * 1.12 + 0.35, rows * _SIDE * 1.45 + (0.3 if title else 0.05), title)
    grid = figure.subplots(rows, wide, squeeze=False, width_ratios=[_QUERY] + [1] * (wide - 1))
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].set_axis_on()
    _fill(grid[0, 0], query, PALETTE[-1], 0.6, "query")
    for number, (found_one, score) in enumerate(zip(results, scores, strict=True)):
        axes = grid[number // columns, 1 + number % columns]
        axes.set_axis_on()
        _fill(axes, found_one, FAINT, 0.6, f"{score:.3f}")
        name = names[number] if names is not None else found_one.stem if isinstance(found_one, PurePath) else ""
        axes.set_xlabel(plain(name, 20), fontsize=5.5, labelpad=2)
    return figure


def _fill(axes: Any, content: Any, frame: str, width: float, label: str) -> None:
    if isinstance(content, str):
        axes.text(0.5, 0.5, wrapped(content, 17, 6), ha="center", va="center", transform=axes.transAxes, fontsize=7)
        axes.set_box_aspect(1 if width > 1 or label not in ("", "query") else 1 / _QUERY)
        bare(axes, frame if width > 1 else FAINT, width)
    else:
        show_picture(axes, content, frame, width)
    axes.set_title(label, fontsize=7, pad=3)


@drawn
def predictions(
    pictures: Sequence[Any],
    ranked: Sequence[Sequence[tuple[str, float]]],
    truth: Sequence[str] | None = None,
    top: int = 5,
    title: str | None = None,
) -> Figure:
    """Each picture with the probabilities of its most probable labels.

    Args:
        pictures: N paths, Pillow images or arrays; at most 40.
        ranked: for each picture (label, probability) pairs, best first, as from `clip.classify`.
        truth: for each picture the right label, shown in another colour.
        top: number of labels.

    Raises InputError.
    """
    count = len(pictures)
    if not 1 <= count <= _LARGEST or len(ranked) != count or truth is not None and len(truth) != count:
        raise InputError(f"predictions: wanted 1 to {_LARGEST} pictures and as many rankings, found {count}")
    blocks = 1 if count == 1 else 2
    rows = -(-count // blocks)
    figure = new_figure(3.5 * blocks, rows * 1.12 + (0.3 if title else 0.05), title)
    grid = figure.subplots(rows, 2 * blocks, squeeze=False, width_ratios=[1, 1.5] * blocks)
    for axes in grid.flat[2 * count :]:
        axes.set_axis_off()
    for i, (picture, pairs) in enumerate(zip(pictures, ranked, strict=True)):
        name = picture.stem if isinstance(picture, PurePath) else ""
        show_picture(grid[i // blocks, i % blocks * 2], picture)
        grid[i // blocks, i % blocks * 2].set_xlabel(plain(name, 22), fontsize=6, labelpad=2)
        _bars(grid[i // blocks, i % blocks * 2 + 1], pairs[:top], None if truth is None else truth[i])
    return figure


def _bars(axes: Any, pairs: Sequence[tuple[str, float]], truth: str | None) -> None:
    labels, values = [plain(label, 24) for label, _ in pairs], np.array([value for _, value in pairs])
    colours = [RIGHT if truth is None or label == truth else WRONG for label, _ in pairs]
    axes.barh(range(len(pairs)), values, color=colours, height=0.3, align="edge")
    for row, (label, value) in enumerate(zip(labels, values, strict=True)):
        # Names are above their bars, so that long ones need no space beside the plot.
        axes.text(0, row - 0.06, label, ha="left", va="bottom", fontsize=6.5)
        axes.text(1, row - 0.06, f"{value:.1%}", ha="right", va="bottom", fontsize=6.5)
    axes.set(xlim=(0, 1), ylim=(max(len(pairs), 5) - 0.55, -0.75))
    axes.set_axis_off()
