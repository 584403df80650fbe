"""`triclip conform` as a figure: the error of every field of every backend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clip_core.errors import InputError

from ..viz.style import FAINT, INK, MARKERS, PALETTE, drawn, new_figure, plain
from .report import Report, kind_of
from .trace import tower_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOOR = 1e-9  # smaller errors and zero are drawn here: float32 has seven digits
_BACKENDS = {"torch": 0, "tf": 1, "flax": 2}  # the same colours in every figure


_TOWERS = {"vision": "vision tower", "text": "text tower", "both": "both towers", "": ""}
_TICKS = 34  # the most labels that are legible below one panel


@drawn
def draw_report(report: Report | Mapping[str, Any], title: str | None = None) -> Figure:
    """A panel for each tower: fields in the order of computation, the relative error of each backend (logarithmic), and
    the tolerance. Larger errors are ringed; infinite ones (another shape, NaN) are at the upper edge.

    `report`: from `triclip.conform.conform`, or the JSON of `triclip conform --json`. Raises InputError for anything
    else.
    """
    about = report.to_dict() if isinstance(report, Report) else report
    rows = _rows(about)
    towers = {name: [row for row in rows if _tower(row["field"], rows) == name] for name in _TOWERS}
    panels = {name: found for name, found in towers.items() if found}
    lengths = [len({row["field"] for row in found}) for found in panels.values()]
    widths = [max(1.1, 0.135 * count) for count in lengths]
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    title = title or f"{about['checkpoint']}: {', '.join(backends)} against {about['against']} ({about['dtype']})"
    figure = new_figure(max(sum(widths) + 0.9, 4.5), 3.6, title)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    top = 10 * max(row["tolerance"] for row in rows)
    top = max([top, *(2 * row["error"] for row in rows if row["error"] is not None)])
    for (tower, found), axes in zip(panels.items(), grid, strict=True):
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", which="both", length=3 if axes is grid[0] else 0)
        _panel(axes, found, backends, top)
        axes.set_title(_TOWERS[tower])
    grid[0].set(yscale="log", ylim=(_FLOOR / 2, top * 3), ylabel="relative error")
    lowest, highest = round(math.log10(_FLOOR)), math.floor(math.log10(top * 3))
    powers = range(lowest, highest + 1, -(-(highest - lowest) // 7))
    # The default labels of a logarithmic scale are formulas, which need another font.
    grid[0].set_yticks([10.0**power for power in powers], [_power(10.0**power) for power in powers])
    grid[0].yaxis.minorticks_off()
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _tower(field: str, rows: list[Mapping[str, Any]]) -> str:
    """The panel of a field; a full model's mask and positions belong to the text tower."""
    of_a_full_model = any(tower_of(row["field"]) == "text" for row in rows)
    return tower_of(field) or ("text" if of_a_full_model else "")


def _panel(axes: Any, rows: list[Mapping[str, Any]], backends: list[str], top: float) -> None:
    fields = list(dict.fromkeys(row["field"] for row in rows))
    for backend in backends:
        here = {row["field"]: row for row in rows if row["backend"] == backend}
        places = [i for i, field in enumerate(fields) if field in here]
        values = [_height(here[fields[i]]["error"], top) for i in places]
        number = _BACKENDS.get(backend, len(_BACKENDS))
        style = {"color": PALETTE[number], "marker": MARKERS[number], "markersize": 3, "linewidth": 0.8}
        axes.plot(places, values, label=backend, **style)
        broken = [(i, value) for i, value in zip(places, values, strict=True) if not here[fields[i]]["ok"]]
        if broken:
            axes.plot(*zip(*broken, strict=True), "o", color=INK, fillstyle="none", markersize=8, linestyle="")
    bounds = [max(row["tolerance"] for row in rows if row["field"] == field) for field in fields]
    edges = [i - 0.5 for i in range(len(fields) + 1)]
    axes.stairs(bounds, edges, baseline=None, color=INK, linestyle="--", linewidth=0.8, label="tolerance")
    axes.grid(True, axis="y", color=FAINT)
    step = -(-len(fields) // _TICKS)
    axes.set_xticks(range(0, len(fields), step), [_short(field) for field in fields[::step]], rotation=90, fontsize=6)
    axes.set_xlim(-0.7, len(fields) - 0.3)


def _power(value: float) -> str:
    text = "1" if value == 1 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"≤{text}" if value <= _FLOOR * 1.001 else text


def _height(error: float | None, top: float) -> float:
    return top if error is None or not math.isfinite(error) else max(error, _FLOOR)


def _short(field: str) -> str:
    """A field without its tower, which the panel names: "hidden_states.3" -> "hidden 3"."""
    name = field.rpartition("_model_output.")[2]
    return plain(f"{kind_of(name).replace('hidden_states', 'hidden')} {name[len(kind_of(name)) + 1 :]}", 24)


def _rows(about: Any) -> list[Mapping[str, Any]]:
    wanted = {"field", "backend", "error", "tolerance", "ok"}
    rows = about.get("rows") if isinstance(about, Mapping) else None
    if not rows or not all(isinstance(row, Mapping) and wanted <= set(row) for row in rows):
        raise InputError("draw_report: wanted a report, or its JSON with rows, found something else")
    if missing := {"checkpoint", "against", "dtype"} - set(about):
        raise InputError(f"draw_report: the report lacks {', '.join(sorted(missing))}")
    return list(rows)
