"""The results as tables: on the terminal for one row, as docs/benchmarks.md for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.harness import Pair, Row, ratio, speed

HEADER = """# Benchmarks

Made by `make bench`; `make bench ROW=name` measures one row again. Each row runs triclip and its peers in turn, in
processes of their own, on the same data, after comparing their results; ratios are taken round by round: median, and
quartiles in brackets. "x" is our speed over the peer's; where a goal is "at most", it is our time or memory over the
peer's. Read `benchmarks/harness.py` for the method, `benchmarks/NAME.py` for a row, `benchmarks/results/` for every
repetition.
"""


def page(rows: Sequence[tuple[Row, Mapping[str, Any] | None]]) -> str:
    """The whole page: (row, its result or None) in order."""
    lines = [HEADER]
    machines: list[Any] = []
    for _, result in rows:
        if result and result["machine"] not in machines:
            machines.append(result["machine"])
    lines += [f"Machine{_number(i, machines)}: {_machine(machine)}.\n" for i, machine in enumerate(machines)]
    for row, result in rows:
        lines += [f"## {row.title}\n", row.about, ""]
        if result is None:
            lines += ["Not measured yet.", ""]
            continue
        if result["checked"]:
            lines += [f"Checked before timing: {result['checked']}", ""]
        lines += [*row_lines(row, result), ""]
        if row.limits:
            lines += [f"What limits it: {row.limits}", ""]
        load = ", ".join(f"{value:g}" for value in result["load"])
        where = _number(machines.index(result["machine"]), machines)
        lines += [f"<sub>{result['date']}; load average before: {load}{', machine' + where if where else ''}</sub>", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def row_lines(row: Row, result: Mapping[str, Any]) -> list[str]:
    """A row's figures: the sides, then the comparisons."""
    measured = result["measured"]
    lines = [f"| | {row.unit} a second | seconds a run | CPU seconds | peak memory, MB |", "|---|---:|---:|---:|---:|"]
    if row.count == 1:
        lines = ["| | seconds | CPU seconds | peak memory, MB |", "|---|---:|---:|---:|"]
    for label in row.sides:
        seconds, cpu, peak = (median(measured[label][of]) for of in ("seconds", "cpu", "peak"))
        pace = "" if row.count == 1 else f"{_figure(speed(row, label, measured))} | "
        lines.append(f"| {label} | {pace}{_figure(seconds)} | {_figure(cpu)} | {peak / 1e6:.0f} |")
    if not row.pairs:
        return lines
    lines += ["", "| comparison | measured | goal | |", "|---|---|---|---|"]
    for pair in row.pairs:
        found = ratio(row, pair, measured)
        unit = "x" if pair.peer else (" s" if pair.of == "seconds" else " bytes")
        span = f"{_figure(found.median)}{unit} ({_figure(found.low)} to {_figure(found.high)})"
        mark = {True: "reached", False: "**not reached**", None: ""}[found.reached]
        lines.append(f"| {_pair_name(pair)} | {span} | {_goal(pair)} | {mark} |")
    return lines


def _pair_name(pair: Pair) -> str:
    what = {"seconds": "", "peak": ", peak memory"}[pair.of]
    if pair.peer is None:
        return f"{pair.ours}{what}"
    if pair.at_most is not None and pair.of == "seconds":
        what = ", time"
    return f"{pair.ours} : {pair.peer}{what}"


def _goal(pair: Pair) -> str:
    if pair.at_least is not None:
        return f"at least {pair.at_least:g}x"
    if pair.at_most is None:
        return ""
    return f"at most {pair.at_most:g}{'x' if pair.peer else ' s'}"


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _machine(facts: Mapping[str, Any]) -> str:
    features = ", ".join(facts["features"])
    return (
        f"{facts['cpu']}, {facts['cores']} cores ({features}), {facts['memory_gib']} GiB, {facts['system']}, "
        f"Python {facts['python']}"
    )


def _number(index: int, machines: Sequence[Any]) -> str:
    return f" {index + 1}" if len(machines) > 1 else ""
