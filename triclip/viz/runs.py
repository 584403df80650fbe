"""Figures of training runs: curves and bars."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import DataError, InputError

from .style import PALETTE, drawn, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "loss": "loss",
    "logit_scale": "logit scale",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "images_per_second": "images per second",
}
_SMOOTHED_FROM = 50  # points; fewer are drawn without smoothing
_STYLES = ("-", "--", "-.", ":")
Run = Sequence[Mapping[str, Any]] | str | os.PathLike


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a run from metrics.jsonl or its folder, without a truncated last line.

    Raises FileNotFoundError, or DataError naming the file and the invalid line.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of metrics")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # of a run that is still going, or was killed
                break
            raise DataError(f"{path}, line {number}: wanted a JSON object: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DataError(f"{path}, line {number}: wanted an object with a step, found {line[:80]!r}")
        records.append(record)
    return records


@drawn
def loss_curves(
    runs: Mapping[str, Run] | Run, metrics: Iterable[str] | None = None, title: str | None = None
) -> Figure:
    """The metrics of one run or several over the steps, with one panel for each metric.

    Args:
        runs: name -> the records of a run, its metrics.jsonl or its folder; or a single one.
        metrics: keys of the records; default loss, logit_scale, grad_norm, lr and images_per_second, if present.

    From 50 points on, the loss is drawn faintly with its running mean over 1/25 of the run. Raises InputError if there
    is nothing to draw, and the errors of `read_metrics`.
    """
    named = runs if isinstance(runs, Mapping) else {"": runs}
    read = {name: read_metrics(run) if isinstance(run, str | os.PathLike) else list(run) for name, run in named.items()}
    wanted = list(_TITLES if metrics is None else metrics)
    shown = [key for key in wanted if any(series(records, key)[0].size for records in read.values())]
    if not shown:
        raise InputError(f"loss_curves: found none of {', '.join(wanted)} in {len(read)} runs")
    if len(read) > len(PALETTE) * len(_STYLES):
        raise InputError(f"loss_curves: wanted at most {len(PALETTE) * len(_STYLES)} runs, found {len(read)}")
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    legend = 0.3 if len(read) > 1 else 0
    figure = new_figure(2.4 * columns + 0.2, 1.9 * rows + legend + (0.3 if title else 0), title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for key, axes in zip(shown, grid, strict=False):
        for number, (name, records) in enumerate(read.items()):
            # Both vary between runs, so that overlapping curves are distinguishable, also in print.
            colour, line = PALETTE[number % len(PALETTE)], _STYLES[number % len(_STYLES)]
            _curve(axes, *series(records, key), color=colour, linestyle=line, label=plain(name), smooth=key == "loss")
        axes.set(xlabel="step", title=plain(_TITLES.get(key, key)))
        axes.grid(True)
        axes.ticklabel_format(axis="y", scilimits=(-2, 5), useMathText=True)  # room for a power of ten above the axis
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    if legend:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4))
    return figure


def series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records with a number for the key; NaN and infinity leave a gap."""
    pairs = [(record["step"], record[key]) for record in records if _is_number(record.get(key))]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` values, without those that are not numbers."""
    known = np.isfinite(values)
    totals, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(known, values, 0), known))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    with np.errstate(invalid="ignore"):
        return (totals[ends] - totals[starts]) / (counts[ends] - counts[starts])


def _curve(axes: Any, steps: np.ndarray, values: np.ndarray, smooth: bool, label: str, **style: Any) -> None:
    if smooth and len(steps) >= _SMOOTHED_FROM:
        axes.plot(steps, values, **{**style, "linewidth": 0.6, "alpha": 0.35, "linestyle": "-"})
        values = running_mean(values, len(values) // 25)
    axes.plot(steps, values, label=label, marker="." if len(steps) < 2 else "", **style)


@drawn
def recall_bars(results: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Figure:
    """Retrieval figures side by side, in percent.

    `results`: name -> the result of `triclip.metrics.retrieval` ({"image_to_text": {"R@1": …}, "text_to_image": …}), or
    {"R@1": …, "MRR": …}, as shares from 0 to 1. All need the same keys. Raises InputError.
    """
    panels = _panels(results)
    figure = new_figure(3.1 * len(panels) + 0.2, 2.5 + 0.3 * bool(title), title)
    for (side, keys), axes in zip(panels.items(), figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        width = 0.8 / len(results)
        for number, (name, result) in enumerate(results.items()):
            values = [100 * float((result[side] if side else result)[key]) for key in keys]
            places = np.arange(len(keys)) + (number - (len(results) - 1) / 2) * width
            bars = axes.bar(places, values, width * 0.92, color=PALETTE[number], label=plain(name))
            axes.bar_label(bars, fmt=_percent, fontsize=5.5 if len(results) > 2 else 6.5, padding=1)
        axes.set_xticks(range(len(keys)), [plain(key) for key in keys])
        axes.tick_params(axis="x", length=0)
        axes.set(ylim=(0, 109), yticks=range(0, 101, 20), ylabel="%" if axes is figure.axes[0] else "")
        axes.set_title(side.replace("_", " "))
    if len(results) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        columns = min(len(names), 4 if len(panels) > 1 else 2)  # as many as fit below
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
    return figure


def _percent(value: float) -> str:
    """A percentage with fewer digits for large values, so that neighbours don't touch."""
    return f"{value:.1f}" if value < 99.95 else "100"


def _panels(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """side -> keys; the side is "" for results without sides. Counts of pictures and texts are left out."""
    if not 1 <= len(results) <= len(PALETTE):
        raise InputError(f"recall_bars: wanted 1 to {len(PALETTE)} results, found {len(results)}")
    found = []
    for result in results.values():
        sides = {side: list(values) for side, values in result.items() if isinstance(values, Mapping)}
        found.append(sides or {"": [key for key, value in result.items() if isinstance(value, float)]})
    for name, result in results.items():
        for side, keys in found[0].items():
            values: list[Any] = [(result.get(side, {}) if side else result).get(key) for key in keys]
            if not all(_is_number(value) and 0 <= value <= 1 for value in values):
                raise InputError(f"recall_bars: {name!r}: wanted shares for {', '.join(keys)}, found {result!r}")
    if not all(found[0].values()):
        raise InputError(f"recall_bars: wanted shares such as R@1, found {next(iter(results.values()))!r}")
    return found[0]
