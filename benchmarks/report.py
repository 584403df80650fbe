"""The results as tables: on the terminal for one row, as docs/benchmarks.md for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks import levels
from benchmarks.harness import Pair, Row, goal, ratio, speed

HEADER = """# Benchmarks

Made by `make bench`; `make bench ROW=name` measures one row again. Each row runs triclip and its peers in turn, in
processes of their own, on the same data, after comparing their results; ratios are taken round by round: median, and
quartiles in brackets. "x" is our speed over the peer's; where a goal is "at most", it is our time or memory over the
peer's. By CPU time, which is that of all threads, other work on the machine counts least: look at it where the load
average, told below each row, was high. A percentage is the share that a row reaches of its ceiling: its matrix products
alone, measured in turn with it (`benchmarks/products.py`). Rows are measured at the processor's own level of
instructions and, where that has AVX-512, with all newer than AVX2 hidden (`benchmarks/levels.py`). Read
`benchmarks/harness.py` for the method, `benchmarks/NAME.py` for a row, `benchmarks/results/` for every repetition.
"""


def page(rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> str:
    """The whole page: (row, level -> its result) in order."""
    lines = [HEADER]
    machines: list[Any] = []
    for _, results in rows:
        machines += [result["machine"] for result in results.values() if result["machine"] not in machines]
    lines += [f"Machine{_number(i, machines)}: {_machine(machine)}.\n" for i, machine in enumerate(machines)]
    lines += [*goal_lines(rows), ""]
    for row, results in rows:
        lines += [f"## {row.title}\n", row.about, ""]
        if not results:
            lines += ["Not measured yet.", ""]
        for level, result in results.items():
            lines += [f"### {levels.title(level, result['machine'])}\n"] if len(results) > 1 else []
            if result["checked"]:
                lines += [f"Checked before timing: {result['checked']}", ""]
            lines += [*row_lines(row, result, level), ""]
            load = ", ".join(f"{value:g}" for value in result["load"])
            where = _number(machines.index(result["machine"]), machines)
            about = f"{result['date']}; load average before: {load}{', machine' + where if where else ''}"
            lines += [f"<sub>{about}</sub>", ""]
        if row.limits:
            lines += [f"What limits it: {row.limits}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def goal_lines(rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> list[str]:
    """Every comparison that has a goal, at each level that was measured: median, and in brackets by CPU time."""
    seen = list(dict.fromkeys(level for _, results in rows for level in results))
    names = {level: next(levels.title(level, r[level]["machine"]) for _, r in rows if level in r) for level in seen}
    lines = [
        "## Goals\n",
        "In brackets: the same by CPU time, of all threads. In bold: not reached.\n",
        "| row | comparison | goal | " + " | ".join(names.values()) + " |",
    ]
    lines.append("|---|---|---|" + "---|" * len(seen))
    for row, results in rows:
        for pair in row.pairs:
            if not results or (pair.at_least is None and pair.at_most is None):
                continue
            cells = [_cell(row, pair, results.get(level), level) for level in seen]
            goal_text = " / ".join(dict.fromkeys(_goal(pair, level) for level in seen))
            lines.append(f"| {row.title} | {_pair_name(pair)} | {goal_text} | {' | '.join(cells)} |")
    return lines


def _cell(row: Row, pair: Pair, result: Mapping[str, Any] | None, level: str) -> str:
    if result is None:
        return ""
    found = ratio(row, pair, result["measured"], level)
    text, cpu = _shown(pair, found.median), _by_cpu(row, pair, result["measured"])
    return (text if found.reached else f"**{text}**") + (f" ({cpu})" if cpu else "")


def _by_cpu(row: Row, pair: Pair, measured: Mapping[str, Any]) -> str:
    """The same ratio of processor time, over all threads: what other work on the machine changes least."""
    if pair.of != "seconds" or pair.peer is None:
        return ""
    return _shown(pair, ratio(row, replace(pair, of="cpu"), measured).median)


def row_lines(row: Row, result: Mapping[str, Any], level: str = "") -> list[str]:
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
    lines += ["", "| comparison | measured | by CPU time | goal | |", "|---|---|---|---|---|"]
    for pair in row.pairs:
        found = ratio(row, pair, measured, level)
        span = f"{_shown(pair, found.median)} ({_shown(pair, found.low, '')} to {_shown(pair, found.high, '')})"
        mark = {True: "reached", False: "**not reached**", None: ""}[found.reached]
        cpu = _by_cpu(row, pair, measured)
        lines.append(f"| {_pair_name(pair)} | {span} | {cpu} | {_goal(pair, level)} | {mark} |")
    return lines


def _shown(pair: Pair, value: float, unit: str | None = None) -> str:
    if pair.share:
        return f"{100 * value:.0f}{'%' if unit is None else ''}"
    if unit is None:
        unit = "x" if pair.peer else (" s" if pair.of == "seconds" else " bytes")
    return f"{_figure(value)}{unit}"


def _pair_name(pair: Pair) -> str:
    what = {"seconds": "", "peak": ", peak memory"}[pair.of]
    if pair.peer is None:
        return f"{pair.ours}{what}"
    if pair.at_most is not None and pair.of == "seconds":
        what = ", time"
    return f"{pair.ours} : {pair.peer}{what}"


def _goal(pair: Pair, level: str = "") -> str:
    if (least := goal(pair, level)) is not None:
        return f"at least {_shown(pair, least)}" if pair.share else f"at least {least:g}x"
    if pair.at_most is None:
        return ""
    return f"at most {pair.at_most:g}{'x' if pair.peer else ' s'}"


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _machine(facts: Mapping[str, Any]) -> str:
    features = ", ".join(facts["features"])
    hidden = {"all": ", newer instructions hidden", "some": ", newer instructions hidden from most libraries"}
    return (
        f"{facts['cpu']}, {facts['cores']} cores ({features}{hidden.get(facts['emulated'], '')}), "
        f"PyTorch's capability {facts['capability']}, {facts['memory_gib']} GiB, {facts['system']}, "
        f"Python {facts['python']}"
    )


def _number(index: int, machines: Sequence[Any]) -> str:
    return f" {index + 1}" if len(machines) > 1 else ""
