"""The result of `conform`, as a table, JSON, and an HTML page."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Row:
    """The comparison of one field of one backend."""

    field: str
    layer: str
    backend: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


@dataclass
class Break:
    """The first deviating field of a backend's tower, and its causes if found."""

    tower: str
    field: str
    layer: str
    backend: str
    error: float
    tolerance: float
    causes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        where = f"{self.tower} tower: " if self.tower in ("text", "vision") else ""
        why = "; ".join(self.causes) or "no known cause makes the numbers agree"
        return f"{where}{self.backend} parts at {self.field} ({self.layer}), {self.error:.1e}. Likely cause: {why}"


@dataclass
class Report:
    """The result of `conform`.

    Attributes:
        checkpoint: its folder or file.
        scope: "full", "text", "text_projection", "vision" or "vision_projection".
        against: the other side of the comparison: a reference, or the first backend.
        backends: those that ran.
        dtype: of the weights and the computation.
        rows: every field of every compared backend, in the order of computation.
        breaks: at most one per tower and backend.
        inputs: name -> shape.
        notes: assumptions.
    """

    checkpoint: str
    scope: str
    against: str
    backends: list[str]
    dtype: str
    rows: list[Row]
    breaks: list[Break]
    inputs: dict[str, list[int]]
    notes: list[str]

    @property
    def ok(self) -> bool:
        return not self.breaks

    @property
    def worst(self) -> Row:
        """The row with the largest error in terms of its tolerance."""
        return max(self.rows, key=lambda row: row.error / row.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON. Infinite errors (another shape, NaN) are written as null."""
        rows = [{**asdict(row), "ok": row.ok, "error": finite(row.error)} for row in self.rows]
        breaks = [{**asdict(one), "error": finite(one.error)} for one in self.breaks]
        return {**asdict(self), "ok": self.ok, "rows": rows, "breaks": breaks}

    def summary(self) -> list[tuple[str, Row]]:
        """Per backend, the worst row of each kind of field."""
        out: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = row.backend, kind_of(row.field)
            if key not in out or row.error > out[key].error:
                out[key] = row
        return [(kind, row) for (_, kind), row in out.items()]

    def table(self, every_row: bool = False) -> str:
        """Text for a terminal: the worst row of each kind of field, or every row."""
        rows = [(row.field, row) for row in self.rows] if every_row else self.summary()
        lines = [("field", "backend", "worst at", "relative error", "tolerance", "")]
        for name, row in rows:
            mark = "ok" if row.ok else "BREAK"
            lines.append((name, row.backend, row.layer, f"{row.error:.1e}", f"{row.tolerance:.0e}", mark))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        title = f"{self.checkpoint}: {', '.join(self.backends)} against {self.against} ({self.dtype})"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([title, *notes, *text, *map(str, self.breaks), self.verdict()])

    def verdict(self) -> str:
        if self.ok:
            return f"all agree: worst relative error {self.worst.error:.1e} ({self.worst.field}, {self.worst.backend})"
        return f"{len(self.breaks)} break{'s' if len(self.breaks) > 1 else ''}"

    def to_html(self) -> str:
        """A self-contained HTML page."""
        cells = []
        for row in self.rows:
            share = min(100.0, 100 * row.error / row.tolerance)
            names = "".join(f"<td>{html.escape(text)}</td>" for text in (row.field, row.layer, row.backend))
            bar = f'<div class="bar"><i style="width:{share:.0f}%"></i></div>'
            figures = f"<td>{row.error:.1e}</td><td>{row.tolerance:.0e}</td><td>{bar}</td>"
            cells.append(f'<tr class="{"ok" if row.ok else "broken"}">{names}{figures}</tr>')
        found = "".join(f"<li>{html.escape(str(one))}</li>" for one in self.breaks)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        given = ", ".join(f"{name} {tuple(shape)}" for name, shape in self.inputs.items())
        return _PAGE.format(
            title=html.escape(self.checkpoint),
            state="ok" if self.ok else "broken",
            verdict=html.escape(self.verdict()),
            backends=html.escape(f"{', '.join(self.backends)} against {self.against}, {self.dtype}; inputs: {given}"),
            breaks=f"<ul>{found}</ul>" if found else "",
            notes=f"<ul>{notes}</ul>" if notes else "",
            rows="\n".join(cells),
        )


def finite(value: float) -> float | None:
    return value if value < float("inf") else None


def kind_of(name: str) -> str:
    """A field's name without the number of its layer."""
    head, _, last = name.rpartition(".")
    return head if last.isdigit() else name


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>conform: {title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.3rem }} .ok strong {{ color: #1a7f37 }} .broken strong, tr.broken td {{ color: #b3261e }}
table {{ border-collapse: collapse; width: 100% }} td, th {{ text-align: left; padding: .2rem .6rem .2rem 0 }}
tr {{ border-bottom: 1px solid #eee }} .bar {{ background: #eee; width: 8rem; height: .6rem }}
.bar i {{ display: block; height: 100%; background: #1a7f37 }} tr.broken .bar i {{ background: #b3261e }}
</style></head><body>
<h1>{title}</h1>
<p class="{state}"><strong>{verdict}</strong></p>
<p>{backends}</p>{notes}{breaks}
<table><thead><tr><th>field</th><th>layer</th><th>backend</th><th>relative error</th><th>tolerance</th>
<th>share of the tolerance</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
