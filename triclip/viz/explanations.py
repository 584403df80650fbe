"""Figures of explanations: relevance over the picture and beside the words; see `triclip.explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import InputError

from ..explain import Explanation
from .style import PALETTE, bare, drawn, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAT = "inferno"
_WORDS = 1.25  # width of a panel of words relative to a picture's
_GREY = 0.45  # how much the picture under the heat map fades to white


@drawn
def explanations(found: Explanation | Sequence[Explanation], title: str | None = None) -> Figure:
    """A row for each explanation: the picture as the model saw it, its patches' scores over it, its words' scores.

    Heat is relative to the highest patch of its picture, bars to the highest word of its text. Raises InputError.
    """
    rows = [found] if isinstance(found, Explanation) else list(found)
    if not rows:
        raise InputError("explanations: wanted at least one, found none")
    figure = new_figure(5.6, 1.75 * len(rows) + (0.3 if title else 0.05), title)
    grid = figure.subplots(len(rows), 3, squeeze=False, width_ratios=[1, 1, _WORDS])
    for row, one in zip(grid, rows, strict=True):
        row[0].imshow(one.picture)
        row[1].imshow(overlay(one))
        for axes, label in zip(row, (f"similarity {one.similarity:.2f}", one.method), strict=False):
            axes.set_title(label, fontsize=7, pad=3)
            bare(axes)
        _words(row[2], one)
    return figure


def overlay(one: Explanation) -> np.ndarray:
    """float [height, width, 3] from 0 to 1: the faded picture under the heat map of its patches."""
    from matplotlib import colormaps
    from PIL import Image

    height, width = one.picture.shape[:2]
    top = float(one.patches.max())
    shares = one.patches / top if top > 0 else one.patches
    smooth = Image.fromarray(shares.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)
    grey = one.picture.mean(2, keepdims=True).repeat(3, 2) / 255
    faded = grey + _GREY * (1 - grey)
    opacity = (0.85 * heat**0.7)[..., None]
    return (1 - opacity) * faded + opacity * colormaps[_HEAT](0.25 + 0.65 * heat)[..., :3]


def _words(axes: Any, one: Explanation) -> None:
    top = float(one.word_scores.max(initial=0.0))
    shares = one.word_scores / top if top > 0 else one.word_scores
    axes.barh(range(len(one.words)), shares, color=PALETTE[0], height=0.7)
    size = min(7.0, 100 / max(len(one.words), 1))  # published models have at most 77 tokens
    labels = [plain(word, 18) for word in one.words]
    axes.set_yticks(range(len(labels)), labels, fontsize=max(size, 3))
    axes.set(xlim=(0, 1.05), ylim=(max(len(labels), 4) - 0.4, -0.6), xticks=[])
    axes.tick_params(length=0)
    axes.spines[["bottom"]].set_visible(False)
    axes.set_title("words", fontsize=7, pad=3)
    axes.set_box_aspect(1 / _WORDS)  # as high as the pictures
